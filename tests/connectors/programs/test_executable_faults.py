"""Every way in which a program can fail, for real; and that nothing is left of it."""

from __future__ import annotations

import os
import pickle
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import wait_until
from programs import running
from training_cases import fill

import deepzero_sim as dz
from deepzero_sim.solver.stepping import checked_step

STATES = np.arange(1.0, 17.0).reshape(2, 1, 8)

Make = Callable[..., dz.ExecutableSolver]


@pytest.fixture
def mark() -> str:
    return f"mark-{uuid.uuid4().hex}"


@pytest.fixture
def make(faults: Path, mark: str, tmp_path: Path) -> Make:
    """A solver that fails in some way."""

    def made(mode: str, *arguments: str, **settings: Any) -> dz.ExecutableSolver:
        output = settings.pop("output", "v.raw")
        return dz.ExecutableSolver(
            {"name": "doubling", "state_shape": [1, 8], "dt": 1.0, "dtype": "float64"},
            [str(faults), mode, *arguments, mark],
            [{"path": "u.raw", "format": "raw"}],
            [{"path": output, "format": "raw"}],
            **{"kept_folder": tmp_path / "kept", **settings},
        )

    return made


def failure(solver: dz.Solver, states: np.ndarray = STATES) -> dz.SolverError:
    """The failure of the first state, after it went through pickle as from a worker."""
    with pytest.raises(dz.StatesFailedError) as failed:
        solver.step(states)
    error = pickle.loads(pickle.dumps(failed.value.failures[0]))  # noqa: S301 - our own
    assert isinstance(error, dz.SolverError) and str(error) == str(failed.value.failures[0])
    return error


def assert_gone(mark: str) -> None:
    assert wait_until(lambda: not running(mark), 5), running(mark)


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        ("segfault", dz.SolverKilledError, "SIGSEGV"),
        ("divides", dz.SolverKilledError, "SIGFPE"),
        ("status", dz.ExitCodeError, r"exit status 3, not 0; the last it said is '.*line 999 / the pressure is negative'"),
        ("missing", dz.MissingOutputError, "the output v.raw is not there"),
        ("short", dz.UnreadableOutputError, "holds 43 bytes, not 64: it is truncated"),
        ("long", dz.UnreadableOutputError, "holds 128 bytes, not 64: there is more"),
        ("garbage", dz.UnreadableOutputError, "holds 3 bytes"),
        ("huge", dz.UnreadableOutputError, "1099511627776 bytes, far more"),
        ("fifo", dz.UnreadableOutputError, "is no file"),
        ("folder", dz.UnreadableOutputError, "is no file"),
        ("locked", dz.ExitCodeError, "exit status 3"),
    ],
)
def test_a_failure_is_named(
    make: Make, mark: str, mode: str, kind: type[dz.SolverError], words: str, folders: Path, tmp_path: Path
) -> None:
    error = failure(make(mode))
    assert type(error) is kind and re.search(words, str(error)), error
    assert str(error).startswith("solver 'doubling': ") and str(error).endswith(".")
    assert error.kept is not None and str(error.kept) in str(error) and error.kept.parent == tmp_path / "kept"
    assert {"u.raw", "stdout.log", "stderr.log", "call.txt"} <= {path.name for path in error.kept.iterdir()}
    assert mark in (error.kept / "call.txt").read_text()
    assert error.diverged == (mode == "divides")
    assert not list(folders.iterdir()) and not running(mark)


def test_a_failure_costs_no_other_state_its_answer(make: Make) -> None:
    with pytest.raises(dz.StatesFailedError) as failed:
        make("first").step(STATES)
    assert list(failed.value.failures) == [1] and isinstance(failed.value.failures[1], dz.ExitCodeError)
    np.testing.assert_array_equal(failed.value.advanced[0], 2 * STATES[0])


def test_nan_is_a_failure_whose_folder_is_kept(make: Make) -> None:
    error = failure(make("nan"))
    assert isinstance(error, dz.NonFiniteError) and error.kept is not None and (error.kept / "v.raw").exists()
    with pytest.raises(dz.NonFiniteError, match="outputs hold NaN or infinity"):
        checked_step(make("nan"), STATES)


@pytest.mark.parametrize("mode", ["hang", "deaf", "children"])
def test_nothing_is_left_of_a_program_that_hangs(make: Make, mark: str, mode: str, folders: Path) -> None:
    start = time.monotonic()
    error = failure(make(mode, timeout=0.3))
    assert isinstance(error, dz.SolverTimeoutError) and "longer than the 0.3 s it may" in str(error)
    assert time.monotonic() - start < 5
    assert_gone(mark)
    assert not list(folders.iterdir())


@pytest.mark.parametrize("mode", ["children-fail", "children-well", "daemon"])
def test_nothing_is_left_of_a_program_that_leaves_children(make: Make, mark: str, mode: str) -> None:
    solver = make(mode)
    if mode == "children-fail":
        assert isinstance(failure(solver), dz.ExitCodeError)
    else:
        np.testing.assert_array_equal(solver.step(STATES), 2 * STATES)
    assert not running(mark)


#: What a shell script leaves behind: in a session or a group of its own, with nothing open, by a process that ends at once.
LEFT = {
    "session": "setsid sleep 102 &",
    "group": "set -m; sleep 102 &",
    "twice": "setsid setsid sleep 102 </dev/null >/dev/null 2>&1 & setsid sh -c 'cd /; sleep 102 & sleep 103' &",
    "of a daemon": "setsid sh -c 'setsid sleep 102 & exit 0' & ",
}

#: How it ends then, and which error that is.
ENDINGS = {
    "well": ("cp u.raw v.raw; exit 0", None),
    "status": ("exit 3", dz.ExitCodeError),
    "signal": ("kill -9 $$", dz.SolverKilledError),
    "timeout": ("sleep 60", dz.SolverTimeoutError),
    "no output": ("exit 0", dz.MissingOutputError),
    "late": ("cp u.raw v.raw; sleep 1.1; exit 0", None),
}


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_however_a_program_ends(mark: str, left: str, ending: str) -> None:
    words, kind = ENDINGS[ending]
    solver = dz.ExecutableSolver(
        {"name": "daemons", "state_shape": [1, 8], "dt": 1.0, "dtype": "float64"},
        ["/bin/sh", "-c", f"{LEFT[left]} {words}"],
        [{"path": "u.raw", "format": "raw"}],
        [{"path": "v.raw", "format": "raw"}],
        environment={"MARK": mark},
        timeout=0.2 if ending == "timeout" else 30,
        keep="never",
    )
    for _ in range(1 if ending in ("late", "timeout") else 5):  # a process that is just starting another one is not missed
        if kind is None:
            np.testing.assert_array_equal(solver.step(STATES[:1]), STATES[:1])
        else:
            assert isinstance(failure(solver, STATES[:1]), kind)
        assert not running(mark)


def test_without_pidfd_it_is_the_same(make: Make, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    np.testing.assert_array_equal(make("well").step(STATES), 2 * STATES)
    assert isinstance(failure(make("status")), dz.ExitCodeError)
    assert isinstance(failure(make("deaf", timeout=0.2)), dz.SolverTimeoutError)
    assert_gone(mark)


def test_a_link_inside_is_followed(make: Make) -> None:
    np.testing.assert_array_equal(make("link-in").step(STATES), 2 * STATES)


@pytest.mark.parametrize(("mode", "output"), [("link-out", "v.raw"), ("folder-out", "out/v.raw"), ("swap", "v.raw")])
def test_a_link_that_leads_out_is_not_followed(make: Make, tmp_path: Path, mode: str, output: str, folders: Path) -> None:
    (outside := tmp_path / "outside").mkdir()
    STATES[0].tofile(outside / "v.raw")
    target = outside / "v.raw" if mode == "link-out" else outside
    error = failure(make(mode, str(target), output=output, keep="never"))
    assert isinstance(error, dz.UnreadableOutputError) and "leads out of the working folder" in str(error)
    np.testing.assert_array_equal(np.fromfile(outside / "v.raw"), STATES[0].ravel())
    assert [path for path in folders.iterdir() if not path.name.endswith(".away")] == []


def test_nothing_is_written_where_a_link_in_place_of_the_folder_leads(make: Make, tmp_path: Path, folders: Path) -> None:
    (outside := tmp_path / "outside").mkdir()
    (outside / "call.txt").write_text("the user's")
    error = failure(make("swap", str(outside), keep="always"))
    assert "it is not kept, because its program did away with it" in str(error) and error.kept is None
    assert (outside / "call.txt").read_text() == "the user's" and len(list(outside.iterdir())) == 1
    assert list((tmp_path / "kept").glob("*")) == [] and all(path.name.endswith(".away") for path in folders.iterdir())


def test_folders_a_thousand_deep_are_removed(make: Make, folders: Path) -> None:
    np.testing.assert_array_equal(make("deep").step(STATES), 2 * STATES)
    assert list(folders.iterdir()) == []


def test_a_linked_file_that_was_changed_is_seen(make: Make, tmp_path: Path) -> None:
    (table := tmp_path / "table").write_text("1 2 3")
    np.testing.assert_array_equal(make("well", external_input_links={"linked": table}).step(STATES), 2 * STATES)
    with pytest.raises(dz.ConfigError, match=r"changed .*table, which is only linked.*external_input_files"):
        make("writes-link", external_input_links={"linked": table}).step(STATES)
    before = table.read_text()
    np.testing.assert_array_equal(make("writes-link", external_input_files={"linked": table}).step(STATES), 2 * STATES)
    assert table.read_text() == before


@pytest.mark.parametrize("setting", ["external_input_files", "external_input_links"])
def test_an_external_file_that_is_gone_is_named(make: Make, tmp_path: Path, folders: Path, setting: str) -> None:
    table = tmp_path / "table"
    table.write_text("1")
    solver = make("well", **{setting: [table]})
    table.unlink()
    with pytest.raises(dz.ConfigError, match=rf"the external file {re.escape(str(table))} is no longer there: put it back\.$"):
        solver.step(STATES)
    assert not list(folders.iterdir())
    table.write_text("1")
    np.testing.assert_array_equal(solver.step(STATES), 2 * STATES)


def test_a_full_disk_is_said(make: Make, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tiny_disk))
    error = failure(make("fills"), STATES[:1])  # the program fills it
    assert isinstance(error, dz.WorkingFolderError) and re.search("disk .* is full, and .* exit status 4", str(error))
    assert not list(tiny_disk.iterdir())
    fill(tiny_disk, 0)
    error = failure(make("well"), STATES[:1])
    assert isinstance(error, dz.WorkingFolderError) and "No space left" in str(error) and "TMPDIR" in str(error)


def test_a_failure_is_said_where_its_folder_cannot_be_kept(make: Make, tiny_disk: Path) -> None:
    (tiny_disk / "kept").write_text("in the way")
    error = failure(make("status", kept_folder=tiny_disk / "kept"), STATES[:1])
    assert isinstance(error, dz.ExitCodeError) and error.kept is None and "could not be kept" in str(error)


def test_folders_without_permissions_are_said(make: Make, folders: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    folders.chmod(0)
    try:
        assert isinstance(failure(make("well")), dz.WorkingFolderError)
    finally:
        folders.chmod(0o700)


def test_no_more_than_twenty_folders_are_kept(make: Make, tmp_path: Path, folders: Path) -> None:
    with pytest.raises(dz.StatesFailedError) as failed:
        make("missing", at_once=1).step(np.ones((23, 1, 8)))
    errors = failed.value.failures
    assert len(list((tmp_path / "kept").iterdir())) == 20 == sum(error.kept is not None for error in errors.values())
    assert "holds 20 such folders already" in str(errors[22]) and not list(folders.iterdir())


@pytest.mark.parametrize(("keep", "mode", "kept"), [("never", "status", 0), ("always", "well", 2), ("failures", "well", 0)])
def test_what_is_kept_is_a_choice(make: Make, tmp_path: Path, keep: str, mode: str, kept: int, folders: Path) -> None:
    solver = make(mode, keep=keep)
    if mode == "status":
        assert failure(solver).kept is None
    else:
        solver.step(STATES)
    found = list((tmp_path / "kept").iterdir()) if (tmp_path / "kept").exists() else []
    assert len(found) == kept and not list(folders.iterdir())


def test_kept_folders_move_between_disks(make: Make, tiny_disk: Path) -> None:
    error = failure(make("fifo", kept_folder=tiny_disk / "kept"), STATES[:1])
    assert error.kept is not None and error.kept.parent == tiny_disk / "kept"
    np.testing.assert_array_equal(np.fromfile(error.kept / "u.raw"), STATES[0].ravel())


def test_an_interrupt_ends_what_runs(make: Make, mark: str, folders: Path) -> None:
    solver, main = make("children", timeout=60), threading.get_ident()
    timer = threading.Thread(
        target=lambda: wait_until(lambda: len(running(mark)) >= 14, 20) and signal.pthread_kill(main, signal.SIGINT)
    )
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        solver.step(STATES)
    timer.join()
    assert_gone(mark)
    assert not list(folders.iterdir())
    np.testing.assert_array_equal(make("well").step(STATES), 2 * STATES)


def test_a_run_that_was_asked_for_before_a_stop_does_not_go_on(make: Make, mark: str) -> None:
    solver = make("hang", timeout=60)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(solver.step, STATES)
        assert wait_until(lambda: len(running(mark)) == 2, 20)
        solver._runner.stop()
        with pytest.raises(KeyboardInterrupt):
            asked.result(10)
    assert_gone(mark)


def test_many_threads_share_the_limit(make: Make, mark: str) -> None:
    solver, most = make("hang", timeout=0.5, at_once=2), 0
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(solver.step, STATES[:1]) for _ in range(4)]
        while not all(future.done() for future in asked):
            most = max(most, len(running(mark)))
    assert most == 2
