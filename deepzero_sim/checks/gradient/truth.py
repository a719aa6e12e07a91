"""What found gradients are held against: exact gradients of a twin, or slopes along random directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from deepzero_sim.checks.gradient.agreement import Agreement, with_gradient, with_slopes
from deepzero_sim.checks.gradient.subject import Subject, Vector
from deepzero_sim.checks.gradient.sweep import Sweep, sweep_over
from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.types import is_integer
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import DifferentiableSolver

#: Directions along which all step sizes are tried, at the first sample: enough for a root mean square.
SWEPT = 8


@dataclass(frozen=True, eq=False)
class Truth:
    """Of some samples.

    Args:
        exact: gradients, `(d,)` each, or None.
        directions: `(n, d)` each, where there are no exact gradients.
        slopes: along these, `(n,)` each.
        sweep: slopes at the first sample, over the step size.
        steps: states advanced to find all that.
    """

    exact: list[Vector] | None
    directions: list[Vector]
    slopes: list[Vector]
    sweep: Sweep
    steps: int

    def agreements(self, found: Sequence[Vector]) -> list[Agreement]:
        """Of gradients found at the same samples, `(d,)` each."""
        if self.exact is not None:
            return [with_gradient(g, t) for g, t in zip(found, self.exact, strict=True)]
        known = zip(found, self.directions, self.slopes, strict=True)
        return [with_slopes(directions @ g, slopes) for g, directions, slopes in known]


def measure_truth(subject: Subject, twin: DifferentiableSolver | None = None, directions: int = 64, seed: int = 0) -> Truth:
    """Find the true gradients, or what forward steps say of them.

    Args:
        subject: whose.
        twin: a differentiable solver that takes the same step; None if there is none.
        directions: along which slopes are measured at every sample without a twin: errors fall with their square root.
        seed: of the directions.

    Raises:
        ConfigError: too few directions, no twin, or answers that change.
        SolverError: the solver failed.
    """
    if not is_integer(directions) or directions < SWEPT:
        raise ConfigError(f"directions must be a whole number of {SWEPT} or more, not {directions!r}: 64 do well.")
    shape = subject.samples, int(directions)
    seeds = torch.randint(2**62, shape, generator=new_generator(seed)).tolist()
    size = subject.size(0)  # first of all: it refuses what is random
    exact = None if twin is None else subject.exact(twin)
    sweep = sweep_over(subject, seeds[0][:SWEPT], size, exact)
    if exact is not None:
        return Truth(exact, [], [], sweep, subject.steps)
    slopes = [subject.slopes(sample, of_sample, sweep.best) for sample, of_sample in enumerate(seeds)]
    return Truth(None, [subject.directions(of_sample) for of_sample in seeds], slopes, sweep, subject.steps)
