"""Programs are checked as all solvers are: what ends one of their runs is a verdict, and does not end the check."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from deepzero_sim import ExecutableSolver, ExitCodeError, SolverCheck, check_solver

AWK = '{ print 0.5 * $1 + 0.1 * sin($1) > "next" }'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if shutil.which("awk") is None:
        pytest.skip("there is no awk")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(*before: str) -> ExecutableSolver:
    """A text of numbers in, one of six digits out, by a shell script."""
    Path("step.sh").write_text("\n".join(["read first < state", *before, f"exec awk '{AWK}' state"]))
    files = {"inputs": [{"path": "state", "format": "text"}], "outputs": [{"path": "next", "format": "text"}]}
    spec = {"name": "script", "state_shape": [1, 8], "dt": 1.0, "dtype": "float64", "stencil": 0}
    return ExecutableSolver(spec, ["sh", "step.sh"], **files, external_input_files=["step.sh"], at_once=2, keep="never")


def check(solver: ExecutableSolver, seconds: float) -> SolverCheck:
    states = np.random.default_rng(0).normal(size=(3, 1, 8))
    states[1, 0, 0] = 6.0
    return check_solver(solver, states, seconds=seconds)


@pytest.mark.slow
def test_the_digits_that_a_program_writes_are_its_noise(folder: Path) -> None:
    found = check(program(), 60.0)
    assert found.holds and found.step_sizes is not None, found
    assert 1e-8 < found.step_sizes.sweep.rounding < 1e-4 and found.step_sizes.recommended >= 1e-3
    assert "bit for bit" in found["threads"].words and "no farther than the stencil of 0" in found["stencil"].words


@pytest.mark.parametrize(
    ("ends", "says"),
    [("exit 3", "status 3"), ("kill -FPE $$", "SIGFPE"), ("exit 0", "not there"), ("echo what > next; exit 0", "next")],
)
def test_a_run_that_fails_at_one_state_is_told(folder: Path, ends: str, says: str) -> None:
    found = check(program(f'case "$first" in 6*) {ends};; esac'), 1.5)
    verdict = found["sample states"]
    assert found.holds and verdict.outcome == "info" and says in verdict.words, verdict


def test_a_run_that_fails_now_and_then_is_broken(folder: Path) -> None:
    counter = folder / "count"
    counter.write_text("0")
    found = check(program(f"n=$(cat {counter})", f"echo $((n + 1)) > {counter}", "test $((n % 6)) -eq 5 && exit 4"), 1.5)
    broken = [verdict for verdict in found.verdicts if verdict.outcome == "fail"]
    assert broken and "states that were advanced before were not" in broken[0].words and "status 4" in broken[0].words


def test_a_run_that_fails_at_the_first_state_cannot_be_checked(folder: Path) -> None:
    with pytest.raises(ExitCodeError, match="status 5"):
        check(program("exit 5"), 1.5)
