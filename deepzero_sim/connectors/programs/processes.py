"""Running a solver's program: its time is limited, and nothing is left of it afterwards."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepzero_sim.connectors.programs.guard import guard
from deepzero_sim.connectors.programs.guard_process import LOOKS, environment, kill_all, processes

#: Seconds that a program has to end by itself when its time is over.
GRACE = 0.5

#: Seconds in which no system goes through all of its process numbers, so that what a program starts has higher ones than it.
ORDERED = 1.0

#: Numbers that are tried one by one, rather than all processes listed.
FEW = 64

#: Looks at a process whose environment is not there because it is just becoming another program; and seconds between them.
STARTING, PAUSE = 10, 0.001

#: The flag in /proc/PID/stat of threads of the system itself, which have no environment.
SYSTEM_THREAD = 0x00200000


@dataclass(frozen=True)
class Run:
    """What to run, and where.

    Args:
        command: the program, by its path, and its arguments.
        folder: to run in.
        environment: of the program.
        output: descriptors of files for what it says on stdout and stderr.
        timeout: seconds it may take.
        stdin: path of the file that it reads as its standard input; nothing if None.
    """

    command: Sequence[str]
    folder: Path
    environment: Mapping[bytes, bytes]
    output: tuple[int, int]
    timeout: float
    stdin: Path | None = None


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
        process, started = _start(what, mark), time.monotonic()
        in_time = False
        try:
            self._register(process.pid, stops)
            in_time = _wait(process, what.timeout)
            if not in_time:
                _kill_group(process.pid, signal.SIGTERM)
                _wait(process, GRACE)
        finally:
            self._end(process, mark, ordered=time.monotonic() < started + ORDERED)
        return Ended(process.returncode, in_time)

    def _register(self, process: int, stops: int) -> None:
        guard.started(process)
        with self._changing:
            self._running[process] = os.getpid()
            if stops != self._stops:
                _kill_group(process, signal.SIGKILL)

    def _end(self, process: subprocess.Popen[bytes], mark: str, *, ordered: bool) -> None:
        """Kill what is left; the program is reaped last, so that its number stays its own until then."""
        with self._changing:
            self._running.pop(process.pid, None)
        _kill_group(process.pid, signal.SIGKILL)
        _kill_left(process.pid, mark, ordered)
        process.wait()
        guard.ended(process.pid)

    def stop(self) -> None:
        """Kill all that run."""
        with self._changing:
            self._stops += 1
            for process, owner in self._running.items():
                if owner == os.getpid():
                    _kill_group(process, signal.SIGKILL)

    def __reduce__(self) -> tuple[type[Programs], tuple[()]]:
        return Programs, ()  # another process has programs of its own


def _start(what: Run, mark: str) -> subprocess.Popen[bytes]:
    name, _, value = mark.encode().partition(b"=")
    descriptor = os.open(os.devnull if what.stdin is None else what.stdin, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return subprocess.Popen(  # noqa: S603 - no shell, and the user's own program
            what.command,
            cwd=what.folder,
            env={**what.environment, name: value},
            stdin=descriptor,
            stdout=what.output[0],
            stderr=what.output[1],
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


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


def _kill_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing but a process that is to be reaped is left
        os.killpg(group, number)


def _kill_left(program: int, mark: str, ordered: bool) -> None:
    """Kill what left the group of its program, as OpenMPI's processes do, or even the session.

    Args:
        program: the process, which is not reaped yet.
        mark: in the environment of all that it started.
        ordered: whether all that it started has higher numbers: then few processes need a look, or none.
    """
    kill_all(
        lambda process: _belongs(process, program, mark.encode()),
        LOOKS,
        (lambda: _after(program)) if ordered else processes,
    )


def _after(program: int) -> list[int]:
    """All processes that may have been started after one, few of which are there; all where the system does not tell."""
    try:
        last = int(Path("/proc/loadavg").read_bytes().split()[-1])
    except (OSError, ValueError, IndexError):
        return processes()
    if program <= last <= program + FEW:
        return [process for process in range(program + 1, last + 1) if process != os.getpid()]
    found = processes()
    return [process for process in found if process > program] if last > program else found


def _belongs(process: int, session: int, mark: bytes) -> bool:
    for _ in range(STARTING):
        try:
            stat = Path(f"/proc/{process}/stat").read_bytes()
        except OSError:
            return False
        state, _, _, of, _, _, flags = stat.rpartition(b")")[2].split()[:7]  # the name before it may hold anything
        if state in b"ZX" or int(flags) & SYSTEM_THREAD:
            return False
        if int(of) == session:
            return True
        try:
            held = environment(process)
        except OSError:
            return False
        if held:
            return mark in held
        time.sleep(PAUSE)
    return False
