"""examples/c_program: the program takes the steps of its scheme, and its recipes train through it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from compiled import compile_example

from deepzero_sim import ExecutableSolver, ExitCodeError
from deepzero_sim.cli.main import main
from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import trajectories
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.stepping import checked_step
from deepzero_sim.training.checkpoints import load_checkpoint

EXAMPLE = Path(__file__).parents[2] / "examples" / "c_program"
DT = 0.25


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Compile the program where the recipes look for it, in the current folder."""
    compile_example(EXAMPLE, "kuramoto", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def solver() -> ExecutableSolver:
    made = build_solver(Component(**yaml.safe_load((EXAMPLE / "solver.yaml").read_text())["solver"]))
    assert isinstance(made, ExecutableSolver)
    return made


def step(states: Array, lengths: Array, substeps: int) -> Array:
    """Compute the scheme once more, with matrices."""
    cells, h, advanced = states.shape[-1], DT / substeps, []
    for state, length in zip(states[:, 0], lengths[:, 0], strict=True):
        dx, u, one = length / cells, state, np.eye(cells)
        d2 = (np.roll(one, 1, 0) + np.roll(one, -1, 0) - 2 * one) / dx**2
        for _ in range(substeps):
            flux = ((u + np.roll(u, -1)) / 2) ** 2 / 2
            u = np.linalg.solve(one + h * d2 + h * d2 @ d2, u - h * (flux - np.roll(flux, 1)) / dx)
        advanced.append(u)
    return np.stack(advanced)[:, None]


@pytest.mark.parametrize(("cells", "substeps"), [(48, 1), (47, 1), (96, 4)])
def test_a_step_is_that_of_the_scheme(folder: Path, cells: int, substeps: int) -> None:
    states, lengths = np.random.default_rng(0).normal(size=(3, 1, cells)), np.array([[20.0], [31.0], [40.0]])
    states.tofile("states")
    lengths.tofile("lengths")
    words = [str(cells), str(substeps), "states", "lengths", "next"]
    subprocess.run([str(folder / "runs/c_program/kuramoto"), *words], check=True)
    found = np.fromfile("next").reshape(states.shape)
    np.testing.assert_allclose(found, step(states, lengths, substeps), rtol=1e-9, atol=1e-11)


def test_as_a_solver(folder: Path) -> None:
    states, lengths = np.random.default_rng(0).normal(size=(2, 1, 48)), np.array([[22.0], [30.0]])
    np.testing.assert_allclose(checked_step(solver(), states, lengths), step(states, lengths, 1), rtol=1e-9, atol=1e-11)
    with pytest.raises(ExitCodeError, match="a state left the finite numbers"):
        checked_step(solver(), 1e200 * states, lengths)
    with pytest.raises(ExitCodeError, match="a length must be positive"):
        checked_step(solver(), states, -lengths)


@pytest.mark.slow
def test_the_recipes_train_through_it(folder: Path) -> None:
    recipe = Path("examples/c_program")
    few = ["--simulations.steps", "10", "--simulations.discard", "2", "--workers.backend", "serial"]
    short = folder / "data.yaml"
    said = yaml.safe_load((recipe / "data.yaml").read_text())
    for file in said["files"]:
        file["params"] = file["params"][:2]
    short.write_text(yaml.safe_dump(said))
    assert main(["generate", "--config", str(short), *few]) == 0
    data = trajectories.load(Path("data/ring_train.h5"), solver().spec)
    assert data.frames.shape == (2, 9, 1, 48) and np.ptp(data.frames) > 0.1
    quick = ["--updates", "2", "--tensorboard", "false"]
    for name in ("non", "detached", "solver_layer"):
        unroll = [] if name == "non" else ["--unroll", "3"]
        files = ["--config", str(recipe / "solver.yaml"), "--config", str(recipe / f"{name}.yaml")]
        assert main(["train", *files, *quick, *unroll]) == 0
    steps = load_checkpoint(Path("runs/c_program/SolverLayer")).state["progress"]["solver_steps"]
    assert steps > load_checkpoint(Path("runs/c_program/DETACHED")).state["progress"]["solver_steps"] == 2 * 8 * 2
    assert main(["evaluate", "--run", "runs/c_program/SolverLayer", "--data", "data/ring_test.h5", "--steps", "4"]) == 0


def test_the_data_are_made_by_the_solver_of_the_recipes() -> None:
    source = yaml.safe_load((EXAMPLE / "data.yaml").read_text())["simulations"]["source"]
    assert yaml.safe_load((EXAMPLE / "solver.yaml").read_text())["solver"] == source
