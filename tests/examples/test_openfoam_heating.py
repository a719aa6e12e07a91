"""The heated cavity: a field that an OpenFOAM case reads, where OpenFOAM is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from third_party import Example

import deepzero_sim as dz
from deepzero_sim.common.components import Component, load
from deepzero_sim.solver.build import build_solver

HERE, CAVITY = Example("openfoam_heating").folder, Example("openfoam").folder

pytestmark = pytest.mark.skipif(
    shutil.which("buoyantBoussinesqPimpleFoam") is None or shutil.which("blockMesh") is None,
    reason="OpenFOAM is not installed: apt-get install openfoam",
)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root with both examples and the mesh, the current folder."""
    for example in (HERE, CAVITY):
        shutil.copytree(example, tmp_path / "examples" / example.name, ignore=shutil.ignore_patterns("polyMesh"))
    made = ["blockMesh", "-case", str(tmp_path / "examples" / "openfoam" / "coarse")]
    subprocess.run(made, env={**os.environ, "WM_PROJECT_DIR": "/usr/share/openfoam"}, check=True, capture_output=True)
    monkeypatch.chdir(tmp_path)


def solver(folder: str) -> dz.Solver:
    settings = yaml.safe_load(Path("examples", folder, "solver.yaml").read_text(encoding="utf-8"))
    return build_solver(Component(**settings["solver"]))


def test_a_fluid_at_rest_temperature_takes_icofoams_step_and_a_warm_one_rises() -> None:
    heated, params = solver("openfoam_heating"), np.array([[1.0, 0.002]], np.float32)
    states = load("examples/openfoam/cavity.py:initial")(heated.spec, params)
    rest = np.full((1, 1, 16, 16), 300, np.float32)
    calm = heated.step(states, params, rest)  # type: ignore[call-arg]
    assert np.abs(calm - solver("openfoam").step(states, params)).mean() < 0.05 * np.abs(calm - states).mean()
    rest[:, :, 6:10, 6:10] += 10
    moved = heated.step(states, params, rest) - calm  # type: ignore[call-arg]
    lift = 0.04 * 0.003 * 9.81 * 10
    assert 0.3 * lift < moved[0, 1, 7:9, 7:9].mean() < lift


def test_data_are_made_with_the_true_temperature_which_the_field_can_be() -> None:
    module = "examples/openfoam_heating/heating.py"
    params = np.array([[0.7, 0.003]], np.float32)
    made_by = load(f"{module}:Heated")()
    states = load("examples/openfoam/cavity.py:initial")(made_by.spec, params)
    true = load(f"{module}:heating")(16)
    network = load(f"{module}:Field")(solver("openfoam_heating").spec)
    loop = dz.SolverLoop(solver("openfoam_heating"), network, unroll=1, coupling="inside")
    expected = made_by.step(states, params)
    assert not np.allclose(loop.rollout(states, params).detach()[:, 0], expected, atol=1e-4)
    with torch.no_grad():
        network.w[:] = torch.from_numpy(true - 300) / 10
    assert np.allclose(loop.rollout(states, params).detach()[:, 0], expected, atol=1e-6)
