"""The process that clears up after programs when nobody else can. Run as a script; it waits on its input, which costs nothing.

Lines say what is there: `+123` when the process group 123 has started, `-123` when it is gone; `>` and `<` with a
path in hexadecimal digits when a folder was made and removed. The end of the input means that the Python process is gone,
however it went. Then what is left of its groups is killed, with every process whose environment holds the mark given as the
only argument, where there is /proc, and its folders are removed.
"""

# imports little: it starts with every process that runs programs
from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

#: Times that what is marked is looked for: a process that was starting another one may be found before it.
LOOKS = 20


class Told:
    """What was said: the groups that run, and the folders that are there."""

    def __init__(self) -> None:
        self.groups: set[int] = set()
        self.folders: set[bytes] = set()

    def hear(self, line: bytes) -> None:
        """Take note of one line."""
        sign, words = line[:1], line[1:]
        if sign == b">":
            self.folders.add(bytes.fromhex(words.decode()))
        elif sign == b"<":
            self.folders.discard(bytes.fromhex(words.decode()))
        else:
            (self.groups.add if sign == b"+" else self.groups.discard)(int(words))


def main(mark: bytes) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its input, not before
    os.chdir("/")
    told = Told()
    listen(told)
    for group in told.groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    kill_all(lambda process: _has_mark(process, mark), LOOKS, processes)
    remove(told.folders)


def listen(told: Told) -> None:
    """Hear all that is said."""
    rest = b""
    while heard := os.read(0, 65536):
        *lines, rest = (rest + heard).split(b"\n")
        for line in lines:
            told.hear(line)


def kill_all(are_meant: Callable[[int], bool], looks: int, candidates: Callable[[], Iterable[int]]) -> None:
    """Kill every process that is meant, and what they start meanwhile.

    Args:
        are_meant: whether a process is.
        looks: for them, at most.
        candidates: the processes that are looked at, asked for until there is none that was not cleared before.
    """
    cleared: set[int] = set()
    for _ in range(looks):
        fresh = set(candidates()) - cleared
        if not fresh:
            return
        found = {process for process in fresh if are_meant(process)}
        for process in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        cleared |= fresh - found
        if found:
            time.sleep(0.01)


def remove(folders: set[bytes]) -> None:
    """Remove folders with all in them."""
    if folders:
        import shutil  # noqa: PLC0415 - seldom needed

        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def processes() -> list[int]:
    """All processes but this one; none where there is no /proc."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]  # noqa: PTH208
    except OSError:
        return []


def _has_mark(process: int, mark: bytes) -> bool:
    try:
        return mark in environment(process)
    except OSError:
        return False


def environment(process: int) -> bytes:
    """That a process was started with; nothing of one that has ended, or is just becoming another program.

    Raises:
        OSError: it is gone, or another user's.
    """
    with open(f"/proc/{process}/environ", "rb") as file:  # noqa: PTH123 - pathlib is not imported
        return file.read()


if __name__ == "__main__":
    main(os.fsencode(sys.argv[1]))
