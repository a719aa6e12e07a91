"""Steps of a solver that are taken to learn about it: many states at once, over an executor, and counted."""

from __future__ import annotations

import functools
import logging
import uuid
import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeAlias

import cloudpickle
import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.execution.tasks import SerialExecutor
from deepzero_sim.execution.workers import explain_pickling_errors, worker_cache
from deepzero_sim.solver.contract import Solver, require_thread_safe
from deepzero_sim.solver.failure_policy import Account, FailurePolicy
from deepzero_sim.solver.lost_workers import run_with_policy
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepped_inputs import bounds_of_inputs, count_inputs
from deepzero_sim.solver.stepping import step_all

logger = logging.getLogger(__name__)

#: States `(B, C, *N)` and their parameters, `(B, K)` or None.
_Task: TypeAlias = tuple[Array, Array | None]

#: Most states of one call, as many as a fast solver advances together without leaving the cache, and most values of these: a
#: solver needs memory for several times as many.
TOGETHER, VALUES = 64, 2**22


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=2)


class SolverProbe:
    """Advances states by one step each, and counts them.

    Args:
        solver: Any solver.
        executor: Executor of the steps; this thread if None.
        on_failure: Policy that says how often a step that fails is taken again; never if None.

    Attributes:
        account: Solver steps and failures so far. It only grows: what a piece of work took is the difference.
        note: Function that is told in a sentence what is found on the way; it logs.
        warn: Function that is told in a sentence what may be wrong; it warns as Python does.
    """

    note: Callable[[str], None] = staticmethod(logger.info)
    warn: Callable[[str], None] = staticmethod(_warn)

    def __init__(self, solver: Solver, executor: Executor | None = None, on_failure: FailurePolicy | None = None) -> None:
        require_thread_safe(solver, executor)
        self.solver = solver
        self.account = Account()
        self._executor = SerialExecutor() if executor is None else executor
        self._on_failure = FailurePolicy() if on_failure is None else on_failure

    @property
    def spec(self) -> SolverSpec:
        """Spec of the solver."""
        return self.solver.spec

    @property
    def own_channels(self) -> int:
        """Number of channels of the state itself: all, but for those at the end that are inputs of a step."""
        return self.spec.state_shape[0] - count_inputs(self.solver)

    @functools.cached_property
    def bounds(self) -> tuple[Array, Array] | None:
        """Least and most that the solver takes in each channel, `(C, *1)`, infinite for none; None if no channel has any."""
        return bounds_of_inputs(self.solver)

    @property
    def steps(self) -> int:
        """States advanced so far."""
        return self.account.steps

    def with_own_account(self) -> SolverProbe:
        """Make a probe of the same solver and executor that counts its steps apart from these."""
        return SolverProbe(self.solver, self._executor, self._on_failure)

    def count(self, account: Account) -> None:
        """Add what was done besides, such as steps that torch recorded."""
        self.account += account

    def __call__(self, states: Array, params: Array | None = None) -> Array:
        """Advance every state: `P(s)`, `(B, C, *N)` to `(B, C, *N)`, in the order given.

        Raises:
            SolverError: The solver failed; with several failures, the first in the order given.
        """
        together = min(TOGETHER, max(1, VALUES // max(1, states[:1].size)))
        parts = [slice(i, i + together) for i in range(0, len(states), together)]
        tasks = [(states[part], None if params is None else params[part]) for part in parts]
        outcomes, retries = run_with_policy(self._executor, self._task, tasks, self._on_failure)
        self.count(retries)
        advanced = []
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            advanced.append(outcome[0])
            self.count(outcome[1])
        return np.concatenate(advanced) if advanced else states.copy()

    @functools.cached_property
    def _task(self) -> Callable[[_Task], tuple[Array, Account]]:
        if isinstance(self._executor, SerialExecutor):
            return functools.partial(_step, self.solver, self._on_failure)
        with explain_pickling_errors("a solver"):
            sent = uuid.uuid4().hex, cloudpickle.dumps(self.solver)
        return functools.partial(_step_in_worker, sent, self._on_failure)

    def __getstate__(self) -> dict[str, Any]:
        mine = {"_executor": SerialExecutor(), "_on_failure": self._on_failure}
        return {"solver": self.solver, "account": self.account, **mine}


def _step(solver: Solver, policy: FailurePolicy, task: _Task) -> tuple[Array, Account]:
    return step_all(solver, *task, policy, "in a step that measures its derivatives")


def _step_in_worker(sent: tuple[str, bytes], policy: FailurePolicy, task: _Task) -> tuple[Array, Account]:
    return _step(worker_cache(*sent), policy, task)
