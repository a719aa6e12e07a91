"""How far a corrected rollout is from its reference."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

from deepzero_sim.common.types import to_array, to_array_or_none
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.errors import ConfigError, DataError, SolverError
from deepzero_sim.execution.executors import single_threaded
from deepzero_sim.solver.failure_policy import FailureLog, FailurePolicy, counted
from deepzero_sim.solver.stepping import advance


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Errors of a rollout.

    Args:
        errors: `(S, T)`, mean absolute error over the active points, of every simulation at every step; infinite from
            the step on at which a rollout left the finite numbers.
        rollout: `(S, T, C, *N)`.
        solver_steps: states advanced by one step.
        seconds: the rollout took.
        failures: of solver steps, by kind and what was done.
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
        loop: solver and corrector.
        frames: `(S, T, C, *N)`, at least `steps + 1` of them.
        params: `(S, K)` or None.
        active: bool `(C, *N)`, the points that count.
        steps: how many.

    Raises:
        ConfigError: no steps are asked for.
        DataError: there are too few frames.
        SolverError: the solver failed, and the failure policy ends the evaluation.
    """
    if steps < 1:
        raise ConfigError(f"an evaluation needs a positive number of steps, not {steps}.")
    if frames.shape[1] <= steps:
        raise DataError(
            f"{steps} steps of evaluation need {steps + 1} frames, the data have {frames.shape[1]}: evaluate fewer steps."
        )
    started = time.perf_counter()
    with torch.no_grad(), single_threaded():
        rollout, log, solver_steps = _rolled_out(loop, frames[:, 0], params, steps)
    errors = (rollout - frames[:, 1 : steps + 1]).abs()[:, :, active].mean(dim=2)
    errors = torch.where(errors.isfinite(), errors, torch.inf)
    seconds = time.perf_counter() - started
    return Evaluation(errors.double(), rollout, solver_steps, seconds, counted(log.incidents))


def _rolled_out(
    loop: SolverLoop, states: torch.Tensor, params: torch.Tensor | None, steps: int
) -> tuple[torch.Tensor, FailureLog, int]:
    """The rollouts, infinite where one was given up, what happened, and the solver steps it took."""
    rollout = states.new_full((len(states), steps, *states.shape[1:]), torch.inf)
    left, log, solver_steps = torch.arange(len(states)), FailureLog(), 0
    for step in range(steps):
        scenario = None if params is None else params[left]
        advanced = advance(loop.solver, to_array(states), to_array_or_none(scenario), loop.on_failure, log)
        solver_steps += advanced.calls
        for error in advanced.failures.values():
            _give_up(error, loop.on_failure, log)
        good = [i for i in range(len(left)) if i not in advanced.failures]
        left = left[good]
        if not len(left):
            break
        states = loop.correct(torch.from_numpy(advanced.states[good]), None if scenario is None else scenario[good])
        rollout[left, step] = states
    return rollout, log, solver_steps


def _give_up(error: SolverError, policy: FailurePolicy, log: FailureLog) -> None:
    """Leave a simulation as it is; an infinite error is the honest figure of one that diverged."""
    if not error.diverged and not policy.response(error).drop:
        raise error
    log.note(error, "lost")
