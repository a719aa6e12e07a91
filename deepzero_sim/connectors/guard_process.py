"""The process that clears up after programs when nobody else can. Run as a script; it waits on its input, which costs nothing.

Lines say what is there: `+123 7` when the process group 123 of call 7 has started, `-123 7` when it is gone; `>` and `<` with a
path in hexadecimal digits when a folder was made and removed. The end of the input means that the Python process is gone,
however it went. Then what is left of its groups is killed, with every process whose environment holds the mark given as the
only argument, where there is /proc, and its folders are removed. Until then, processes that a call left behind, though its
program ended well, are looked for now and then.
"""

# imports little: it starts with every process that runs programs
from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

#: Times that what is marked is looked for: a process that was starting another one may be found before it.
LOOKS = 5

#: Seconds between looks for what calls left behind.
SWEEP = 5.0


class Told:
    """What was said: the groups that run, the folders that are there, and the calls that ended since the last sweep."""

    def __init__(self) -> None:
        self.groups: set[int] = set()
        self.folders: set[bytes] = set()
        self.ended: set[bytes] = set()

    def hear(self, line: bytes) -> None:
        """Take note of one line."""
        sign, words = line[:1], line[1:]
        if sign == b">":
            self.folders.add(bytes.fromhex(words.decode()))
        elif sign == b"<":
            self.folders.discard(bytes.fromhex(words.decode()))
        else:
            group, _, call = words.partition(b" ")
            (self.groups.add if sign == b"+" else self.groups.discard)(int(group))
            (self.ended.discard if sign == b"+" else self.ended.add)(call)


def main(mark: bytes) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its input, not before
    os.chdir("/")
    told = Told()
    listen(told, mark)
    for group in told.groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    kill_all(lambda process: has_mark(process, mark))
    remove(told.folders)


def listen(told: Told, mark: bytes) -> None:
    """Hear all that is said, and sweep now and then."""
    rest, swept = b"", time.monotonic()
    while True:
        pause = max(0.0, swept + SWEEP - time.monotonic()) if told.ended else None
        if select.select([0], [], [], pause)[0]:
            heard = os.read(0, 65536)
            if not heard:
                return
            *lines, rest = (rest + heard).split(b"\n")
            for line in lines:
                told.hear(line)
        if told.ended and time.monotonic() >= swept + SWEEP:
            kill_all(lambda process: call_of(process, mark) in told.ended)
            told.ended.clear()
            swept = time.monotonic()


def kill_all(are_meant: Callable[[int], bool], looks: int = LOOKS) -> None:
    """Kill every process that is meant, looking for them so often at most."""
    for _ in range(looks):
        found = [process for process in processes() if are_meant(process)]
        for process in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        if not found:
            return
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


def has_mark(process: int, mark: bytes) -> bool:
    """Whether a process that lives has a mark in the environment that it was started with."""
    return mark in environment(process)


def call_of(process: int, mark: bytes) -> bytes | None:
    """The call that a process belongs to; None if it has no such mark."""
    _, marked, call = environment(process).partition(mark)
    return call.partition(b";")[0] if marked else None


def environment(process: int) -> bytes:
    """That a process was started with; nothing if it is gone, or another user's."""
    try:
        with open(f"/proc/{process}/environ", "rb") as file:  # noqa: PTH123 - pathlib is not imported
            return file.read()
    except OSError:
        return b""


if __name__ == "__main__":
    main(os.fsencode(sys.argv[1]))
