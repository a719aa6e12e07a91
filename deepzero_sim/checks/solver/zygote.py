"""A process that has imported the package and nothing of the user's, and is forked for each child that a solver is asked in.

This process may have threads, a graphics card or MPI, and a fork survives none of them. To start the other one takes as long as
to import torch, to fork it takes no time. It ends with this process.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NamedTuple, NoReturn

import cloudpickle

from deepzero_sim.checks.solver.minder import Ends, fork, mind, receive, send
from deepzero_sim.errors import WorkerLostError
from deepzero_sim.execution.executors import ONE_THREAD

#: Seconds that it may take to start.
START = 120.0

_CHECK = f"{sys.executable} -c 'import deepzero_sim'"
_CODE = "import sys; sys.path[:] = {path!r}; from deepzero_sim.checks.solver.zygote import serve; serve({descriptor})"


class Errand(NamedTuple):
    """What a child is to do, and where.

    Args:
        folder: that it works in.
        path: where it imports from.
        environment: its variables.
        task: a pickled task.
    """

    folder: str
    path: list[str]
    environment: dict[str, str]
    task: bytes


class Unsendable(NamedTuple):
    """What a child answers that cannot unpickle its task.

    Args:
        why: in words.
    """

    why: str


class Zygote:
    """Forks children, for as long as this process lives; started when the first one is needed."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._owner = 0
        atexit.register(self._end)

    def start(self) -> None:
        """Start the process that forks, if it is not there."""
        with self._starting:
            self._running()

    def fork(self, ends: Ends) -> None:
        """Fork a child that waits for an errand.

        Args:
            ends: of its pipes.
        """
        with self._starting:
            socket.send_fds(self._running(), [b"!"], list(ends))

    def _running(self) -> socket.socket:
        if self._requests is None or self._process is None or not self._is_ours or self._process.poll() is not None:
            self._requests = self._start()
        return self._requests

    @property
    def _is_ours(self) -> bool:
        """Whether this process started it, and is no fork of the one that did."""
        return self._owner == os.getpid()

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        code = _CODE.format(path=import_path(), descriptor=theirs.fileno())
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this Python
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, **ONE_THREAD},
                start_new_session=True,  # Ctrl-C is not for it
            )
        self._owner = os.getpid()
        ours.settimeout(START)
        with suppress(OSError):
            if ours.recv(1):
                ours.settimeout(None)
                return ours
        raise WorkerLostError(f"no process could be started to ask the solver in: see whether {_CHECK} works.")

    def _end(self) -> None:
        if self._requests is not None and self._process is not None and self._is_ours:
            self._requests.close()
            self._process.wait()


zygote = Zygote()


def import_path() -> list[str]:
    """Folders that this process imports from."""
    return [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]  # noqa: PTH100 - an archive may be one


def warm_up() -> None:
    """Import what every child would import anew, which takes a second: making a network does."""
    import torch._dynamo  # noqa: F401, PLC0415


def serve(descriptor: int) -> NoReturn:
    """Fork a child for each set of pipes that comes, until the other side closes.

    Args:
        descriptor: of the socket that they come from.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    warm_up()
    requests = socket.socket(fileno=descriptor)
    requests.send(b"!")
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1, len(Ends._fields))
        if not message:
            os._exit(0)
        if fork() == 0:
            requests.close()
            mind(Ends(*descriptors), _run_errand)
        for each in descriptors:
            os.close(each)


def _run_errand(channel: Connection) -> None:
    errand: Errand = receive(channel)
    os.chdir(errand.folder)
    sys.path[:] = errand.path
    os.environ.clear()
    os.environ.update(errand.environment)
    try:
        task = cloudpickle.loads(errand.task)
    except BaseException as error:  # whatever code of the user's raises
        send(channel, Unsendable(f"{type(error).__name__}: {error}"))
    else:
        task(channel)
