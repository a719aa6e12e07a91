"""A child process that may die of what it is asked, seen from the process that waits for its answers."""

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

from deepzero_sim.checks.solver.minder import STATUS, Ends, Task, fork, mind, receive, send
from deepzero_sim.checks.solver.zygote import Errand, import_path, zygote

#: Bytes of what a child printed that are kept, the last ones; seconds that its end is waited for once it is silent; letters
#: of its last line that are told.
KEPT, SILENCE, TOLD = 2**14, 5.0, 120

#: What Python's fault handler prints, and one of its frames.
_FAULT, _FRAME = "Fatal Python error: ", re.compile(r'^  File "(.+)", line (\d+) in ', re.MULTILINE)

#: Where frames are not the user's.
_OURS = (f"{Path(__file__).parent}{os.sep}", f"{Path(__file__).parents[2] / 'solver'}{os.sep}")


class ChildEndedError(Exception):
    """A child process gives no more answers. The message says how it ended, as the beginning of a sentence."""


@final
class ChildProcess:
    """A child process, which is ended with the context.

    Args:
        task: that it runs: pickled, to be run in a process that has imported nothing of the user's; or to be run in a fork of
            this one.

    Attributes:
        printed: bytes that it has printed.
    """

    def __init__(self, task: bytes | Task) -> None:
        self.printed = 0
        self._last = b""
        self._minder: int | None = None
        self._channel, channel = Pipe()
        self._lifeline, lifeline = socket.socketpair()
        self._output, output = os.pipe()
        self._listening: list[Any] = [self._channel, self._lifeline, self._output]
        try:
            self._start(Ends(lifeline.fileno(), channel.fileno(), output), task)
        finally:
            lifeline.close()
            channel.close()
            os.close(output)
        if isinstance(task, bytes):
            with suppress(OSError):  # it is dead, which is seen when it is listened to
                send(self._channel, Errand(os.getcwd(), import_path(), dict(os.environ), task))  # noqa: PTH109

    def _start(self, ends: Ends, task: bytes | Task) -> None:
        if isinstance(task, bytes):
            zygote.fork(ends)
            return
        self._minder = fork()
        if self._minder:
            return
        try:
            for end in (self._lifeline.fileno(), self._channel.fileno(), self._output):
                os.close(end)
            mind(ends, task)
        finally:
            os._exit(1)  # what called this one goes on in the process that was forked, not here

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self._lifeline.close()
        self._channel.close()
        os.close(self._output)
        if self._minder is not None:
            with suppress(ChildProcessError):
                os.waitpid(self._minder, 0)

    def receive(self, seconds: float) -> Any:
        """The next message.

        Args:
            seconds: to wait for it.

        Raises:
            ChildEndedError: the child died, or sent nothing in that time.
        """
        end = time.monotonic() + seconds
        while True:
            ready = wait(self._listening, max(0.0, end - time.monotonic()))
            if self._output in ready:
                self._take_output()
            if self._channel in ready:
                with suppress(EOFError, OSError):
                    return receive(self._channel)
                raise self._death()
            if self._lifeline in ready:
                raise self._death()
            if time.monotonic() >= end:
                raise ChildEndedError(f"no answer came for {seconds:.0f} s")

    def _take_output(self) -> None:
        taken = os.read(self._output, 2**16)
        if not taken:  # it closed what it prints to
            self._listening.remove(self._output)
        self.printed += len(taken)
        self._last = (self._last + taken)[-KEPT:]

    def _death(self) -> ChildEndedError:
        status = b""
        self._lifeline.settimeout(SILENCE)
        with suppress(OSError):
            status = self._lifeline.recv(STATUS.size)
        while self._output in wait(self._listening[2:], 0):
            self._take_output()
        how = _how(os.waitstatus_to_exitcode(*STATUS.unpack(status))) if status else "closed its connection to this one"
        said, _, fault = self._last.decode(errors="replace").partition(_FAULT)
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        last = f", after it printed {lines[-1][:TOLD]!r}" if lines else ""
        return ChildEndedError(f"the process {how}{_where(fault)}{last}")


def _how(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"ended with exit status {status}"
    if status == -signal.SIGKILL:
        return "was killed by SIGKILL (out of memory, perhaps)"
    known = -status in set(signal.Signals)
    return f"was killed by {signal.Signals(-status).name if known else f'signal {-status}'}"


def _where(fault: str) -> str:
    """The user's line that the fault handler names, in words; nothing if there is none."""
    frames: list[tuple[str, str]] = _FRAME.findall(fault)
    ours = next((i for i, (file, _) in enumerate(frames) if file.startswith(_OURS)), 0)
    file, line = frames[ours - 1] if ours else ("", "")
    return f" ({Path(file).name}, line {line})" if file else ""
