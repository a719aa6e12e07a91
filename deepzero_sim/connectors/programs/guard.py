"""Guard that keeps programs and their folders from outliving the Python process that made them, even one that is killed.

A small process (`guard_process.py`), started with the first of them, reads from a pipe which process groups run and which
folders exist. When the pipe closes, it kills and removes those that are left. It wakes for three writes a call.
"""

from __future__ import annotations

import itertools
import os
import secrets
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

#: Environment variable by which programs and all that they start are found again.
VARIABLE = "DEEPZERO_SIM_CALL"

SCRIPT = Path(__file__).with_name("guard_process.py")


class Guard:
    """Ends the programs of this process with it. One serves the whole process: :data:`guard`."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset_in_child)

    def _reset(self) -> None:
        self._pipe: int | None = None
        self._registered: set[str] = set()
        self._unsent = ""
        self._lock = threading.Lock()
        self._mark = f"{VARIABLE}={secrets.token_hex(8)}:"
        self._calls: Iterator[int] = itertools.count()

    def _reset_in_child(self) -> None:
        """Start afresh in a fork, which has programs of its own; the pipe must close with the process that opened it."""
        if self._pipe is not None:
            os.close(self._pipe)
        self._reset()

    def new_mark(self) -> str:
        """Return an environment entry, `VARIABLE=value`, that only the programs of one call will have."""
        with self._lock:
            if self._pipe is None:
                self._start()
        return f"{self._mark}{next(self._calls)};"

    def register_group(self, group: int) -> None:
        """Have a process group that has started killed with this process."""
        self._register(f"+{group}")

    def forget_group(self, group: int) -> None:
        """Forget a process group of which nothing is left: at once, since its number may soon be another's."""
        with self._lock:
            self._registered.discard(f"+{group}")
            self._send(f"-{group}")

    def register_folder(self, folder: Path) -> None:
        """Have a folder that was made removed with this process."""
        self._register(f">{_hex_path(folder)}")

    def forget_folder(self, folder: Path) -> None:
        """Forget a folder that was removed: with the next event, since its name will not be another's."""
        path = _hex_path(folder)
        with self._lock:
            self._registered.discard(f">{path}")
            self._unsent += f"<{path}\n"

    def _register(self, event: str) -> None:
        with self._lock:
            self._registered.add(event)
            self._send(event)

    def _send(self, event: str) -> None:
        if self._pipe is None:
            self._start()  # which sends all that is registered
            return
        try:
            os.write(self._pipe, f"{self._unsent}{event}\n".encode())
            self._unsent = ""
        except BrokenPipeError:  # someone killed the guard
            os.close(self._pipe)
            self._start()

    def _start(self) -> None:
        reading, self._pipe = os.pipe()
        silent = os.open(os.devnull, os.O_WRONLY)
        redirections = [(os.POSIX_SPAWN_DUP2, reading, 0), (os.POSIX_SPAWN_DUP2, silent, 1), (os.POSIX_SPAWN_DUP2, silent, 2)]
        command = [sys.executable, "-I", "-S", str(SCRIPT), self._mark]
        unmarked = {name: value for name, value in os.environ.items() if name != VARIABLE}  # we may be such a program ourselves
        try:  # in its own session, where neither Ctrl-C of a terminal nor the end of a session that we run in reaches it
            os.posix_spawn(sys.executable, command, unmarked, file_actions=redirections, setsid=True)
        finally:
            os.close(reading)
            os.close(silent)
        self._unsent = ""
        os.write(self._pipe, "".join(f"{event}\n" for event in self._registered).encode())


def _hex_path(folder: Path) -> str:
    return os.fsencode(folder).hex()  # a path may hold the end of a line


guard = Guard()
