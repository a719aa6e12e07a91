"""How far a corrected rollout is from its reference."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from deepzero_sim.coupling import SolverLoop
from deepzero_sim.errors import ConfigError, DataError, NonFiniteError
from deepzero_sim.parallel import single_threaded


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Errors of a rollout.

    Args:
        errors: `(S, T)`, mean absolute error over the active points, of every simulation at every step; infinite from
            the step on at which a rollout left the finite numbers.
        rollout: `(S, T, C, *N)`.
        solver_steps: states advanced by one step.
        seconds: the rollout took.
    """

    errors: torch.Tensor
    rollout: torch.Tensor
    solver_steps: int
    seconds: float

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

    Args:
        loop: solver and corrector.
        frames: `(S, T, C, *N)`, at least `steps + 1` of them.
        params: `(S, K)` or None.
        active: bool `(C, *N)`, the points that count.
        steps: how many.

    Raises:
        ConfigError: no steps are asked for.
        DataError: there are too few frames.
    """
    if steps < 1:
        raise ConfigError(f"an evaluation needs a positive number of steps, not {steps}.")
    if frames.shape[1] <= steps:
        raise DataError(
            f"{steps} steps of evaluation need {steps + 1} frames, the data have {frames.shape[1]}: evaluate fewer steps."
        )
    started = time.perf_counter()
    states, trajectory = frames[:, 0], []
    with torch.no_grad(), single_threaded():
        try:
            for _ in range(steps):
                states = loop.rollout(states, params, steps=1)[:, 0]
                trajectory.append(states)
        except NonFiniteError:  # an error of infinity is the honest figure of a rollout that diverged
            trajectory += [torch.full_like(states, float("inf"))] * (steps - len(trajectory))
    rollout = torch.stack(trajectory, dim=1)
    errors = (rollout - frames[:, 1 : steps + 1]).abs()[:, :, active].mean(dim=2)
    errors = torch.where(errors.isfinite(), errors, torch.inf)
    return Evaluation(errors.double(), rollout, len(frames) * steps, time.perf_counter() - started)
