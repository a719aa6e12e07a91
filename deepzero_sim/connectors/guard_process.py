"""The process that ends a killed Python process's programs. Run as a script; it waits on its input, which costs nothing.

Lines say what runs: `+123` when the process group 123 has started, `-123` when it is gone. The end of the input means that
the Python process is gone, however it went. Then what is left of its groups is killed, and, where there is /proc, every process
whose environment holds the mark given as the only argument.
"""

# imports little: it starts with every process that runs programs
from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

#: Times that what is marked is looked for: a process that was starting another one may be found before it.
LOOKS = 5


def main(mark: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its input, not before
    os.chdir("/")
    for group in groups_left():
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for _ in range(LOOKS):
        if not kill_marked(mark):
            return
        time.sleep(0.01)


def groups_left() -> set[int]:
    """The groups that had not ended when the input did."""
    running: set[int] = set()
    for line in sys.stdin:
        if line.endswith("\n"):
            (running.add if line.startswith("+") else running.discard)(int(line[1:]))
    return running


def kill_marked(mark: str) -> bool:
    """Kill every process that has a mark in its environment; whether there was one."""
    found = [process for process in processes() if has_mark(process, mark)]
    for process in found:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)
    return bool(found)


def processes() -> list[int]:
    """All processes but this one; none where there is no /proc."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]  # noqa: PTH208
    except OSError:
        return []


def has_mark(process: int, mark: str) -> bool:
    """Whether a process that lives has a mark in the environment that it was started with."""
    try:
        with open(f"/proc/{process}/environ", "rb") as file:  # noqa: PTH123 - pathlib is not imported
            return mark.encode() in file.read()
    except OSError:  # it is gone, or another user's
        return False


if __name__ == "__main__":
    main(sys.argv[1])
