"""The failure policy for worker processes that die while they take solver steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

from deepzero_sim.errors import WorkerLostError
from deepzero_sim.execution.tasks import SerialExecutor, can_revive, run_in_order
from deepzero_sim.solver.failure_policy import Account, FailurePolicy, Incident, incident

_T = TypeVar("_T")
_R = TypeVar("_R")


def run_with_policy(
    executor: Executor, function: Callable[[_T], _R], tasks: Sequence[_T], policy: FailurePolicy
) -> tuple[list[_R | Exception], Account]:
    """Run a function on every task; those whose worker died are run again as often as the policy says.

    Args:
        executor: Executor of the tasks.
        function: Function of a task.
        tasks: All tasks.
        policy: Policy that says how often.

    Returns:
        Results in the order of the tasks, a failure as the exception it raised; and the retries.
    """
    retries = WorkerRetries(executor, policy)
    outcomes = run_in_order(executor, function, tasks, retries.allow)
    return outcomes, retries.account


class WorkerRetries:
    """Retries of tasks whose worker died, one incident for each time that workers are started anew.

    Args:
        executor: Executor of the tasks.
        policy: Policy that says how often.
    """

    def __init__(self, executor: Executor, policy: FailurePolicy) -> None:
        warn_of_lost_workers(executor, policy)
        self._policy = policy
        self._incidents: list[Incident] = []

    @property
    def account(self) -> Account:
        """Retries so far; the steps of a worker that died are not known."""
        return Account(0, tuple(self._incidents))

    def allow(self, error: WorkerLostError, tries: int) -> bool:
        """Tell whether a task is run again, and record it."""
        if tries >= self._policy.response(error).retries:
            return False
        if len(self._incidents) == tries:  # the first task of this round
            self._incidents.append(incident(error, "retried"))
        return True


def warn_of_lost_workers(executor: Executor, policy: FailurePolicy) -> None:
    """Warn where a policy on lost workers will not be kept: only workers of ours can be started anew."""
    response = policy.response(WorkerLostError(""))
    ours = isinstance(executor, SerialExecutor | ThreadPoolExecutor) or can_revive(executor)
    if (response.retries or response.drop) and not ours:
        warnings.warn(
            "on_failure says what is done when a worker is lost (worker-lost), but only workers of the backend process can be "
            f"started anew, and those of {type(executor).__name__} cannot: a worker that is lost ends the run. Take that "
            "backend, or worker-lost: abort.",
            stacklevel=3,
        )
