"""The OpenFOAM example: icoFoam as it is, through files, where it is installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from third_party import Example, is_trained_through

import deepzero_sim as dz
from deepzero_sim.common.components import load
from deepzero_sim.errors import ExitCodeError, SolverKilledError
from deepzero_sim.solver.stepping import checked_step

EXAMPLE = Example("openfoam")
HERE = EXAMPLE.folder
ENVIRONMENT = {"WM_PROJECT_DIR": "/usr/share/openfoam"}

pytestmark = pytest.mark.skipif(
    shutil.which("icoFoam") is None or shutil.which("blockMesh") is None,
    reason="OpenFOAM is not installed: apt-get install openfoam",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the example in it, where meshes may be made."""
    folder = tmp_path_factory.mktemp("root")
    example = folder / "examples" / "openfoam"
    shutil.copytree(HERE, example, ignore=shutil.ignore_patterns("polyMesh"))
    for mesh in ("coarse", "fine"):
        made = ["blockMesh", "-case", str(example / mesh)]
        subprocess.run(made, env={**os.environ, **ENVIRONMENT}, check=True, capture_output=True)
    return folder


@pytest.fixture(autouse=True)
def within(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Paths in the recipes start at the root; working folders are the test's own."""
    monkeypatch.chdir(root)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def solver(which: str = "source", **changed: Any) -> dz.Solver:
    return EXAMPLE.solver(which, **{"keep": "never", **changed})


def vortices(params: np.ndarray, which: str = "source") -> np.ndarray:
    return load(f"{HERE}/cavity.py:initial")(solver(which).spec, params)


def lids(*rows: tuple[float, float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_recipes_name_one_solver() -> None:
    assert yaml.safe_load((HERE / "solver.yaml").read_text())["solver"] == EXAMPLE.settings()


def test_a_lid_drags_the_fluid_under_it() -> None:
    still = np.zeros((1, 2, 16, 16), dtype=np.float32)
    moved = checked_step(solver(), still, lids((1.0, 0.004)))[0]
    assert moved[0, :, -1].min() > 0.04, "x of the cells along the lid"
    assert moved[0, :, -1].mean() > 10 * np.abs(moved[0, :, :8]).mean(), "and hardly of those far from it"
    assert not checked_step(solver(), still, lids((0.0, 0.004))).any(), "what is still stays so under a lid that is"


def test_a_mirrored_flow_stays_mirrored() -> None:
    states = vortices(lids((1.0, 0.002)))
    flip = np.array([-1, 1], dtype=np.float32)[:, None, None]
    here = checked_step(solver(), states, lids((1.0, 0.002)))
    there = checked_step(solver(), flip * states[:, :, ::-1], lids((-1.0, 0.002)))
    assert np.abs(here - states).max() > 0.01
    np.testing.assert_allclose(there, flip * here[:, :, ::-1], atol=1e-5)


def test_vortices_decay_the_faster_the_more_viscous() -> None:
    states = np.repeat(vortices(lids((0.0, 0.002))), 2, axis=0)
    after = checked_step(solver(), states, lids((0.0, 0.001), (0.0, 0.01)))
    energies = (after**2).sum(axis=(1, 2, 3))
    assert energies[1] < 0.97 * energies[0] < 0.97 * (states[0] ** 2).sum()


def test_the_fine_mesh_sees_the_same_flow() -> None:
    params = lids((1.0, 0.004))
    fine, coarse = vortices(params, "reference"), vortices(params)
    restrict = load(f"{HERE}/cavity.py:restrict")
    np.testing.assert_allclose(restrict(fine, solver().spec), coarse, atol=0.05)
    found = restrict(checked_step(solver("reference"), fine, params), solver().spec)
    changed = np.abs(found - restrict(fine, solver().spec)).mean()
    assert np.abs(found - checked_step(solver(), coarse, params)).mean() < 0.7 * changed


def double(**changed: Any) -> dz.Solver:
    """In float64, icoFoam's own precision: floats overflow before it does."""
    return solver(spec=EXAMPLE.settings()["args"]["spec"] | {"dtype": "float64"}, **changed)


def diverge(through: dz.Solver) -> np.ndarray:
    """Step a flow that is far too fast for the step."""
    params = lids((1.0, 0.001)).astype(np.float64)
    states = 1e100 * vortices(params).astype(np.float64)
    for _ in range(20):
        states = checked_step(through, states, params)
    return states


def test_a_flow_that_diverges_ends_by_a_signal() -> None:
    with pytest.raises(SolverKilledError, match="SIGFPE") as raised:
        diverge(double())
    assert raised.value.number == signal.SIGFPE
    assert raised.value.diverged


def test_untrapped_it_cannot_read_its_own_residual() -> None:
    with pytest.raises(ExitCodeError, match="status 1") as raised:
        diverge(double(environment={**ENVIRONMENT, "FOAM_SIGFPE": "false"}, keep="failures", kept_folder="kept"))
    assert raised.value.kept is not None
    assert "expected scalar value, found on line 0: word 'nan'" in (raised.value.kept / "stderr.log").read_text()


def test_a_case_that_lacks_something_is_told_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "fvSolution").write_text("FoamFile { version 2.0; format ascii; class dictionary; object fvSolution; }\n")
    links = EXAMPLE.settings()["args"]["external_input_links"] | {"system/fvSolution": str(tmp_path / "fvSolution")}
    with pytest.raises(ExitCodeError, match="status 1"):
        checked_step(solver(external_input_links=links), vortices(lids((1.0, 0.001))), lids((1.0, 0.001)))


@pytest.mark.slow
def test_it_keeps_its_contract() -> None:
    params = lids((1.0, 0.001), (0.5, 0.002), (2.0, 0.004))
    check = dz.check_solver(solver(), vortices(params), params, seconds=25)
    assert check.holds, check.as_dict()["verdicts"]


@pytest.mark.slow
def test_a_corrector_is_trained_through_it(tmp_path: Path) -> None:
    is_trained_through(
        EXAMPLE,
        tmp_path,
        [[1.0, 0.001], [2.0, 0.002]],
        "solver_layer",
        "--vjp.args",
        "{references: 1, block: 4, scheme: forward}",
    )
