"""Processes of a solver's program: their time is limited, and nothing is left of them afterwards."""

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
from deepzero_sim.connectors.programs.guard_process import environment, kill_all, processes

#: Seconds that a program has to end by itself when its time is over.
GRACE = 0.5

#: Seconds in which no system goes through all of its process numbers, so that what a program starts has higher ones than it.
ORDERED = 1.0

#: Process numbers that are tried one by one, rather than all processes listed.
FEW = 64

#: Looks at a process whose environment is missing because it is just becoming another program; and seconds between them.
STARTING, PAUSE = 10, 0.001

#: Flag in /proc/PID/stat of threads of the system itself, which have no environment.
SYSTEM_THREAD = 0x00200000


@dataclass(frozen=True)
class Invocation:
    """One run of a program.

    Args:
        command: Path of the program, and its arguments.
        folder: Folder to run in.
        environment: Environment of the program.
        output: Descriptors of the files for its stdout and stderr.
        timeout: Seconds that it may take.
        stdin: Path of the file that it reads as its standard input; nothing if None.
    """

    command: Sequence[str]
    folder: Path
    environment: Mapping[bytes, bytes]
    output: tuple[int, int]
    timeout: float
    stdin: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """End of a program: its exit status, or minus the number of the signal that ended it, and whether it came in time."""

    status: int
    in_time: bool


class ProgramRunner:
    """Runs the programs of one solver in this process. Each has a session of its own, so that all of it can be ended.

    Only what gives itself a new session and a new environment escapes, or, where there is no /proc, a new process group.

    Attributes:
        stop_count: Number of calls of :meth:`stop`; a run that was asked for before the last of them does not start.
    """

    def __init__(self) -> None:
        self._running: dict[int, int] = {}  # with the process that started each: a fork must not end its parent's
        self._lock = threading.Lock()
        self.stop_count = 0

    def run(self, invocation: Invocation, stop_count: int) -> Outcome:
        """Run a program until it ends, or its time is over.

        Args:
            invocation: Program to run.
            stop_count: Value of :attr:`stop_count` when it was asked for.

        Raises:
            OSError: The program cannot be started.
        """
        mark = guard.new_mark()
        process, started = _start(invocation, mark), time.monotonic()
        in_time = False
        try:
            self._register(process.pid, stop_count)
            in_time = _wait(process, invocation.timeout)
            if not in_time:
                _kill_group(process.pid, signal.SIGTERM)
                _wait(process, GRACE)
        finally:
            self._end(process, mark, ordered=time.monotonic() < started + ORDERED)
        return Outcome(process.returncode, in_time)

    def _register(self, process: int, stop_count: int) -> None:
        guard.register_group(process)
        with self._lock:
            self._running[process] = os.getpid()
            if stop_count != self.stop_count:
                _kill_group(process, signal.SIGKILL)

    def _end(self, process: subprocess.Popen[bytes], mark: str, *, ordered: bool) -> None:
        """Kill what is left; the program is reaped last, so that its number stays its own until then."""
        with self._lock:
            self._running.pop(process.pid, None)
        _kill_group(process.pid, signal.SIGKILL)
        _kill_descendants(process.pid, mark, ordered)
        process.wait()
        guard.forget_group(process.pid)

    def stop(self) -> None:
        """Kill all programs that run."""
        with self._lock:
            self.stop_count += 1
            for process, owner in self._running.items():
                if owner == os.getpid():
                    _kill_group(process, signal.SIGKILL)

    def __reduce__(self) -> tuple[type[ProgramRunner], tuple[()]]:
        return ProgramRunner, ()  # another process has programs of its own


def _start(invocation: Invocation, mark: str) -> subprocess.Popen[bytes]:
    name, _, value = mark.encode().partition(b"=")
    stdin = os.open(os.devnull if invocation.stdin is None else invocation.stdin, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return subprocess.Popen(  # noqa: S603 - no shell, and the user's own program
            invocation.command,
            cwd=invocation.folder,
            env={**invocation.environment, name: value},
            stdin=stdin,
            stdout=invocation.output[0],
            stderr=invocation.output[1],
            start_new_session=True,
        )
    finally:
        os.close(stdin)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Tell whether a program ends in time. Where the system allows it, at once and without reaping the program."""
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


def _kill_descendants(program: int, mark: str, ordered: bool) -> None:
    """Kill the processes that left the group of their program, as OpenMPI's do, or even its session.

    They are found in /proc, by the session or by the mark: a process whose parent has ended is no descendant of ours any more.
    Process numbers rise until the system starts again from the lowest, so that after a short run those above the program's own
    are enough to look at, and a call costs no walk through all of /proc.

    Args:
        program: Process of the program, which is not reaped yet.
        mark: Entry in the environment of all that it started.
        ordered: True if all that it started has higher numbers: then few processes need a look, or none.
    """
    kill_all(
        lambda process: _belongs_to(process, program, mark.encode()),
        (lambda: _processes_after(program)) if ordered else processes,
    )


def _processes_after(program: int) -> list[int]:
    """List the processes that may have been started after a program, few of which exist; all where the system does not tell."""
    try:
        last = int(Path("/proc/loadavg").read_bytes().split()[-1])
    except (OSError, ValueError, IndexError):
        return processes()
    if program <= last <= program + FEW:
        return [process for process in range(program + 1, last + 1) if process != os.getpid()]
    return [process for process in processes() if process > program or last <= program]


def _belongs_to(process: int, session: int, mark: bytes) -> bool:
    """Tell whether a process is of a session, or was started with a mark in its environment."""
    for _ in range(STARTING):
        try:
            stat = Path(f"/proc/{process}/stat").read_bytes()
        except OSError:
            return False
        state, _, _, own_session, _, _, flags = stat.rpartition(b")")[2].split()[:7]  # the name before it may hold anything
        if state in b"ZX" or int(flags) & SYSTEM_THREAD:
            return False
        if int(own_session) == session:
            return True
        try:
            entries = environment(process)
        except OSError:
            return False
        if entries:
            return mark in entries
        time.sleep(PAUSE)
    return False
