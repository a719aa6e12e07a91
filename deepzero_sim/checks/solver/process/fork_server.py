"""A process that has imported the package and nothing of the user's, from which every child that asks a solver is forked.

The user's process may have threads, a graphics card or MPI, and a fork survives none of them. A new Python takes as long as to
import torch, a fork of this server takes no time. The server ends with the process that started it.
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

from deepzero_sim.checks.solver.process.monitor import ChildEnds, fork, monitor, receive, send
from deepzero_sim.errors import WorkerLostError
from deepzero_sim.execution.threads import ONE_THREAD

#: Seconds that the server may take to start.
START_TIMEOUT = 120.0

_SELF_TEST = f"{sys.executable} -c 'import deepzero_sim'"
_CODE = (
    "import sys; sys.path[:] = {path!r}; from deepzero_sim.checks.solver.process.fork_server import serve; serve({descriptor})"
)


class Job(NamedTuple):
    """A child's task, and the surroundings to run it in.

    Args:
        folder: Working folder.
        path: Folders to import from.
        environment: Environment variables.
        task: Task, pickled.
    """

    folder: str
    path: list[str]
    environment: dict[str, str]
    task: bytes


class UnpicklingFailure(NamedTuple):
    """Answer of a child that cannot unpickle its task, and why."""

    why: str


class ForkServer:
    """Forks children for as long as this process lives; starts when the first one is needed."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._owner = 0
        atexit.register(self._end)

    def start(self) -> None:
        """Start the server process unless it runs."""
        with self._starting:
            self._connection()

    def fork(self, ends: ChildEnds) -> None:
        """Fork a child that waits for a job."""
        with self._starting:
            socket.send_fds(self._connection(), [b"!"], list(ends))

    def _connection(self) -> socket.socket:
        if self._requests is None or self._process is None or not self._is_ours or self._process.poll() is not None:
            self._requests = self._start()
        return self._requests

    @property
    def _is_ours(self) -> bool:
        """True in the process that started the server, False in its forks."""
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
        ours.settimeout(START_TIMEOUT)
        with suppress(OSError):
            if ours.recv(1):
                ours.settimeout(None)
                return ours
        raise WorkerLostError(f"no process could be started to ask the solver in: see whether {_SELF_TEST} works.")

    def _end(self) -> None:
        if self._requests is not None and self._process is not None and self._is_ours:
            self._requests.close()
            self._process.wait()


fork_server = ForkServer()


def import_path() -> list[str]:
    """List the folders that this process imports from."""
    return [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]  # noqa: PTH100 - an archive may be one


def warm_up() -> None:
    """Import what every child would import anew for a second: a new network needs torch's compiler."""
    import torch._dynamo  # noqa: F401, PLC0415


def serve(descriptor: int) -> NoReturn:
    """Fork a child for each set of pipes that comes over a socket, until its other side closes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    warm_up()
    requests = socket.socket(fileno=descriptor)
    requests.send(b"!")
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1, len(ChildEnds._fields))
        if not message:
            os._exit(0)
        if fork() == 0:
            requests.close()
            monitor(ChildEnds(*descriptors), _run_job)
        for each in descriptors:
            os.close(each)


def _run_job(channel: Connection) -> None:
    job: Job = receive(channel)
    os.chdir(job.folder)
    sys.path[:] = job.path
    os.environ.clear()
    os.environ.update(job.environment)
    try:
        task = cloudpickle.loads(job.task)
    except BaseException as error:  # whatever code of the user's raises
        send(channel, UnpicklingFailure(f"{type(error).__name__}: {error}"))
    else:
        task(channel)
