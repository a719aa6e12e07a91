"""Cancellation by Ctrl-C, which reaches the main thread only: passed on to worker threads, and to what they wait for."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Stoppable(Protocol):
    """Object that waits for something that can be ended."""

    def stop(self) -> None:
        """End what it waits for."""


class CancellationScope:
    """Scope that ends the tasks of this process's threads. One serves the whole process: :data:`cancellation`."""

    def __init__(self) -> None:
        self._count = 0
        self._here = threading.local()
        self._waiting: weakref.WeakSet[Stoppable] = weakref.WeakSet()

    def register(self, waiting: Stoppable) -> None:
        """Stop this object too when tasks are cancelled, for as long as it lives."""
        self._waiting.add(waiting)

    def cancel(self) -> None:
        """End every task that is under way."""
        self._count += 1
        for waiting in list(self._waiting):
            waiting.stop()

    @contextmanager
    def task(self) -> Iterator[None]:
        """Mark a task of this thread, or a part of one."""
        before = getattr(self._here, "began", None)
        self._here.began = self._count if before is None else before
        try:
            yield
        finally:
            self._here.began = before

    def check(self) -> None:
        """Raise KeyboardInterrupt if this thread's task was cancelled."""
        if getattr(self._here, "began", None) not in (None, self._count):
            raise KeyboardInterrupt


cancellation = CancellationScope()
