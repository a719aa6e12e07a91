"""What found gradients are held against: exact gradients of a twin, or slopes along random directions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deepzero_sim.check.agreement import Agreement, with_gradient, with_slopes
from deepzero_sim.check.subject import Subject, Vector
from deepzero_sim.check.sweep import STEP_SIZES, Sweep, swept
from deepzero_sim.errors import ConfigError, NonFiniteError, SolverError
from deepzero_sim.randomness import seeded
from deepzero_sim.solver import DifferentiableSolver
from deepzero_sim.types import is_whole

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
    if not is_whole(directions) or directions < SWEPT:
        raise ConfigError(f"directions must be a whole number of {SWEPT} or more, not {directions!r}: 64 do well.")
    shape = subject.samples, int(directions)
    seeds = torch.randint(2**62, shape, generator=seeded(seed)).tolist()
    size = subject.size(0)  # first of all: it refuses what is random
    exact = None if twin is None else subject.exact(twin)
    sweep = _swept(subject, seeds[0][:SWEPT], size, exact)
    if exact is not None:
        return Truth(exact, [], [], sweep, subject.steps)
    slopes = [subject.slopes(sample, of_sample, sweep.best) for sample, of_sample in enumerate(seeds)]
    return Truth(None, [subject.directions(of_sample) for of_sample in seeds], slopes, sweep, subject.steps)


def _swept(subject: Subject, seeds: Sequence[int], size: float, exact: list[Vector] | None) -> Sweep:
    found: dict[float, Vector | None] = {}
    failure: SolverError = NonFiniteError("no step size gave finite slopes: check the loss at the batches given.")
    for step_size in filter(lambda size: size >= subject.smallest_step(), STEP_SIZES):
        try:
            slopes = subject.slopes(0, seeds, step_size)
            found[step_size] = slopes if np.isfinite(slopes).all() else None
        except SolverError as error:  # large steps may lead to states that it cannot advance
            failure, found[step_size] = error, None
    whole = [slopes is not None for slopes in found.values()]
    if not any(a and b for a, b in itertools.pairwise(whole)):
        raise failure
    return swept(found, None if exact is None else subject.directions(seeds) @ exact[0], subject.unit(0), size)
