"""Start of the program: Ctrl-C ends it in a sentence from the first moment, also while Python imports for seconds."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

PROGRAM = "deepzero-sim"

#: Time of `time.monotonic` when the program was started, in a list; none where commands are called from Python.
_began: list[float] = []


def began() -> float | None:
    """Return the time of `time.monotonic` when the program was started; None where commands are called from Python."""
    return _began[0] if _began else None


def main() -> int:
    """Import the command line and run it on the program's arguments; returns the exit status."""
    _began.append(time.monotonic())
    with leave_when_interrupted():
        run: Callable[[], int] = import_module("deepzero_sim.cli.main").main
    return run()


@contextmanager
def leave_when_interrupted() -> Iterator[None]:
    """End the program at once on Ctrl-C or SIGTERM inside, which is for imports: nothing has begun that could be lost.

    An exception raised amid them would turn up as whatever an extension module makes of it.
    """
    taken = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is signal.default_int_handler]
    if threading.current_thread() is not threading.main_thread():
        taken = []
    for number in taken:
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.default_int_handler)


def _leave(*_: object) -> None:
    sys.stderr.write(f"{PROGRAM}: interrupted before anything was begun.\n")
    sys.stderr.flush()
    os._exit(2)
