"""Ranks that were lost, and how the program is told."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from deepzero_sim.errors import WorkerLostError


class LostRanks:
    """What rank 0 knows of lost ranks, and whether the program has been told. To be entered for as long as there are ranks.

    When a rank fails, torchrun ends all others by SIGTERM, rank 0 too, and half a minute later by SIGKILL. Inside, SIGTERM
    becomes an exception, unless one is on its way already: the program can then say its sentence before it ends.
    """

    def __init__(self) -> None:
        self._message: str | None = None
        self._known = threading.Event()
        self._told = False
        self._previous: Any = None

    def __enter__(self) -> LostRanks:
        if threading.current_thread() is threading.main_thread():  # no other may handle signals
            self._previous = signal.signal(signal.SIGTERM, self._end)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None and not self._told:  # otherwise the sentence may still have to be printed
            signal.signal(signal.SIGTERM, self._previous)

    def __bool__(self) -> bool:
        return self._message is not None

    def report(self, message: str) -> None:
        """Something was lost; the first loss is the one to tell of, others follow from it."""
        self._message = self._message or message
        self._known.set()

    def error(self) -> WorkerLostError:
        """What to tell the program, which then knows."""
        self._told = True
        return WorkerLostError(self._message or "")

    def _end(self, signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not self._known.wait(1):  # whose connection closed is usually known first
            self.report(
                "torchrun ended this program (SIGTERM) because another rank failed or the job was stopped: see what the "
                "other ranks said, and start the same command again to go on from the last checkpoint."
            )
        if not self._told:
            raise self.error()
