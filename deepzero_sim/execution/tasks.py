"""Tasks for executors: results in the order asked, failures as values, lost workers replaced if the caller says so."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from deepzero_sim.common.cancellation import cancellation
from deepzero_sim.errors import ConfigError, WorkerLostError
from deepzero_sim.execution.threads import single_threaded, torch_single_threaded
from deepzero_sim.execution.workers import ProcessExecutor

_T = TypeVar("_T")
_R = TypeVar("_R")


class SerialExecutor(Executor):
    """Runs every task at once, in the calling thread."""

    def submit(self, fn: Callable[..., _R], /, *args: Any, **kwargs: Any) -> Future[_R]:
        future: Future[_R] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def run_in_order(
    executor: Executor,
    function: Callable[[_T], _R],
    tasks: Sequence[_T],
    may_retry: Callable[[WorkerLostError, int], bool] = lambda error, tries: False,
) -> list[_R | Exception]:
    """Run a function on every task: the results in the order of the tasks, a failure as the exception it raised.

    Args:
        executor: Executor of the tasks.
        function: Function of a task.
        tasks: All tasks.
        may_retry: Function from the error of a task whose worker died, and the number of retries so far, to whether the task is
            run again, in workers started anew. Only workers of ours can be: see :func:`can_revive`.
    """
    outcomes: dict[int, _R | Exception] = {}
    left = list(range(len(tasks)))
    with single_threaded():  # of several threads that change and restore the limit, none could restore what was before
        for tries in itertools.count():
            futures: list[Future[_R]] = []
            try:
                for place in left:
                    futures.append(submit(executor, function, tasks[place]))
                outcomes |= zip(left, map(outcome, futures), strict=True)
            except BaseException:  # Ctrl-C: threads that go on would hold up the end
                _cancel(executor, futures)
                raise
            left = _find_lost(outcomes, left, may_retry, tries) if can_revive(executor) else []
            if not left:
                return [outcomes[place] for place in range(len(tasks))]
            revive(executor)
    raise AssertionError("tries are counted without end")


def _find_lost(
    outcomes: dict[int, Any], places: Sequence[int], may_retry: Callable[[WorkerLostError, int], bool], tries: int
) -> list[int]:
    """Find the tasks whose worker died and which get another try."""
    lost = ((place, outcomes[place]) for place in places)
    return [place for place, error in lost if isinstance(error, WorkerLostError) and may_retry(error, tries)]


def _cancel(executor: Executor, futures: Sequence[Future[Any]]) -> None:
    if isinstance(executor, ThreadPoolExecutor):
        for future in futures:
            future.cancel()
        cancellation.cancel()


def submit(executor: Executor, function: Callable[[_T], _R], task: _T) -> Future[_R]:
    """Submit one single-threaded task; submission errors become failed futures."""
    if isinstance(executor, SerialExecutor):  # in this thread, without a frame more: the task is no other thread's to cancel
        with torch_single_threaded():
            return executor.submit(function, task)
    future: Future[_R] = Future()
    try:
        return executor.submit(_run_single_threaded, function, task)
    except BrokenProcessPool as error:  # a worker died while tasks were still being dealt out
        future.set_exception(error)
    except RuntimeError as error:  # what executors say when they were shut down
        future.set_exception(ConfigError(f"the executor takes no tasks ({error}): use it within 'with dz.open_executor(...)'."))
    return future


def _run_single_threaded(function: Callable[[_T], _R], task: _T) -> _R:
    """Limit torch, which counts by thread; the other libraries are limited by who submits or when a worker starts."""
    with torch_single_threaded(), cancellation.task():
        return function(task)


def outcome(future: Future[_R]) -> _R | Exception:
    """Wait for a future's result; a failure is the exception it raised."""
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


def can_revive(executor: Executor) -> bool:
    """Tell whether an executor goes on when a worker of it has died."""
    return isinstance(executor, ProcessExecutor)


def revive(executor: Executor) -> None:
    """Start the workers anew of an executor that can."""
    assert isinstance(executor, ProcessExecutor)
    executor.revive()
