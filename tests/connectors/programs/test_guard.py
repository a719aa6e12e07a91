"""Programs end with the process that started them, however it goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from problems import wait_until
from programs import running

import deepzero_sim as dz
from deepzero_sim.connectors.programs.guard import VARIABLE

#: A process that takes one step, in itself or in a worker; arguments: the program, its mode, a mark.
STEP = """
import sys
import numpy as np
import deepzero_sim as dz

solver = dz.ExecutableSolver(
    {"name": "doubling", "state_shape": [1, 8], "dt": 1.0, "dtype": "float64"},
    sys.argv[1:4],
    [{"path": "u.raw", "format": "raw"}],
    [{"path": "v.raw", "format": "raw"}],
    timeout=60,
    keep="never",
)
solver.step(np.ones((2, 1, 8)))
"""

IN_A_WORKER = STEP.replace(
    "solver.step(np.ones((2, 1, 8)))",
    "with dz.open_executor('process', 1) as workers:\n    workers.submit(solver.step, np.ones((2, 1, 8))).result()",
)


@pytest.fixture
def mark() -> str:
    return f"mark-{uuid.uuid4().hex}"


def stepping(code: str, faults: Path, mode: str, mark: str, folder: Path, stdin: int | None = None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(faults), mode, mark]
    return subprocess.Popen(command, env=environment, start_new_session=True, stdin=stdin)


def programs(mark: str) -> list[str]:
    """The processes of a mark, those of Python left out."""
    return [words for words in running(mark) if "python" not in words.partition("\0")[0]]


def folders(temporary: Path) -> list[Path]:
    """The working folders that are there."""
    return list(temporary.glob("deepzero-sim-*"))


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_takes_its_programs_along(faults: Path, mark: str, tmp_path: Path, number: int) -> None:
    process = stepping(STEP, faults, "children", mark, tmp_path)
    try:
        assert wait_until(lambda: len(programs(mark)) >= 14, 30)  # two programs, each with three children and theirs
        os.killpg(process.pid, number)  # as Ctrl-C in a terminal does: the whole group
        assert process.wait(30) != 0
        assert wait_until(lambda: not running(mark), 5), running(mark)
        assert wait_until(lambda: not folders(tmp_path), 5)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_worker_that_is_killed_with_its_parent_takes_them_along(faults: Path, mark: str, tmp_path: Path) -> None:
    process = stepping(IN_A_WORKER, faults, "children", mark, tmp_path)
    try:
        assert wait_until(lambda: len(programs(mark)) >= 14, 60)
        assert len(folders(tmp_path)) == 2
        process.kill()
        assert wait_until(lambda: not programs(mark), 10), running(mark)
        assert wait_until(lambda: not folders(tmp_path), 5)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_the_guard_ends_with_its_process(faults: Path, mark: str, tmp_path: Path) -> None:
    code = STEP + "from deepzero_sim.connectors.programs.guard import guard; print(guard.new_mark())"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(faults), "well", mark],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    own = ended.stdout.strip().partition(":")[0]
    assert own.startswith(VARIABLE)
    assert wait_until(lambda: not running(own), 5) and not ended.stderr


@pytest.mark.slow
def test_a_guard_that_was_killed_is_replaced(faults: Path, mark: str, tmp_path: Path) -> None:
    kill = (
        "import os, signal; from deepzero_sim.connectors.programs.guard import guard\n"
        "own = guard.new_mark().partition(':')[0].encode()\n"
        "def has_mark(pid):\n"
        "    try:\n"
        "        return own in open(f'/proc/{pid}/cmdline', 'rb').read()\n"
        "    except OSError:  # it ended meanwhile\n"
        "        return False\n"
        "(found,) = [p for p in os.listdir('/proc') if p.isdecimal() and int(p) != os.getpid() and has_mark(p)]\n"
        "os.kill(int(found), signal.SIGKILL); os.waitpid(int(found), 0)\n"
    )
    hang = "solver._command._arguments[0] = 'children'; solver.step(np.ones((1, 1, 8)))\n"
    process = stepping(STEP + kill + hang, faults, "well", mark, tmp_path)
    try:
        assert wait_until(lambda: len(programs(mark)) >= 7, 30)
        process.kill()
        process.wait()
        assert wait_until(lambda: not running(mark), 5), running(mark)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_fork_has_a_guard_of_its_own(faults: Path, mark: str, tmp_path: Path) -> None:
    fork = (
        "import os\n"
        "if os.fork() == 0:\n"
        "    solver._command._arguments[0] = 'children'\n"
        "    solver.step(np.ones((1, 1, 8)))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    process = stepping(STEP + fork, faults, "well", mark, tmp_path)
    try:
        assert process.wait(30) == -signal.SIGKILL
        assert wait_until(lambda: len(programs(mark)) >= 7, 30)  # its guard does not take those of the fork along
        (child,) = [words for words in running(mark) if "python" in words.partition("\0")[0]]
        os.kill(int(child.partition(":")[0]), signal.SIGKILL)
        assert wait_until(lambda: not running(mark), 5), running(mark)
    finally:
        os.killpg(process.pid, signal.SIGKILL) if running(mark) else None


@pytest.mark.slow
def test_a_program_that_takes_steps_itself_has_its_own_mark(faults: Path, mark: str, tmp_path: Path) -> None:
    """A solver inside a solver: the outer one ends the inner one's programs with it."""
    (tmp_path / "inner.py").write_text(STEP)
    solver = dz.ExecutableSolver(
        {"name": "outer", "state_shape": [1, 8], "dt": 1.0, "dtype": "float64"},
        [sys.executable, str(tmp_path / "inner.py"), str(faults), "children", mark],
        [{"path": "u.raw", "format": "raw"}],
        [{"path": "v.raw", "format": "raw"}],
        keep="never",
        environment={"TMPDIR": str(tmp_path)},
    )
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(solver.step, np.ones((1, 1, 8)))
        assert wait_until(lambda: len(programs(mark)) >= 7, 60)
        solver._runner.stop()
        with pytest.raises(KeyboardInterrupt):
            asked.result(10)
    assert wait_until(lambda: not running(mark), 5), running(mark)
