"""Errors of a corrected rollout against its reference."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

from deepzero_sim.common.types import to_array, to_array_or_none
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.errors import ConfigError, DataError, SolverError
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.solver.failure_policy import Account, FailurePolicy, count_failures
from deepzero_sim.solver.stepping import step_with_policy


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Errors of a rollout.

    Args:
        errors: Mean absolute error over the active points, of every simulation at every step, `(S, T)`; infinite from the step
            on at which a rollout left the finite numbers.
        rollout: Corrected trajectories, `(S, T, C, *N)`.
        solver_steps: Number of states advanced by one step.
        seconds: Seconds that the rollout took.
        failures: Number of failures of solver steps, by kind and what was done.
    """

    errors: torch.Tensor
    rollout: torch.Tensor
    solver_steps: int
    seconds: float
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def mae(self) -> float:
        """Mean absolute error over simulations, steps and active points."""
        return float(self.errors.mean())

    @property
    def mae_std(self) -> float:
        """Standard deviation over the simulations of their mean errors."""
        return float(self.errors.mean(dim=1).std(correction=0)) if bool(torch.isfinite(self.errors).all()) else float("inf")


def evaluate(
    loop: SolverLoop, frames: torch.Tensor, params: torch.Tensor | None, active: torch.Tensor, steps: int
) -> Evaluation:
    """Roll out from the first frame of every simulation and compare with the following ones.

    A simulation that diverges has an infinite error from there on. One that fails in another way ends the evaluation, or is
    given up likewise, as the loop's failure policy says.

    Args:
        loop: Solver and corrector.
        frames: Frames `(S, T, C, *N)`, at least `steps + 1` of them.
        params: Scenario parameters `(S, K)` or None.
        active: Points that count, bool `(C, *N)`.
        steps: Number of steps.

    Raises:
        ConfigError: No steps are asked for.
        DataError: There are too few frames.
        SolverError: The solver failed, and the failure policy ends the evaluation.
    """
    if steps < 1:
        raise ConfigError(f"an evaluation needs a positive number of steps, not {steps}.")
    if frames.shape[1] <= steps:
        raise DataError(
            f"{steps} steps of evaluation need {steps + 1} frames, the data have {frames.shape[1]}: evaluate fewer steps."
        )
    started = time.perf_counter()
    with torch.no_grad(), single_threaded():
        rollout, account = _roll_out(loop, frames[:, 0], params, steps)
    errors = (rollout - frames[:, 1 : steps + 1]).abs()[:, :, active].mean(dim=2)
    errors = torch.where(errors.isfinite(), errors, torch.inf)
    seconds = time.perf_counter() - started
    return Evaluation(errors.double(), rollout, account.steps, seconds, count_failures(account.incidents))


def _roll_out(loop: SolverLoop, states: torch.Tensor, params: torch.Tensor | None, steps: int) -> tuple[torch.Tensor, Account]:
    """Roll out all simulations, infinite from where one was given up, and tell what it took."""
    rollout = states.new_full((len(states), steps, *states.shape[1:]), torch.inf)
    left, account = torch.arange(len(states)), Account()
    for step in range(steps):
        scenario = None if params is None else params[left]
        result = step_with_policy(loop.solver, to_array(states), to_array_or_none(scenario), loop.on_failure)
        account += result.account
        for _, error in sorted(result.failures.items()):
            account = account.with_incident(_require_expendable(error, loop.on_failure), "lost")
        good = [i for i in range(len(left)) if i not in result.failures]
        left = left[good]
        if not len(left):
            break
        states = loop.correct(torch.from_numpy(result.states[good]), None if scenario is None else scenario[good])
        rollout[left, step] = states
    return rollout, account


def _require_expendable(error: SolverError, policy: FailurePolicy) -> SolverError:
    """Raise an error unless its simulation may be given up; an infinite error is the honest figure of one that diverged."""
    if not error.diverged and not policy.response(error).drop:
        raise error
    return error
