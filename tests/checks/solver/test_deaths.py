"""A solver that crashes, ends or blocks the process that asks it costs the check no verdict, and nobody else anything."""

from __future__ import annotations

import functools
import re
import time
from pathlib import Path

import numpy as np
import pytest
from deadly import Deadlock, Deadly, Locked, Messy, Unloadable

from deepzero_sim import SolverCheck, SolverCrashError, check_solver
from deepzero_sim.checks.solver import Training, check_made_solver, solver_check, subject_of
from deepzero_sim.checks.solver.subject import Subject
from deepzero_sim.solver.contract import Solver

STATES = np.ones((3, 1, 8)) * np.array([1.0, 2.0, 3.0])[:, None, None]


def check(solver: Solver, seconds: float = 30.0) -> SolverCheck:
    """A check that is over within a second: such steps take no time."""
    params = np.ones((3, 1)) if solver.spec.parameters else None
    return check_solver(solver, STATES, params, seconds=seconds)


def failed_lines(check: SolverCheck) -> set[str]:
    assert check.holds == all(verdict.outcome != "fail" for verdict in check.verdicts)
    return {verdict.line for verdict in check.verdicts if verdict.outcome == "fail"}


#: What the words of a verdict say of each end.
SAID = {
    "SIGSEGV": r"killed by SIGSEGV \(deadly.py, line \d+\)",
    "write": r"killed by SIG(SEGV|BUS) \(deadly.py, line \d+\)",
    "SIGABRT": r"killed by SIGABRT \(deadly.py, line \d+\)",
    "SIGFPE": r"killed by SIGFPE",
    "SIGKILL": r"killed by SIGKILL \(out of memory, perhaps\)",
    "status 0": "ended with exit status 0",
    "STOP": "ended with exit status 0",
    "status 3": "ended with exit status 3",
}

#: Lines that are broken by an end at an occasion.
BROKEN = {
    "first": {"first step"},
    "second": {"sample states"},
    "batch": {"batches"},
    "large batch": {"largest batch"},
    "larger batch": {"times"},
    "parameters": {"parameters"},
    "threads": {"threads"},
    "worker": {"worker process"},
    "no parameters": set(),
    "NaN": set(),
    "not finite": set(),
}


@pytest.mark.parametrize("end", SAID)
def test_two_threads_at_once_may_end_the_process_in_any_way(end: str) -> None:
    found = check(Deadly(end, "threads"))
    assert failed_lines(found) == {"threads"} and re.search(SAID[end], found["threads"].words), found["threads"].words
    assert "when two threads called it at once: put a lock" in found["threads"].words
    assert "bit for bit" in found["worker process"].words and found.gradients is not None and found.times


@pytest.mark.parametrize("at", BROKEN)
def test_every_occasion_breaks_its_line_and_no_other(at: str) -> None:
    spec = {"parameters": ("rate",)} if "parameters" in at else {}
    found = check(Deadly("SIGSEGV", at, **spec))
    assert failed_lines(found) == BROKEN[at], found.verdicts
    assert all("killed by SIGSEGV (deadly.py, line " in found[line].words for line in failed_lines(found))
    if at != "first":
        assert {"shape", "threads", "spec", "extreme states", "worker process"} <= {verdict.line for verdict in found.verdicts}
        assert found["shape"].outcome == "pass"


@pytest.mark.parametrize("end", ["SIGABRT", "status 0", "SIGKILL"])
def test_a_first_step_that_ends_the_process_is_a_verdict(end: str) -> None:
    found = check(Deadly(end, "first"))
    assert failed_lines(found) == {"first step"} and re.search(f"{SAID[end]} at the very first step", found["first step"].words)
    assert all(verdict.outcome == "skipped" for verdict in found.verdicts[1:])
    assert set(found.left_out) == {"step sizes", "times", "gradients"}


def test_sample_states_that_a_step_survives_are_looked_at_further() -> None:
    found = check_solver(Deadly("SIGFPE", "one state"), np.concatenate([STATES, 6 * STATES]), seconds=30)
    assert failed_lines(found) == {"sample states"} and found["deterministic"].outcome == found["threads"].outcome == "pass"


def test_calls_of_fewer_states_are_timed_when_more_end_the_process() -> None:
    found = check(Deadly("SIGSEGV", "larger batch"))
    assert [entry.batch for entry in found.times] == [1, 2, 4, 8, 16, 32, 64] and "failed: mend that first" in found.left_out[
        "times"
    ]
    assert check(Deadly("SIGSEGV", "large batch")).times[-1].batch == 32
    assert [entry.batch for entry in check(Deadly("SIGSEGV", "batch")).times] == [1]


def test_what_never_happens_in_training_is_told() -> None:
    found = check(Deadly("status 0", "no parameters", parameters=("rate",)))
    assert found["parameters"].words.endswith("without them the process ended with exit status 0.")
    found = check(Deadly("STOP", "not finite"))
    assert found["extreme states"].words.count("the process ended with exit status 0.") == 2


def test_a_deadly_solver_that_cannot_be_pickled_is_asked_in_a_fork() -> None:
    found = check(Locked("SIGSEGV", "threads"))
    assert failed_lines(found) == {"threads", "worker process"} and "SIGSEGV" in found["threads"].words
    assert "must be picklable" in found["worker process"].words
    assert failed_lines(check(Locked("status 0", "first"))) == {"first step"}


@pytest.mark.parametrize("end", ["SIGSEGV", "status 0"])
def test_a_solver_that_cannot_be_unpickled_is_asked_in_a_fork(end: str) -> None:
    found = check(Unloadable(end, "NaN"))
    assert failed_lines(found) == {"worker process"} and re.search(SAID[end], found["worker process"].words)


def make(end: str, where: str) -> Subject:
    """A subject, or the end of the process that makes it."""
    if where == "made":
        Deadly(end).step(STATES)
    return subject_of(Deadly(end, "worker"), STATES, None, Training(None, 2, 2, 0))


def test_a_solver_that_ends_the_process_when_it_is_made_cannot_be_run() -> None:
    with pytest.raises(SolverCrashError, match=r"killed by SIGABRT .*when the solver and its sample states were made"):
        check_made_solver(functools.partial(make, "SIGABRT", "made"), 5)
    assert check_made_solver(functools.partial(make, "SIGABRT", ""), 30).holds


def test_nothing_that_a_solver_does_to_its_process_is_done_to_this_one(capfd: pytest.CaptureFixture[str]) -> None:
    folder = Path.cwd()
    found = check_solver(Messy(), STATES, seconds=30)
    assert found.holds and Path.cwd() == folder and capfd.readouterr() == ("", "") and found.printed > 1000
    assert wait_until(lambda: not processes("sleep 1234.5"))


def processes(command: str) -> list[int]:
    """Numbers of those that run a command."""
    folders = [folder for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [int(folder.name) for folder in folders if command in text_of(folder / "cmdline")]


def text_of(file: Path) -> str:
    try:
        return file.read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def wait_until(holds: object, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("end", ["hang", "hang with the lock"])
def test_a_solver_that_hangs_is_ended_from_outside(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_check, "WAIT", 1.0)
    found = check(Deadly(end, "first"), seconds=0.6)
    assert (
        failed_lines(found) == {"first step"} and "no answer came for 1 s at the very first step" in found["first step"].words
    )
    found = check(Deadly(end, "batch"), seconds=0.6)
    assert failed_lines(found) == {"batches"} and "no answer came for 1 s when one call was given" in found["batches"].words


@pytest.mark.slow
@pytest.mark.parametrize("solver", [Deadlock(), Deadly("hang with the lock", "threads"), Deadly("closed files", "threads")])
def test_threads_that_wait_for_each_other_are_ended(solver: Solver) -> None:
    found = check(solver)
    assert failed_lines(found) == {"threads"} and re.search(
        r"no answer came for 1\d s|closed its connection", found["threads"].words
    )
    assert "bit for bit" in found["worker process"].words


@pytest.mark.slow
def test_extreme_states_are_not_waited_for() -> None:
    found = check(Deadly("hang with the lock", "not finite"))
    assert found.holds and found["extreme states"].words.count("no answer came for 5 s.") == 2
