"""Executors by name. Any `concurrent.futures.Executor` answers queries; these four come with the package.

What is computed does not depend on the number of workers: every task runs on one thread, and a task's content is fixed before
it is dealt out.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import get_args

from deepzero_sim.common.requirements import is_count, require, require_one_of
from deepzero_sim.execution.backends import Backend
from deepzero_sim.execution.ranks.executor import open_ranks
from deepzero_sim.execution.tasks import SerialExecutor
from deepzero_sim.execution.workers import ProcessExecutor

#: More than any machine serves; a slip of the finger beyond it would take this one down.
MOST_WORKERS = 1024


@contextmanager
def open_executor(backend: Backend = "serial", workers: int = 1, *, timeout: float = 300.0) -> Iterator[Executor]:
    """Open an executor by name and close it at the end; its worker processes never outlive this one.

    ``"ranks"`` is for a program that torchrun starts, on one machine or several. All ranks run the program up to here; then
    rank 0 alone goes on, and every other rank answers its questions until rank 0 closes the executor, and leaves the program.

    Args:
        backend: Name, ``"serial"`` (this thread), ``"thread"`` (enough for external programs), ``"process"`` (loky) or
            ``"ranks"``.
        workers: Number of workers; of ranks there are as many as torchrun started, whatever is said here.
        timeout: Seconds that ranks have to come together.

    Raises:
        ConfigError: The backend is unknown, there are no workers, or torchrun started no ranks.
        WorkerLostError: Not all ranks came together.
        SystemExit: Rank 0 is done; on every other rank, with status 0.
    """
    require_one_of(backend, get_args(Backend), "the executor backend")
    valid = is_count(workers) and workers <= MOST_WORKERS
    require(valid, f"workers must be a whole number from 1 to {MOST_WORKERS}", workers)
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
