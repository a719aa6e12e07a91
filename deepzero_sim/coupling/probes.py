"""Steps of a solver that are taken to learn about it: many states at once, over an executor, and counted."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeAlias

import cloudpickle
import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.execution.executors import (
    SerialExecutor,
    kept_in_worker,
    pickling_for_workers,
    require_thread_safe,
    run_in_order,
)
from deepzero_sim.solver.contract import Solver, SolverSpec
from deepzero_sim.solver.failure_policy import FailureLog, FailurePolicy
from deepzero_sim.solver.stepping import advance_all

#: States `(B, C, *N)` and their parameters, `(B, K)` or None.
_Task: TypeAlias = tuple[Array, Array | None]

#: States of one call, at most: what a fast solver advances together without leaving the cache.
TOGETHER = 64


class SolverProbe:
    """Advances states by one step each, and counts them.

    Args:
        solver: any.
        executor: where they are advanced; this thread if None.
        on_failure: how often a step that fails is taken again; never if None.
        log: where failures are noted; one of its own if None.

    Attributes:
        steps: states advanced so far.
    """

    def __init__(
        self,
        solver: Solver,
        executor: Executor | None = None,
        on_failure: FailurePolicy | None = None,
        log: FailureLog | None = None,
    ) -> None:
        require_thread_safe(solver, executor)
        self.solver = solver
        self.steps = 0
        self._executor = SerialExecutor() if executor is None else executor
        self._on_failure = FailurePolicy() if on_failure is None else on_failure
        self._log = FailureLog() if log is None else log

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
        for outcome in run_in_order(self._executor, self._task, tasks, self._on_failure, self._log):
            if isinstance(outcome, Exception):
                raise outcome
            advanced.append(outcome[0])
            self._log.incidents += outcome[1].incidents
            self.steps += outcome[1].extra_steps
        self.steps += len(states)
        return np.concatenate(advanced) if advanced else states.copy()

    @functools.cached_property
    def _task(self) -> Callable[[_Task], tuple[Array, FailureLog]]:
        if isinstance(self._executor, SerialExecutor):
            return functools.partial(_advance, self.solver, self._on_failure)
        with pickling_for_workers("a solver"):
            sent = uuid.uuid4().hex, cloudpickle.dumps(self.solver)
        return functools.partial(_advance_remotely, sent, self._on_failure)

    def __getstate__(self) -> dict[str, Any]:
        mine = {"_executor": SerialExecutor(), "_on_failure": self._on_failure, "_log": self._log}
        return {"solver": self.solver, "steps": self.steps, **mine}


def _advance(solver: Solver, policy: FailurePolicy, task: _Task) -> tuple[Array, FailureLog]:
    log = FailureLog()
    return advance_all(solver, *task, policy, log, "in a step that measures its derivatives"), log


def _advance_remotely(sent: tuple[str, bytes], policy: FailurePolicy, task: _Task) -> tuple[Array, FailureLog]:
    return _advance(kept_in_worker(*sent), policy, task)
