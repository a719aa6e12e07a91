"""Tests of every example of a third-party solver: the contract, and a recipe in short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import yaml

import deepzero_sim as dz
from deepzero_sim.cli.main import main
from deepzero_sim.common.components import Component, load
from deepzero_sim.common.types import Array
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.stepping import checked_step

ROOT = Path(__file__).parents[2]


class Example:
    """An example's folder: its recipes, the solvers they name, and states to try them on."""

    def __init__(self, folder: str) -> None:
        self.folder = ROOT / "examples" / folder
        self.recipe: dict[str, Any] = yaml.safe_load((self.folder / "data.yaml").read_text())
        self.params = np.array(self.recipe["files"][0]["params"])

    def settings(self, which: str = "source") -> dict[str, Any]:
        """Look up a solver's name and args in the recipe."""
        found: dict[str, Any] = self.recipe["simulations"][which]
        return found

    def solver(self, which: str = "source", **changed: Any) -> dz.Solver:
        """Make a new one, as the recipe does but for some args."""
        named = self.settings(which)
        return build_solver(Component(named["name"], named.get("args", {}) | changed))

    def states(self, which: str = "source", batch: int = 2) -> tuple[Array, Array]:
        """Make initial states of a solver's grid and their parameters."""
        spec, initial = self.solver(which).spec, load(self.recipe["simulations"]["initial"])
        params = self.params[:batch]
        return np.concatenate([initial(spec, row[None]) for row in params]), params


def keeps_the_contract(example: Example) -> None:
    """Shape, determinism, one state or several a call, and the same bits from parts that are reused as from new ones."""
    solver = example.solver()
    states, params = example.states()
    together = checked_step(solver, states, params)
    assert np.abs(together - states).max() > 1e-3  # it does something
    np.testing.assert_array_equal(together, checked_step(solver, states, params))
    for place in range(len(states)):
        alone = checked_step(example.solver(), states[place : place + 1], params[place : place + 1])
        np.testing.assert_array_equal(alone[0], together[place])
    sent = cloudpickle.loads(cloudpickle.dumps(solver))  # after it has made its parts
    np.testing.assert_array_equal(checked_step(sent, states, params), together)


def is_corrected_towards_itself(example: Example) -> None:
    """Check that the recipe's truth lies nearer to itself refined than the coarse solver does: the error is the grid's."""
    restrict, spec = load(example.recipe["simulations"]["restrict"]), example.solver().spec
    (states, params), reference = example.states("reference", batch=1), example.solver("reference")
    start = restrict(states, spec)
    fine = restrict(checked_step(reference, states, params), spec)
    coarse = checked_step(example.solver(), start, params)
    assert 0 < np.abs(coarse - fine).mean() < 0.5 * np.abs(fine - start).mean()


def runs_in_short(example: Example, tmp_path: Path) -> None:
    """`generate`, two updates of each recipe and `evaluate`, on three frames."""
    recipe = {**example.recipe, "workers": {"backend": "serial"}}
    recipe["simulations"] = {**recipe["simulations"], "steps": 3, "reference": recipe["simulations"]["source"]}
    recipe["files"] = [{"output": str(tmp_path / "data.h5"), "params": example.params[:2].tolist()}]
    _generate(recipe, tmp_path)
    for name, more in (
        ("non", []),
        ("solver_layer", ["--start", str(tmp_path / "non"), "--unroll", "2", "--vjp", DETACHED]),
    ):
        short = ["--updates", "2", "--batch_size", "1", "--workers.backend", "serial", "--tensorboard", "false"]
        where = ["--run", str(tmp_path / name), "--train_data", str(tmp_path / "data.h5")]
        assert main(["train", "--config", str(example.folder / f"{name}.yaml"), *where, *short, *more]) == 0
    assert main(["evaluate", "--run", str(tmp_path / "solver_layer"), "--data", str(tmp_path / "data.h5")]) == 0


def is_trained_through(example: Example, tmp_path: Path, params: list[list[float]], recipe: str, *more: str) -> None:
    """`generate`, `non` and a recipe that starts from it, with the reference as it is, on a few frames.

    Args:
        example: whose folder is in the current one, and whose solver is in a recipe of its own.
        tmp_path: an empty folder.
        params: of the simulations.
        recipe: its name.
        more: options of it.
    """
    data, non, ours = (tmp_path / name for name in ("train.h5", "NON", recipe))
    simulations = {**example.recipe["simulations"], "steps": 5}
    files = [{"output": str(data), "params": params}]
    _generate({**example.recipe, "simulations": simulations, "files": files}, tmp_path)
    here = f"examples/{example.folder.name}"
    shared = ["--config", f"{here}/solver.yaml", "--train_data", str(data), "--tensorboard", "false"]
    assert main(["train", "--config", f"{here}/non.yaml", *shared, "--run", str(non), "--updates", "200"]) == 0
    through = ["--run", str(ours), "--start", str(non), "--updates", "3", "--unroll", "3"]
    assert main(["train", "--config", f"{here}/{recipe}.yaml", *shared, *through, *more]) == 0
    assert main(["evaluate", "--run", str(ours), "--data", str(data), "--steps", "3"]) == 0
    method = yaml.safe_load((example.folder / f"{recipe}.yaml").read_text())["method"]
    assert f"| {method} |" in (ours / "report.md").read_text()


def _generate(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["generate", "--config", str(tmp_path / "data.yaml")]) == 0


DETACHED = '{"name": "deepzero_sim.vjp.Detached", "args": {}}'
