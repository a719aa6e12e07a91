"""A child process that may die of what it is asked, as the process sees it that waits for its answers."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from contextlib import suppress
from multiprocessing.connection import Pipe, wait
from pathlib import Path
from typing import Any, final

from deepzero_sim.checks.solver.process.fork_server import Job, fork_server, import_path
from deepzero_sim.checks.solver.process.monitor import STATUS, ChildEnds, Task, fork, monitor, receive, send

#: Last bytes to remember of what a child prints; seconds to wait for the end of a silent child; letters of its last line to
#: show.
MOST_OUTPUT, SILENCE, MOST_SHOWN = 2**14, 5.0, 120

#: First words of Python's fault handler, and one of its frames.
_FAULT, _FRAME = "Fatal Python error: ", re.compile(r'^  File "(.+)", line (\d+) in ', re.MULTILINE)

#: Folders of frames that are not the user's.
_OURS = (f"{Path(__file__).parents[1]}{os.sep}", f"{Path(__file__).parents[3] / 'solver'}{os.sep}")


class ChildEndedError(Exception):
    """A child process gives no more answers. The message says how it ended, as the beginning of a sentence."""


@final
class ChildProcess:
    """A child process, which ends with the context.

    Args:
        task: Task, pickled, for a process that has imported nothing of the user's; or as it is, for a fork of this process.

    Attributes:
        printed: Number of bytes that the child has printed.
    """

    def __init__(self, task: bytes | Task) -> None:
        self.printed = 0
        self._last = b""
        self._monitor: int | None = None
        self._channel, channel = Pipe()
        self._lifeline, lifeline = socket.socketpair()
        self._output, output = os.pipe()
        self._listening: list[Any] = [self._channel, self._lifeline, self._output]
        try:
            self._start(ChildEnds(lifeline.fileno(), channel.fileno(), output), task)
        finally:
            lifeline.close()
            channel.close()
            os.close(output)
        if isinstance(task, bytes):
            with suppress(OSError):  # a dead child is noticed when it is listened to
                send(self._channel, Job(os.getcwd(), import_path(), dict(os.environ), task))  # noqa: PTH109

    def _start(self, ends: ChildEnds, task: bytes | Task) -> None:
        if isinstance(task, bytes):
            fork_server.fork(ends)
            return
        self._monitor = fork()
        if self._monitor:
            return
        try:
            for end in (self._lifeline.fileno(), self._channel.fileno(), self._output):
                os.close(end)
            monitor(ends, task)
        finally:
            os._exit(1)  # the fork must never return into the caller's code

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self._lifeline.close()
        self._channel.close()
        os.close(self._output)
        if self._monitor is not None:
            with suppress(ChildProcessError):
                os.waitpid(self._monitor, 0)

    def receive(self, seconds: float) -> Any:
        """Wait so many seconds for the next message.

        Raises:
            ChildEndedError: The child died, or sent nothing in that time.
        """
        end = time.monotonic() + seconds
        while True:
            ready = wait(self._listening, max(0.0, end - time.monotonic()))
            if self._output in ready:
                self._read_output()
            if self._channel in ready:
                with suppress(EOFError, OSError):
                    return receive(self._channel)
                raise self._death()
            if self._lifeline in ready:
                raise self._death()
            if time.monotonic() >= end:
                raise ChildEndedError(f"no answer came for {seconds:.0f} s")

    def _read_output(self) -> None:
        output = os.read(self._output, 2**16)
        if not output:  # the child closed what it prints to
            self._listening.remove(self._output)
        self.printed += len(output)
        self._last = (self._last + output)[-MOST_OUTPUT:]

    def _death(self) -> ChildEndedError:
        status = b""
        self._lifeline.settimeout(SILENCE)
        with suppress(OSError):
            status = self._lifeline.recv(STATUS.size)
        while self._output in wait(self._listening[2:], 0):
            self._read_output()
        how = _how(os.waitstatus_to_exitcode(*STATUS.unpack(status))) if status else "closed its connection to this one"
        output, _, fault = self._last.decode(errors="replace").partition(_FAULT)
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        last = f", after it printed {lines[-1][:MOST_SHOWN]!r}" if lines else ""
        return ChildEndedError(f"the process {how}{_where(fault)}{last}")


def _how(status: int) -> str:
    """Say how a process ended."""
    if status >= 0:
        return f"ended with exit status {status}"
    if status == -signal.SIGKILL:
        return "was killed by SIGKILL (out of memory, perhaps)"
    known = -status in set(signal.Signals)
    return f"was killed by {signal.Signals(-status).name if known else f'signal {-status}'}"


def _where(fault: str) -> str:
    """Say which line of the user's the fault handler names; empty if there is none."""
    frames: list[tuple[str, str]] = _FRAME.findall(fault)
    ours = next((i for i, (file, _) in enumerate(frames) if file.startswith(_OURS)), 0)
    file, line = frames[ours - 1] if ours else ("", "")
    return f" ({Path(file).name}, line {line})" if file else ""
