"""Process that clears up after programs when nobody else can. Run as a script; it waits on its input, which costs nothing.

Each line of its input is an event: `+123` when the process group 123 has started, `-123` when it is gone; `>` and `<` with a
path in hexadecimal digits when a folder was made and removed. The end of the input means that the Python process is gone,
however it went. Then the groups that still run are killed, with every process whose environment holds the mark given as the
only argument, where there is /proc, and the folders that still exist are removed.
"""

# imports little: it starts with every process that runs programs
from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

#: Rounds of the search for marked processes: one that was starting another may be found before it.
MOST_ROUNDS = 20


def main(mark: bytes) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its input, not before
    os.chdir("/")
    groups, folders = read_events()
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    kill_all(lambda process: _has_mark(process, mark), processes)
    remove_folders(folders)


def read_events() -> tuple[set[int], set[bytes]]:
    """Read events until the input ends; return the process groups that run then, and the folders that exist."""
    groups, folders, rest = set[int](), set[bytes](), b""
    while content := os.read(0, 65536):
        *events, rest = (rest + content).split(b"\n")
        for sign, subject in ((event[:1], event[1:].decode()) for event in events):
            if sign in (b">", b"<"):
                (folders.add if sign == b">" else folders.discard)(bytes.fromhex(subject))
            else:
                (groups.add if sign == b"+" else groups.discard)(int(subject))
    return groups, folders


def kill_all(is_target: Callable[[int], bool], candidates: Callable[[], Iterable[int]]) -> None:
    """Kill all processes of some kind, and those that they start meanwhile.

    Args:
        is_target: Tells whether a process is of that kind.
        candidates: Lists the processes to look at; asked again until it lists none that was not spared before.
    """
    spared: set[int] = set()
    for _ in range(MOST_ROUNDS):
        fresh = set(candidates()) - spared
        if not fresh:
            return
        targets = {process for process in fresh if is_target(process)}
        for process in targets:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        spared |= fresh - targets
        if targets:
            time.sleep(0.01)


def remove_folders(folders: set[bytes]) -> None:
    """Remove folders with all in them."""
    if folders:
        import shutil  # noqa: PLC0415 - seldom needed

        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def processes() -> list[int]:
    """List all processes but this one; none where there is no /proc."""
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
    """Read the environment that a process was started with; empty if it has ended, or is just becoming another program.

    Raises:
        OSError: The process is gone, or another user's.
    """
    with open(f"/proc/{process}/environ", "rb") as file:  # noqa: PTH123 - pathlib is not imported
        return file.read()


if __name__ == "__main__":
    main(os.fsencode(sys.argv[1]))
