"""Executors: where queries are answered. Any `concurrent.futures.Executor` works; four come with names.

Answers come back in the order asked. What is computed does not depend on the number of workers: every task runs
on one thread, and a task's content is fixed before it is dealt out.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import cloudpickle
import loky
import torch
from threadpoolctl import ThreadpoolController

from deepzero_sim.common.cancellation import cancellation
from deepzero_sim.common.types import is_integer
from deepzero_sim.errors import ConfigError, WorkerLostError
from deepzero_sim.execution.ranks import open_ranks
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import FailureLog, FailurePolicy

Backend: TypeAlias = Literal["serial", "thread", "process", "ranks"]

#: More than any machine serves; a slip of the finger beyond it would take this one down.
MOST_WORKERS = 1024

_T = TypeVar("_T")
_R = TypeVar("_R")

#: The environment of a process whose libraries have one thread each.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class SerialExecutor(Executor):
    """Runs every task at once, in the calling thread."""

    def submit(self, fn: Callable[..., _R], /, *args: Any, **kwargs: Any) -> Future[_R]:
        future: Future[_R] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def open_executor(backend: Backend = "serial", workers: int = 1, *, timeout: float = 300.0) -> Iterator[Executor]:
    """An executor by name, closed at the end; its worker processes never outlive this one.

    ``"ranks"`` is for a program that torchrun starts, on one machine or several. All ranks run the program up to here; then
    rank 0 alone goes on, and every other rank answers its questions until rank 0 closes the executor, and leaves the program.

    Args:
        backend: ``"serial"`` (this thread), ``"thread"`` (enough for external programs), ``"process"`` (loky), or ``"ranks"``.
        workers: how many; of ranks there are as many as torchrun started, whatever is said here.
        timeout: seconds that ranks have to come together.

    Raises:
        ConfigError: an unknown backend, no workers, or ranks where torchrun started none.
        WorkerLostError: not all ranks came together.
        SystemExit: on every rank but 0, with status 0, when rank 0 is done.
    """
    if backend not in get_args(Backend):
        raise ConfigError(f"the executor backend must be one of {', '.join(get_args(Backend))}, not {backend!r}.")
    if not is_integer(workers) or not 1 <= workers <= MOST_WORKERS:
        raise ConfigError(f"workers must be a whole number from 1 to {MOST_WORKERS}, not {workers!r}.")
    if backend == "serial":
        yield SerialExecutor()
        return
    if backend == "ranks":
        with open_ranks(timeout) as ranks:
            yield ranks
        return
    executor = ThreadPoolExecutor(workers) if backend == "thread" else ProcessExecutor(workers)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


class ProcessExecutor(Executor):
    """Worker processes of loky. When one has died, all fail what they are asked, until they are started anew."""

    def __init__(self, workers: int) -> None:
        self._max_workers = workers
        self._start()

    def _start(self) -> None:
        self._pool = loky.ProcessPoolExecutor(
            self._max_workers, env=ONE_THREAD, initializer=_start_worker, initargs=(os.getpid(),)
        )

    def submit(self, fn: Callable[..., _R], /, *args: Any, **kwargs: Any) -> Future[_R]:
        future: Future[_R] = self._pool.submit(fn, *args, **kwargs)
        return future

    def revive(self) -> None:
        """Start other workers in place of those that are there."""
        self.shutdown()
        self._start()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers, whatever they are at."""
        self._pool.shutdown(kill_workers=True)


def can_revive(executor: Executor) -> bool:
    """Whether an executor goes on when a worker of it has died."""
    return isinstance(executor, ProcessExecutor)


def revive(executor: Executor) -> None:
    """Start the workers anew of an executor that can."""
    assert isinstance(executor, ProcessExecutor)
    executor.revive()


def warn_of_lost_workers(executor: Executor, policy: FailurePolicy) -> None:
    """Say where a policy on lost workers will not be kept: only workers of ours can be started anew."""
    response = policy.response(WorkerLostError(""))
    if (response.retries or response.drop) and not isinstance(executor, SerialExecutor | ThreadPoolExecutor | ProcessExecutor):
        warnings.warn(
            "on_failure says what is done when a worker is lost (worker-lost), but only workers of the backend process can be "
            f"started anew, and those of {type(executor).__name__} cannot: a worker that is lost ends the run. Take that "
            "backend, or worker-lost: abort.",
            stacklevel=2,
        )


def _start_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    torch.set_num_threads(1)
    gc.freeze()  # loky collects garbage after tasks, which takes 0.1 s if it looks at all that was imported
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this worker when its parent is gone: a parent that was killed cannot tell its workers."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextmanager
def single_threaded() -> Iterator[None]:
    """One BLAS and torch thread inside: small solver calls are several times faster so, and results do not vary."""
    with _libraries(len(sys.modules)).limit(limits=1), _torch_single_threaded():
        yield


@functools.lru_cache(maxsize=1)
def _libraries(modules: int) -> ThreadpoolController:
    """What has threads in this process; to look for it takes some 20 ms, so it is looked for when modules were imported."""
    return ThreadpoolController()


@contextmanager
def _torch_single_threaded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_in_order(
    executor: Executor,
    function: Callable[[_T], _R],
    tasks: Sequence[_T],
    policy: FailurePolicy | None = None,
    log: FailureLog | None = None,
) -> list[_R | Exception]:
    """Run `function` on every task: the results in the order of the tasks, a failure as the exception it raised.

    Args:
        executor: where.
        function: of a task.
        tasks: all of them.
        policy: how often tasks are run again whose worker died, in workers started anew; never if None.
        log: where that is noted.
    """
    if policy is not None:
        warn_of_lost_workers(executor, policy)
    with single_threaded():  # of several threads that change and restore the limit, none could restore what was before
        outcomes = _run(executor, function, tasks)
        for tries in itertools.count():
            lost = _to_run_again(executor, outcomes, policy, tries)
            if not lost:
                return outcomes
            if log is not None:
                log.note(lost[min(lost)], "retried")
            revive(executor)
            again = _run(executor, function, [tasks[i] for i in lost])
            outcomes = [again.pop(0) if i in lost else outcome for i, outcome in enumerate(outcomes)]
    raise AssertionError("tries are counted without end")


def _run(executor: Executor, function: Callable[[_T], _R], tasks: Iterable[_T]) -> list[_R | Exception]:
    futures = [submitted(executor, function, task) for task in tasks]
    try:
        return list(map(outcome, futures))
    except BaseException:  # Ctrl-C: threads that go on would hold up the end
        if isinstance(executor, ThreadPoolExecutor):
            for future in futures:
                future.cancel()
            cancellation.cancel()
        raise


def _to_run_again(
    executor: Executor, outcomes: Sequence[object], policy: FailurePolicy | None, tries: int
) -> dict[int, WorkerLostError]:
    """Tasks whose worker died, and which the policy gives another try."""
    if policy is None or not can_revive(executor):
        return {}
    lost = {i: outcome for i, outcome in enumerate(outcomes) if isinstance(outcome, WorkerLostError)}
    return {i: error for i, error in lost.items() if tries < policy.response(error).retries}


def submitted(executor: Executor, function: Callable[[_T], _R], task: _T) -> Future[_R]:
    """One task for an executor, on one thread; a failure to take it is a future that fails."""
    future: Future[_R] = Future()
    try:
        return executor.submit(_run_single_threaded, function, task)
    except BrokenProcessPool as error:  # a worker died while tasks were still being dealt out
        future.set_exception(error)
    except RuntimeError as error:  # what executors say when they were shut down
        future.set_exception(ConfigError(f"the executor takes no tasks ({error}): use it within 'with dz.open_executor(...)'."))
    return future


def _run_single_threaded(function: Callable[[_T], _R], task: _T) -> _R:
    """The other libraries are limited already, by who submits or when a worker starts; torch counts by thread."""
    with _torch_single_threaded(), cancellation.task():
        return function(task)


#: How many things a worker keeps, such as the oracles of training and validation.
KEPT = 4

_worker = threading.local()


def kept_in_worker(token: str, pickled: bytes) -> Any:
    """What was sent to a worker, unpickled once: a copy for each thread, which no other sees.

    Args:
        token: its name.
        pickled: it.
    """
    kept: dict[str, Any] = _worker.__dict__.setdefault("kept", {})
    if token not in kept:
        while len(kept) >= KEPT:
            kept.pop(next(iter(kept)))
        kept[token] = cloudpickle.loads(pickled)
    return kept[token]


@contextmanager
def pickling_for_workers(what: str) -> Iterator[None]:
    """Say it in words if something cannot be pickled inside.

    Args:
        what: is pickled, for people: `"a solver"`.

    Raises:
        ConfigError: it, or something in it, cannot be pickled.
    """
    try:
        yield
    except Exception as error:
        raise ConfigError(
            f"{what} must be picklable to be sent to workers, but pickling raised {type(error).__name__}: {error}; use the "
            "serial executor, or open files and connections only in the step."
        ) from error


def require_thread_safe(solver: Solver, executor: Executor | None) -> None:
    """Refuse threads for a solver that several may not call at once.

    Raises:
        ConfigError: they would.
    """
    if isinstance(executor, ThreadPoolExecutor) and not solver.spec.thread_safe:
        raise ConfigError(
            f"solver {solver.spec.name!r} may not be called by several threads at once: use the process or the serial executor."
        )


def outcome(future: Future[_R]) -> _R | Exception:
    """A future's result, a failure as the exception it raised."""
    try:
        return future.result()
    except BrokenProcessPool as error:
        return WorkerLostError(
            "a worker process died while it was answering queries (killed, or out of memory): "
            "start the run again to go on from its last checkpoint, with fewer workers if memory is short "
            f"({type(error).__name__})."
        )
    except Exception as error:
        return error
