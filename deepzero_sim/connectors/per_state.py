"""Steps of a batch, state by state: for programs, services and models that take one state a call."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeAlias

import numpy as np

from deepzero_sim.common.cancellation import cancellation
from deepzero_sim.common.requirements import is_count, require
from deepzero_sim.common.types import Array
from deepzero_sim.errors import SolverError, StatesFailedError

#: Step of one state: `(state (C, *N), params (K,) or None) -> state one step later (C, *N)`.
AdvanceOne: TypeAlias = Callable[[Array, Array | None], Array]

#: Largest number of calls at once; no machine serves more.
MOST_AT_ONCE = 256


class PerStateCaller:
    """Caller of a function for every state of a batch, in threads: the function waits for something outside Python.

    One instance serves all callers of a solver, so that no more than `at_once` calls are under way in this process, however
    many threads ask the solver. Where there is nothing to share out, the function is called in the caller's own thread:
    handing a call to another thread takes longer than a small call itself.

    Args:
        at_once: Largest number of calls under way at once.
        stop: Function that ends the calls under way, when the program is interrupted.
    """

    def __init__(self, at_once: int, stop: Callable[[], None]) -> None:
        fits = is_count(at_once) and at_once <= MOST_AT_ONCE
        require(fits, f"at_once must be a whole number of calls from 1 to {MOST_AT_ONCE}", at_once)
        self.at_once = int(at_once)
        self._stop = stop
        self._starting = threading.Lock()
        self._start_afresh()
        cancellation.register(self)

    def _start_afresh(self) -> None:
        self._owner = os.getpid()
        self._threads: ThreadPoolExecutor | None = None
        self._free = threading.Semaphore(self.at_once)

    def stop(self) -> None:
        """End the calls that are under way."""
        self._stop()

    def __call__(self, advance: AdvanceOne, states: Array, params: Array | None) -> Array:
        """Advance every state of a batch.

        Args:
            advance: Step of one state.
            states: States, `(B, C, *N)`.
            params: Scenario parameters, `(B, K)`, or None.

        Returns:
            States one step later, `(B, C, *N)`.

        Raises:
            StatesFailedError: The function raised a SolverError for one state or more.
        """
        free = self._permits()

        def advance_one(state: Array, row: Array | None) -> Array:
            with free:
                return advance(state, row)

        if self.at_once == 1 or len(states) == 1:
            return one_by_one(advance_one, states, params)
        futures = [
            self._pool().submit(advance_one, state, row) for state, row in zip(states, _rows(states, params), strict=True)
        ]
        try:
            wait(futures)
        except BaseException:  # Ctrl-C: no call may go on once this one has returned
            for future in futures:
                future.cancel()
            self._stop()
            wait(futures)
            raise
        return _collect((future.exception() or future.result() for future in futures), states)

    def _permits(self) -> threading.Semaphore:
        with self._starting:
            if self._owner != os.getpid():  # a fork has none of its parent's threads, which hold permits
                self._start_afresh()
            return self._free

    def _pool(self) -> ThreadPoolExecutor:
        with self._starting:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.at_once, thread_name_prefix="deepzero-sim-solver")
            return self._threads

    def __reduce__(self) -> tuple[type[PerStateCaller], tuple[int, Callable[[], None]]]:
        return PerStateCaller, (self.at_once, self._stop)  # threads and locks stay in their process


def one_by_one(advance: AdvanceOne, states: Array, params: Array | None) -> Array:
    """Advance the states of a batch one after the other in this thread, as :class:`PerStateCaller` does in several."""
    rows = _rows(states, params)
    return _collect((_outcome(advance, state, row) for state, row in zip(states, rows, strict=True)), states)


def _rows(states: Array, params: Array | None) -> list[Array | None]:
    return [None] * len(states) if params is None else list(params)


def _outcome(advance: AdvanceOne, state: Array, row: Array | None) -> Array | SolverError:
    try:
        return advance(state, row)
    except SolverError as error:
        return error


def _collect(outcomes: Iterable[Array | BaseException], states: Array) -> Array:
    """Put the advanced states together, and raise the errors; the rows of states that failed are zero."""
    advanced, failures = np.empty_like(states), {}
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome, SolverError):
            failures[place], advanced[place] = outcome, 0
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            advanced[place] = outcome
    if failures:
        raise StatesFailedError(failures, advanced)
    return advanced
