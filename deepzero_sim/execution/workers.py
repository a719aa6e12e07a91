"""Worker processes: how they start and end, and what they keep of what they were sent."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, TypeVar

import cloudpickle
import loky
import torch

from deepzero_sim.errors import ConfigError
from deepzero_sim.execution.threads import ONE_THREAD

_R = TypeVar("_R")


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


#: Most objects that a worker keeps, such as the oracles of training and validation.
CACHE_SIZE = 4

_worker = threading.local()


def worker_cache(token: str, pickled: bytes) -> Any:
    """Unpickle an object once in every worker: a copy for each thread, which no other sees.

    Args:
        token: Name of the object.
        pickled: Object as bytes.
    """
    cache: dict[str, Any] = _worker.__dict__.setdefault("cache", {})
    if token not in cache:
        while len(cache) >= CACHE_SIZE:
            cache.pop(next(iter(cache)))
        cache[token] = cloudpickle.loads(pickled)
    return cache[token]


@contextmanager
def explain_pickling_errors(what: str) -> Iterator[None]:
    """Explain in a sentence if something cannot be pickled inside.

    Args:
        what: Name of what is pickled, for people: `"a solver"`.

    Raises:
        ConfigError: It, or something in it, cannot be pickled.
    """
    try:
        yield
    except Exception as error:
        raise ConfigError(
            f"{what} must be picklable to be sent to workers, but pickling raised {type(error).__name__}: {error}; use the "
            "serial executor, or open files and connections only in the step."
        ) from error
