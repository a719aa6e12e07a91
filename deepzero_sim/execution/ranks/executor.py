"""The executor on rank 0.

Rank 0 runs the program and answers questions too, in a thread of its own. A rank takes the next task when it has answered
the last, so that a fast rank answers more; what is answered does not depend on it.

    program --submit--> pending --+--> a thread that works
                                  +--> for every other rank a thread that sends, and one that receives
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, NamedTuple, TypeVar

from deepzero_sim.errors import ConfigError
from deepzero_sim.execution.ranks.calls import Functions, Leading, Outcome, Question, call, pickled, unpacked
from deepzero_sim.execution.ranks.link import BEAT, FAREWELL, Link, Sign, join, rank_of_torchrun, use_own_gpu
from deepzero_sim.execution.ranks.lost import LostRanks
from deepzero_sim.execution.ranks.serving import serve

_R = TypeVar("_R")


@contextmanager
def open_ranks(timeout: float = 300.0) -> Iterator[Executor]:
    """The executor over torchrun's ranks, on rank 0; every other rank serves it here and leaves the program at its end.

    What is open already is shared: the command line opens the ranks around a whole command.

    Args:
        timeout: seconds that all ranks have to come together.

    Raises:
        ConfigError: torchrun did not start this process, or the other ranks have left already.
        WorkerLostError: not all ranks came.
        SystemExit: on every rank but 0, with status 0, when rank 0 has closed the executor.
    """
    if RankExecutor.opened is not None:
        yield RankExecutor.opened.still_open()
        return
    found = rank_of_torchrun()
    if found is None:
        raise ConfigError(
            "the executor 'ranks' needs processes that torchrun started, but this one was started by itself: "
            "start the program by torchrun --nproc-per-node 2, with a process for each core or GPU."
        )
    use_own_gpu()
    if found[0] > 0:
        serve(join(timeout))
    with LostRanks() as lost:
        executor = RankExecutor.opened = RankExecutor(_joined_in_a_thread(timeout), lost)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def _joined_in_a_thread(timeout: float) -> Link:
    """Meet the others in another thread: this one can then be told that torchrun has given up."""
    future: Future[Link] = Future()

    def meet() -> None:
        try:
            future.set_result(join(timeout))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=meet, daemon=True).start()
    return future.result()


class _Task(NamedTuple):
    """A call, its arguments as they were when it was submitted."""

    future: Future[Any]
    functions: Functions
    arguments: bytes


class RankExecutor(Executor):
    """Tasks for all ranks; lives on rank 0, and there is one. Opened by :func:`open_ranks`.

    What leads a call (the function, and those of its first arguments that can be called) is pickled once for all tasks that
    share it while one of them is under way, and sent to a rank once. Until they are done, it must not be changed; nor may it
    keep anything from call to call.

    Args:
        link: to the other ranks.
        lost: told of ranks that are lost.
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
        self._talking = [
            threading.Thread(target=self._or_lose, args=(function, rank))
            for rank, function in itertools.product(others, (self._send, self._receive))
        ]
        # none of them a daemon: Python ends such a thread when it comes back from torch, and torch then aborts the process
        for thread in (threading.Thread(target=self._work), *self._talking):
            thread.start()

    def still_open(self) -> RankExecutor:
        """The executor itself.

        Raises:
            ConfigError: it was closed.
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
                arguments = pickled((args[len(leading) - 1 :], kwargs))
                self._pending.append(_Task(future, self._shared(leading), arguments))
            except Exception as error:
                future.set_exception(error)
            self._changed.notify_all()
        return future

    def _shared(self, leading: Leading) -> Functions:
        latest = self._latest.values if self._latest else ()
        if self._latest is None or [*map(id, latest)] != [*map(id, leading)]:
            self._latest = Functions(pickled(leading))
            self._latest.values = leading
        return self._latest

    def _take(self, rank: int, seconds: float | None = None) -> _Task | Sign:
        """The next task once a rank is free, a beat if there is none for so many seconds, or the end."""
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
        while (task := self._take(0)) is not Sign.STOP:
            if isinstance(task, _Task):
                self._finish(0, call(task.functions, task.arguments))

    def _send(self, rank: int) -> None:
        known = None  # the functions that the rank has
        while (task := self._take(rank, BEAT)) is not Sign.STOP:
            if isinstance(task, _Task):
                functions = None if task.functions is known else task.functions.pickled
                known = task.functions
                self._link.send(Question(functions, task.arguments), rank)
            else:
                self._link.send(Sign.BEAT, rank)
        self._link.send(Sign.STOP, rank)

    def _receive(self, rank: int) -> None:
        while (message := self._link.receive(rank)) is not Sign.STOP:
            if message is not Sign.BEAT:
                self._finish(rank, unpacked(message))

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
            wait: for all tasks; otherwise those that are not done fail.
            cancel_futures: do not, whatever `wait` says.
        """
        with self._changed:
            if wait and not cancel_futures:
                self._changed.wait_for(lambda: not self._running and not self._pending)
            self._closed = True
            self._changed.notify_all()
        self._give_up(RuntimeError("the executor was shut down before the task was done"))
        end = time.monotonic() + FAREWELL
        for thread in () if self._lost else self._talking:
            thread.join(max(0, end - time.monotonic()))
