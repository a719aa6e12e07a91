"""Steps of a solver that are taken to learn about it: many states at once, over an executor, and counted."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import cloudpickle
import numpy as np

from deepzero_sim.parallel import SerialExecutor, kept_in_worker, pickling_for_workers, require_thread_safe, run_in_order
from deepzero_sim.solver import Solver, SolverSpec, checked_step
from deepzero_sim.types import Array

#: States of one call, at most: what a fast solver advances together without leaving the cache.
TOGETHER = 64


class Probes:
    """Advances states by one step each, and counts them.

    Args:
        solver: any.
        executor: where they are advanced; this thread if None.

    Attributes:
        steps: states advanced so far.
    """

    def __init__(self, solver: Solver, executor: Executor | None = None) -> None:
        require_thread_safe(solver, executor)
        self.solver = solver
        self.steps = 0
        self._executor = executor or SerialExecutor()

    @property
    def spec(self) -> SolverSpec:
        """Of the solver."""
        return self.solver.spec

    def __call__(self, states: Array, params: Array | None = None) -> Array:
        """`P(s)` of every state: `(B, C, *N)` to `(B, C, *N)`, in the order given.

        Raises:
            SolverError: the solver failed; with several failures, the first in the order given.
        """
        parts = [slice(i, i + TOGETHER) for i in range(0, len(states), TOGETHER)]
        tasks = [(states[part], None if params is None else params[part]) for part in parts]
        advanced = []
        for outcome in run_in_order(self._executor, self._task, tasks):
            if isinstance(outcome, Exception):
                raise outcome
            advanced.append(outcome)
        self.steps += len(states)
        return np.concatenate(advanced) if advanced else states.copy()

    @functools.cached_property
    def _task(self) -> Callable[[tuple[Array, Array | None]], Array]:
        if isinstance(self._executor, SerialExecutor):
            return functools.partial(_advance, self.solver)
        with pickling_for_workers("a solver"):
            sent = uuid.uuid4().hex, cloudpickle.dumps(self.solver)
        return functools.partial(_advance_remotely, sent)

    def __getstate__(self) -> dict[str, Any]:
        return {"solver": self.solver, "steps": self.steps, "_executor": SerialExecutor()}


def _advance(solver: Solver, task: tuple[Array, Array | None]) -> Array:
    return checked_step(solver, *task)


def _advance_remotely(sent: tuple[str, bytes], task: tuple[Array, Array | None]) -> Array:
    return _advance(kept_in_worker(*sent), task)
