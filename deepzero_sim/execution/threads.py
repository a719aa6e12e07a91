"""Numbers of threads: every task computes on one, so that results do not depend on how many workers there are."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import ThreadpoolController

#: Environment of a process whose libraries have one thread each.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@contextmanager
def single_threaded() -> Iterator[None]:
    """Limit BLAS and torch to one thread inside: small solver calls are several times faster so, and results do not vary."""
    with _libraries(len(sys.modules)).limit(limits=1), torch_single_threaded():
        yield


@functools.lru_cache(maxsize=1)
def _libraries(modules: int) -> ThreadpoolController:
    """Find the libraries of this process that have threads; that takes some 20 ms, so only when modules were imported."""
    return ThreadpoolController()


@contextmanager
def torch_single_threaded() -> Iterator[None]:
    """Limit torch to one thread inside; torch counts by thread of Python."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
