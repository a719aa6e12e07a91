"""Programs and their folders never outlive the Python process that made them, even one that was killed without a chance.

A small process beside it, started with the first of them, is told over a pipe which process groups run and which folders are
there. When the pipe closes, it kills and removes those that are left (`guard_process.py`). Three writes a call wake it.
"""

from __future__ import annotations

import itertools
import os
import secrets
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

#: The variable by which programs and all that they start are found again.
VARIABLE = "DEEPZERO_SIM_CALL"

SCRIPT = Path(__file__).with_name("guard_process.py")


class Guard:
    """Ends the programs of this process with it. One serves the whole process: :data:`guard`."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._forked)

    def _reset(self) -> None:
        self._pipe: int | None = None
        self._there: set[str] = set()
        self._later = ""
        self._changing = threading.Lock()
        self._mark = f"{VARIABLE}={secrets.token_hex(8)}:"
        self._calls: Iterator[int] = itertools.count()

    def _forked(self) -> None:
        """A copy of a process has programs of its own; the pipe must close with the process that opened it."""
        if self._pipe is not None:
            os.close(self._pipe)
        self._reset()

    def new_mark(self) -> str:
        """What the environment of one call's programs holds, `VARIABLE=value`, and of no other's."""
        with self._changing:
            if self._pipe is None:
                self._start()
        return f"{self._mark}{next(self._calls)};"

    def started(self, group: int) -> None:
        """A process group has started."""
        self._begins(f"+{group}")

    def ended(self, group: int) -> None:
        """Nothing is left of a process group. Its number may soon be another's: it is told at once."""
        with self._changing:
            self._there.discard(f"+{group}")
            self._tell(f"-{group}")

    def made(self, folder: Path) -> None:
        """A folder was made, which is to be removed."""
        self._begins(f">{_path(folder)}")

    def removed(self, folder: Path) -> None:
        """A folder was removed. There is time to tell it, its name will not be another's."""
        line = _path(folder)
        with self._changing:
            self._there.discard(f">{line}")
            self._later += f"<{line}\n"

    def _begins(self, line: str) -> None:
        with self._changing:
            self._there.add(line)
            self._tell(line)

    def _tell(self, line: str) -> None:
        if self._pipe is None:
            self._start()  # which tells all that is there
            return
        try:
            os.write(self._pipe, f"{self._later}{line}\n".encode())
            self._later = ""
        except BrokenPipeError:  # someone killed the guard
            os.close(self._pipe)
            self._start()

    def _start(self) -> None:
        reading, self._pipe = os.pipe()
        silent = os.open(os.devnull, os.O_WRONLY)
        redirected = [(os.POSIX_SPAWN_DUP2, reading, 0), (os.POSIX_SPAWN_DUP2, silent, 1), (os.POSIX_SPAWN_DUP2, silent, 2)]
        command = [sys.executable, "-I", "-S", str(SCRIPT), self._mark]
        unmarked = {name: value for name, value in os.environ.items() if name != VARIABLE}  # we may be such a program ourselves
        try:  # in its own session, where neither Ctrl-C of a terminal nor the end of a session that we run in reaches it
            os.posix_spawn(sys.executable, command, unmarked, file_actions=redirected, setsid=True)
        finally:
            os.close(reading)
            os.close(silent)
        self._later = ""
        os.write(self._pipe, "".join(f"{line}\n" for line in self._there).encode())


def _path(folder: Path) -> str:
    return os.fsencode(folder).hex()  # a path may hold the end of a line


guard = Guard()
