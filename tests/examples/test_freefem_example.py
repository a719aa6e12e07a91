"""The FreeFEM example: a finite element program as it is, through files, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy.special import j0, jn_zeros
from third_party import Example, is_trained_through

import deepzero_sim as dz
from deepzero_sim.common.components import load
from deepzero_sim.errors import ExitCodeError
from deepzero_sim.solver.stepping import checked_step

EXAMPLE = Example("freefem")
HERE = EXAMPLE.folder

pytestmark = pytest.mark.skipif(shutil.which("FreeFem++") is None, reason="FreeFEM is not installed: apt-get install freefem++")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the example in it, where meshes may be made."""
    folder = tmp_path_factory.mktemp("root")
    example = folder / "examples" / "freefem"
    shutil.copytree(HERE, example, ignore=shutil.ignore_patterns("*.msh"))
    made = ["FreeFem++", "-nw", "-v", "0", "meshes.edp"]
    subprocess.run(made, cwd=example, check=True, capture_output=True)
    return folder


@pytest.fixture(autouse=True)
def within(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Paths in the recipes start at the root; working folders are the test's own."""
    monkeypatch.chdir(root)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def solver(which: str = "source", **changed: Any) -> dz.Solver:
    return EXAMPLE.solver(which, **{"keep": "never", **changed})


def disk(name: str) -> Any:
    return load(f"examples/freefem/disk.py:{name}")


def row(omega: float, nu: float) -> np.ndarray:
    return np.array([[omega, nu]], dtype=np.float32)


def test_recipes_name_one_solver() -> None:
    assert yaml.safe_load((HERE / "solver.yaml").read_text())["solver"] == EXAMPLE.settings()


@pytest.mark.parametrize(("which", "name", "tolerance"), [("source", "coarse", 0.05), ("reference", "fine", 0.005)])
def test_a_mode_of_the_disk_decays_as_it_must(which: str, name: str, tolerance: float) -> None:
    points, _ = disk("mesh")(f"{name}.msh")
    zero = jn_zeros(0, 1)[0]
    mode = j0(zero * np.linalg.norm(points, axis=1)).astype(np.float32)[None, None]
    after = checked_step(solver(which), mode, row(0.0, 0.1))
    share = float((after * mode).sum() / (mode**2).sum())
    rate = (1 / share - 1) / 0.1  # one implicit step
    assert rate == pytest.approx(0.1 * zero**2, rel=tolerance)


def test_a_blob_is_carried_around() -> None:
    points, _ = disk("mesh")("fine.msh")
    blob = np.exp(-((points - [0.5, 0.0]) ** 2).sum(axis=1) / 0.1**2).astype(np.float32)[None, None]
    after = checked_step(solver("reference"), blob, row(1.5, 1e-4))[0, 0]
    x, y = (after @ points) / after.sum()
    assert np.arctan2(y, x) == pytest.approx(0.15, abs=0.01)


def test_coarse_points_are_points_of_the_fine_mesh() -> None:
    fine, _ = disk("mesh")("fine.msh")
    coarse, _ = disk("mesh")("coarse.msh")
    for axis in (0, 1):
        values = fine[None, None, :, axis]
        np.testing.assert_allclose(disk("restrict")(values, solver().spec)[0, 0], coarse[:, axis], atol=1e-6)


def test_a_correction_reaches_the_neighbours_of_neighbours_and_no_farther() -> None:
    corrector = disk("network")(solver().spec)
    points, _ = disk("mesh")("coarse.msh")
    centre = int(np.linalg.norm(points, axis=1).argmin())
    blip = torch.zeros(1, 1, len(points))
    blip[..., centre] = 1
    assert not corrector(blip, torch.ones(1, 2)).any(), "it starts from the solver alone"
    torch.nn.init.ones_(corrector.network.weights)
    reached = corrector(blip, torch.ones(1, 2))[0, 0].detach().numpy() != 0
    distances = np.linalg.norm(points - points[centre], axis=1)
    assert 12 < reached.sum() < 30
    assert distances[reached].max() < 0.45 < distances.max()
    assert reached[distances < 0.15].all()


def test_a_script_that_fails_is_told_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "empty.msh").write_text("0 0 0\n")
    with pytest.raises(ExitCodeError, match="exit status"):
        checked_step(
            solver(external_input_links={"disk.msh": str(tmp_path / "empty.msh")}),
            np.zeros((1, 1, 163), np.float32),
            row(1.0, 0.001),
        )


@pytest.mark.slow
def test_it_keeps_its_contract() -> None:
    points, _ = disk("mesh")("coarse.msh")
    params = np.array([[1.0, 0.001], [0.5, 0.002]], dtype=np.float32)
    states = np.stack([np.exp(-((points - [c, 0]) ** 2).sum(axis=1) / 0.1) for c in (0.3, -0.3)])[:, None].astype(np.float32)
    check = dz.check_solver(solver(), states, params, seconds=25)
    assert check.holds, check.as_dict()["verdicts"]


@pytest.mark.slow
def test_a_network_on_the_points_is_trained_through_it(tmp_path: Path) -> None:
    is_trained_through(EXAMPLE, tmp_path, [[1.0, 0.001], [1.4, 0.002]], "detached")
