"""Running a solver's program: its time is limited, and nothing is left of it afterwards."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepzero_sim.connectors.guard import guard
from deepzero_sim.connectors.guard_process import has_mark, kill_all

#: Seconds that a program has to end by itself when its time is over.
GRACE = 0.5

#: Times that what a program left is looked for: a process that was starting another one may be found before it.
LOOKS = 20


@dataclass(frozen=True)
class Run:
    """What to run, and where.

    Args:
        command: the program, by its path, and its arguments.
        folder: to run in.
        environment: of the program.
        output: descriptors of files for what it says on stdout and stderr.
        timeout: seconds it may take.
    """

    command: Sequence[str]
    folder: Path
    environment: Mapping[bytes, bytes]
    output: tuple[int, int]
    timeout: float


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Args:
        status: its exit status; minus the number of the signal that ended it.
        in_time: whether it ended by itself.
    """

    status: int
    in_time: bool


class Programs:
    """The programs of one solver that run in this process. Each has a session of its own, so that all of it can be ended.

    Only what gives itself a new session and a new environment escapes, or, where there is no /proc, a new process group.
    """

    def __init__(self) -> None:
        self._running: dict[int, int] = {}  # with the process that started each: a fork must not end its parent's
        self._changing = threading.Lock()
        self._stops = 0

    @property
    def stops(self) -> int:
        """How often programs were stopped; a run that was asked for before the last time does not start."""
        return self._stops

    def run(self, what: Run, stops: int) -> Ended:
        """Run a program until it ends, or its time is over.

        Args:
            what: to run.
            stops: :attr:`stops` when it was asked for.

        Raises:
            OSError: it cannot be started.
        """
        mark = guard.new_mark()
        name, _, value = mark.encode().partition(b"=")
        process = subprocess.Popen(  # noqa: S603 - no shell, and the user's own program
            what.command,
            cwd=what.folder,
            env={**what.environment, name: value},
            stdin=subprocess.DEVNULL,
            stdout=what.output[0],
            stderr=what.output[1],
            start_new_session=True,
        )
        in_time = False
        try:
            self._register(process.pid, mark, stops)
            in_time = _wait(process, what.timeout)
            if not in_time:
                _kill_group(process.pid, signal.SIGTERM)
                _wait(process, GRACE)
        finally:
            self._end(process, mark, thoroughly=not in_time)
        return Ended(process.returncode, in_time)

    def _register(self, process: int, mark: str, stops: int) -> None:
        guard.started(process, mark)
        with self._changing:
            self._running[process] = os.getpid()
            if stops != self._stops:
                _kill_group(process, signal.SIGKILL)

    def _end(self, process: subprocess.Popen[bytes], mark: str, *, thoroughly: bool) -> None:
        """Kill what is left; the program is reaped last, so that its number stays its own until then."""
        with self._changing:
            self._running.pop(process.pid, None)
        _kill_group(process.pid, signal.SIGKILL)
        if thoroughly or not _ended_well(process):
            _kill_session(process.pid, mark)
        process.wait()
        guard.ended(process.pid, mark)

    def stop(self) -> None:
        """Kill all that run."""
        with self._changing:
            self._stops += 1
            for process, owner in self._running.items():
                if owner == os.getpid():
                    _kill_group(process, signal.SIGKILL)

    def __reduce__(self) -> tuple[type[Programs], tuple[()]]:
        return Programs, ()  # another process has programs of its own


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a program ended in time. Where the system can tell, at once and without reaping it."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return process.returncode is not None
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def _ended_well(process: subprocess.Popen[bytes]) -> bool:
    if process.returncode is not None:
        return process.returncode == 0
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return ended is not None and ended.si_code == os.CLD_EXITED and ended.si_status == 0


def _kill_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing but a process that is to be reaped is left
        os.killpg(group, number)


def _kill_session(session: int, mark: str) -> None:
    """Kill what left the group of its session, as OpenMPI's processes do, or even the session."""
    kill_all(lambda process: _belongs(process, session, mark), LOOKS)


def _belongs(process: int, session: int, mark: str) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return False
    state, _, _, of = stat.rpartition(b")")[2].split()[:4]  # the name before it may hold anything
    return state not in b"ZX" and (int(of) == session or has_mark(process, mark.encode()))
