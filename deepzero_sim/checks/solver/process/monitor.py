"""The far side of a child process that may die: the child itself, and a monitor process beside it.

The monitor runs no code of the user's. So it can say how the child ended, and end it, whatever the child does: even one that
holds Python's lock for ever, or whose parent was killed.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import select
import signal
import struct
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, NoReturn, TypeAlias

import cloudpickle

#: Seconds between two looks at a child.
PAUSE = 0.03

#: What a child runs; it answers through the connection.
Task: TypeAlias = Callable[[Connection], None]

#: Format in which a child's wait status is sent.
STATUS = struct.Struct("i")


class ChildEnds(NamedTuple):
    """File descriptors of the child's ends.

    Args:
        lifeline: Socket for the child's wait status; it closes when nobody waits for the child any more.
        channel: Connection for the child's messages.
        output: Pipe for all that the child prints.
    """

    lifeline: int
    channel: int
    output: int


def fork() -> int:
    """Fork without a warning about threads: what comes of them shows in the child."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return os.fork()


def monitor(ends: ChildEnds, task: Task) -> NoReturn:
    """Run a task in a child until it or the lifeline ends; to be called in a process that was forked for it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = fork()
    if child == 0:
        _run(ends, task)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the lifeline alone ends it
    os.close(ends.channel)
    os.close(ends.output)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended or select.select([ends.lifeline], [], [], PAUSE)[0]:
            break
    _kill(child)  # or what it has started
    if ended:
        with suppress(OSError):
            os.write(ends.lifeline, STATUS.pack(status))
    else:
        os.waitpid(child, 0)
    os._exit(0)


def _kill(child: int) -> None:
    """Kill a child and its process group, whichever is there."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(child, signal.SIGKILL)


def _run(ends: ChildEnds, task: Task) -> NoReturn:
    os.setsid()  # Ctrl-C reaches the process that waits, which ends this one
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.close(ends.lifeline)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(ends.output, 1)
    os.dup2(ends.output, 2)
    sys.stdout, sys.stderr = (open(end, "w", buffering=1, errors="replace", closefd=False) for end in (1, 2))  # noqa: SIM115
    faulthandler.enable(2, all_threads=False)
    try:
        task(Connection(ends.channel))
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(0)  # whatever threads there are


def send(channel: Connection, message: object) -> None:
    """Send any object that can be pickled."""
    channel.send_bytes(cloudpickle.dumps(message))


def receive(channel: Connection) -> Any:
    """Receive the next message."""
    return pickle.loads(channel.recv_bytes())  # noqa: S301 - of a process of ours
