"""examples/closure: the program takes the steps of its scheme and of its twin, and its recipes train a network inside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from compiled import compile_example

import deepzero_sim as dz
from deepzero_sim.cli.main import main
from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import read
from deepzero_sim.common.types import Array
from deepzero_sim.solver.build import build_solver
from deepzero_sim.training.runs.trained_run import trained_loop

EXAMPLE = Path(__file__).parents[2] / "examples" / "closure"
DT, NU = 0.025, 0.005


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Compile the program where the recipes look for it, in the current folder."""
    compile_example(EXAMPLE, "burgers", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings() -> dict[str, dict[str, object]]:
    files = ("solver.yaml", "closure.yaml")
    return {key: value for name in files for key, value in yaml.safe_load((EXAMPLE / name).read_text()).items()}


def step(states: Array, eddy: Array, substeps: int) -> Array:
    """Compute the scheme once more, in another form: the mean of the change and that from where it leads."""
    dx, h = 2 * np.pi / states.shape[-1], DT / substeps

    def rate(u: Array) -> Array:
        right = np.roll(u, -1, -1)
        flux = (u * u + u * right + right * right) / 6 - (NU + (eddy + np.roll(eddy, -1, -1)) / 2) * (right - u) / dx
        return -(flux - np.roll(flux, 1, -1)) / dx

    for _ in range(substeps):
        first = rate(states)
        states = states + h * (first + rate(states + h * first)) / 2
    return states


def test_program_twin_and_scheme_agree(folder: Path) -> None:
    random = np.random.default_rng(0)
    states, eddy = random.normal(size=(5, 1, 64)), 0.3 * random.random((5, 1, 64))
    program, twin = (build_solver(read(Component, settings()[name])) for name in ("solver", "differentiable_solver"))
    expected = step(states, eddy, 2)
    for solver in (program, twin):
        np.testing.assert_allclose(solver.step(states, None, eddy), expected, rtol=1e-12, atol=1e-13)
    assert isinstance(twin, dz.DifferentiableSolver)
    with pytest.raises(dz.ExitCodeError, match="an eddy viscosity must not be negative"):
        program.step(states, None, eddy - 0.2)
    with pytest.raises(dz.ExitCodeError, match="a state left the finite numbers"):
        program.step(1e200 * states, None, eddy)
    energy = np.square(states).sum()  # the flux neither makes nor destroys it: what is left is viscosity and time steps
    assert np.square(step(1e-3 * states, 0 * eddy, 2)).sum() < 1e-6 * energy


def test_the_gradient_of_the_viscosity_is_that_of_the_twin(folder: Path) -> None:
    random = np.random.default_rng(0)
    twin = build_solver(read(Component, settings()["differentiable_solver"]))
    assert isinstance(twin, dz.DifferentiableSolver)
    layer = dz.SolverLayer(build_solver(read(Component, settings()["solver"])), dz.vjp.Coloured(radius=4))
    given = random.normal(size=(2, 1, 64)), None, 0.1 * random.random((2, 1, 64))
    for of in ("states", "inputs"):
        found = dz.check_gradient(layer, given, twin=twin, of=of)  # type: ignore[arg-type]
        assert found.cosine_min > 1 - 1e-8 and found.norm_ratio == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_recipes_train_a_closure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = yaml.safe_load((EXAMPLE / "data.yaml").read_text())
    data["simulations"]["steps"] = 20
    data["files"] = [{"output": "data/closure_train.h5", "starts": 6}]
    Path("data.yaml").write_text(yaml.safe_dump(data))
    assert main(["generate", "--config", "data.yaml"]) == 0
    assert (
        main(["check", "--config", "examples/closure/solver.yaml", "--data", "data/closure_train.h5", "--seconds", "20"]) == 0
    )
    passed = " ".join(capsys.readouterr().out.partition("pass:")[2].split())
    assert "inputs," in passed.partition(":")[0]
    files = [word for name in ("solver", "closure") for word in ("--config", f"examples/closure/{name}.yaml")]
    short = ["--updates", "20", "--unroll", "4", "--held_back", "0", "--optimiser.args.lr", "0.01"]
    for method in ("FO-SOL", "SolverLayer"):
        assert main(["train", *files, *short, "--method", method, "--run", f"runs/closure/{method}"]) == 0
        lines = [json.loads(line)["loss"] for line in Path(f"runs/closure/{method}/metrics.jsonl").read_text().splitlines()]
        assert len(lines) == 20 and np.mean(lines[-5:]) < np.mean(lines[:5])
    one, other = (trained_loop(Path(f"runs/closure/{method}")).corrector for method in ("FO-SOL", "SolverLayer"))
    states = torch.randn(3, 1, 64, dtype=torch.float64)
    outputs = torch.stack([network(states, None).flatten() for network in (one, other)])
    assert torch.nn.functional.cosine_similarity(*outputs, dim=0) > 0.7
