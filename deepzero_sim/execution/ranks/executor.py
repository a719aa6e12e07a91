"""Executor on rank 0.

Rank 0 runs the program and answers questions too, in a thread of its own. A rank takes the next task when it has answered
the last, so that a fast rank answers more; answers do not depend on it.

    program --submit--> pending --+--> a thread that works
                                  +--> for every other rank a thread that sends, and one that receives
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, ClassVar, NamedTuple, TypeVar

from deepzero_sim.errors import ConfigError, WorkerLostError
from deepzero_sim.execution.ranks.calls import Functions, Leading, Outcome, Question, call, dump, unpack
from deepzero_sim.execution.ranks.link import BEAT, FAREWELL, Link, Sign, join, use_own_gpu
from deepzero_sim.execution.ranks.place import rank_of_torchrun
from deepzero_sim.execution.ranks.worker import serve

_R = TypeVar("_R")


@contextmanager
def open_ranks(timeout: float = 300.0) -> Iterator[Executor]:
    """Open the executor over torchrun's ranks on rank 0; every other rank serves it here and leaves the program at its end.

    An executor that is open already is shared: the command line opens the ranks around a whole command.

    Args:
        timeout: Seconds that all ranks have to come together.

    Yields:
        Executor over all ranks.

    Raises:
        ConfigError: Torchrun did not start this process, or the other ranks have left already.
        WorkerLostError: Not all ranks came.
        SystemExit: Rank 0 has closed the executor; on every other rank, with status 0.
    """
    if RankExecutor.opened is not None:
        yield RankExecutor.opened.require_open()
        return
    place = rank_of_torchrun()
    if place is None:
        raise ConfigError(
            "the executor 'ranks' needs processes that torchrun started, but this one was started by itself: "
            "start the program by torchrun --nproc-per-node 2, with a process for each core or GPU."
        )
    use_own_gpu()
    if place[0] > 0:
        serve(join(timeout))
    with LostRanks() as lost:
        executor = RankExecutor.opened = RankExecutor(_join_in_thread(timeout), lost)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def _join_in_thread(timeout: float) -> Link:
    """Meet the others in another thread: this one can then be interrupted when torchrun gives up."""
    future: Future[Link] = Future()

    def meet() -> None:
        try:
            future.set_result(join(timeout))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=meet, daemon=True).start()
    return future.result()


class LostRanks:
    """Record of lost ranks on rank 0, and of the error that the program got. To be entered for as long as there are ranks.

    When a rank fails, torchrun ends all others by SIGTERM, rank 0 too, and half a minute later by SIGKILL. Inside, SIGTERM
    becomes an exception, unless one was raised already: the program can then print its sentence before it ends.
    """

    def __init__(self) -> None:
        self._message: str | None = None
        self._known = threading.Event()
        self._raised = False
        self._previous: Any = None

    def __enter__(self) -> LostRanks:
        if threading.current_thread() is threading.main_thread():  # no other may handle signals
            self._previous = signal.signal(signal.SIGTERM, self._end)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None and not self._raised:  # otherwise the sentence may still have to be printed
            signal.signal(signal.SIGTERM, self._previous)

    def __bool__(self) -> bool:
        return self._message is not None

    def report(self, message: str) -> None:
        """Record a loss. The first one is reported; others follow from it."""
        self._message = self._message or message
        self._known.set()

    def error(self) -> WorkerLostError:
        """Make the error for the program."""
        self._raised = True
        return WorkerLostError(self._message or "")

    def _end(self, signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not self._known.wait(1):  # whose connection closed is usually known first
            self.report(
                "torchrun ended this program (SIGTERM) because another rank failed or the job was stopped: see what the "
                "other ranks said, and start the same command again to go on from the last checkpoint."
            )
        if not self._raised:
            raise self.error()


class _Task(NamedTuple):
    """Call, with its arguments as they were when it was submitted."""

    future: Future[Any]
    functions: Functions
    arguments: bytes


class RankExecutor(Executor):
    """Executor of tasks on all ranks; lives on rank 0, and there is one. Opened by :func:`open_ranks`.

    The leading part of a call (the function, and those of its first arguments that can be called) is pickled once for all tasks
    that share it while one of them is under way, and sent to a rank once. Until they are done, it must not be changed; nor may
    it store anything from call to call.

    Args:
        link: Connection to the other ranks.
        lost: Record of ranks that are lost.
    """

    opened: ClassVar[RankExecutor | None] = None

    def __init__(self, link: Link, lost: LostRanks) -> None:
        self._max_workers = link.size
        self._link = link
        self._lost = lost
        self._changed = threading.Condition()  # guards all that follows
        self._pending: deque[_Task] = deque()
        self._running: dict[int, _Task] = {}  # by rank
        self._latest: Functions | None = None
        self._closed = False
        others = range(1, link.size)
        self._connections = [
            threading.Thread(target=self._or_lose, args=(function, rank))
            for rank, function in itertools.product(others, (self._send, self._receive))
        ]
        # none of them a daemon: Python ends such a thread when it comes back from torch, and torch then aborts the process
        for thread in (threading.Thread(target=self._work), *self._connections):
            thread.start()

    def require_open(self) -> RankExecutor:
        """Return the executor itself.

        Raises:
            ConfigError: It was closed.
        """
        if self._closed:
            raise ConfigError(
                "the other ranks have left the program, as they do when the executor 'ranks' is closed: "
                "open it once, around everything that uses it."
            )
        return self

    def submit(self, fn: Callable[..., _R], /, *args: Any, **kwargs: Any) -> Future[_R]:
        future: Future[_R] = Future()
        leading = tuple(itertools.takewhile(callable, (fn, *args)))
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")  # in the standard library's words
            try:
                if self._lost:
                    raise self._lost.error()  # noqa: TRY301
                arguments = dump((args[len(leading) - 1 :], kwargs))
                self._pending.append(_Task(future, self._functions(leading), arguments))
            except Exception as error:
                future.set_exception(error)
            self._changed.notify_all()
        return future

    def _functions(self, leading: Leading) -> Functions:
        latest = self._latest.values if self._latest else ()
        if self._latest is None or [*map(id, latest)] != [*map(id, leading)]:
            self._latest = Functions(dump(leading))
            self._latest.values = leading
        return self._latest

    def _next_task(self, rank: int, seconds: float | None = None) -> _Task | Sign:
        """Wait for the next task of a rank that is free: a beat if there is none for so many seconds, or the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._pending and rank not in self._running), seconds)
            if self._closed:
                return Sign.STOP
            while self._pending and rank not in self._running:
                task = self._pending.popleft()
                if task.future.set_running_or_notify_cancel():
                    self._running[rank] = task
                    return task
            return Sign.BEAT

    def _finish(self, rank: int, outcome: Outcome) -> None:
        with self._changed:
            task = self._running.pop(rank, None)
            if not self._running and not self._pending:
                self._latest = None  # what functions hold may change before they are submitted again
            self._changed.notify_all()
        if task is None:  # given up in the meantime
            return
        if outcome.error is None:
            task.future.set_result(outcome.value)
        else:
            task.future.set_exception(outcome.error)

    def _give_up(self, error: Exception) -> None:
        """Fail everything under way."""
        with self._changed:
            tasks = [*self._running.values(), *self._pending]
            self._running.clear()
            self._pending.clear()
            self._changed.notify_all()
        for task in tasks:
            with suppress(InvalidStateError):  # it was cancelled
                task.future.set_exception(error)

    def _work(self) -> None:
        while (task := self._next_task(0)) is not Sign.STOP:
            if isinstance(task, _Task):
                self._finish(0, call(task.functions, task.arguments))

    def _send(self, rank: int) -> None:
        known = None  # the functions that the rank has
        while (task := self._next_task(rank, BEAT)) is not Sign.STOP:
            if isinstance(task, _Task):
                functions = None if task.functions is known else task.functions.data
                known = task.functions
                self._link.send(Question(functions, task.arguments), rank)
            else:
                self._link.send(Sign.BEAT, rank)
        self._link.send(Sign.STOP, rank)

    def _receive(self, rank: int) -> None:
        while (message := self._link.receive(rank)) is not Sign.STOP:
            if message is not Sign.BEAT:
                self._finish(rank, unpack(message))

    def _or_lose(self, function: Callable[[int], None], rank: int) -> None:
        try:
            function(rank)
        except ConnectionError:
            self._lose(rank, "killed, out of memory, stopped, or its machine is out of reach")
        except Exception as error:  # nobody is left to wait for its answer
            self._lose(rank, f"{type(error).__name__}: {error}")

    def _lose(self, rank: int, why: str) -> None:
        if self._closed:  # it has left, as it should
            return
        self._lost.report(
            f"rank {rank} of {self._link.size} was lost ({why}): start the same command again to go on from the last "
            "checkpoint, with fewer ranks if memory is short."
        )
        if self._running or self._pending:
            self._give_up(self._lost.error())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the other ranks. Rank 0 finishes the task that it is working on itself before its process can end.

        Args:
            wait: True to wait for all tasks; otherwise those that are not done fail.
            cancel_futures: True not to wait, whatever `wait` is.
        """
        with self._changed:
            if wait and not cancel_futures:
                self._changed.wait_for(lambda: not self._running and not self._pending)
            self._closed = True
            self._changed.notify_all()
        self._give_up(RuntimeError("the executor was shut down before the task was done"))
        end = time.monotonic() + FAREWELL
        for thread in () if self._lost else self._connections:
            thread.join(max(0, end - time.monotonic()))
