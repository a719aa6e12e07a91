"""True gradients, exact or known by their slopes along random directions, and how well other gradients agree with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deepzero_sim.checks.gradient.subject import Subject
from deepzero_sim.checks.gradient.sweep import Sweep, Vector
from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.requirements import is_count, require
from deepzero_sim.solver.contract import DifferentiableSolver

#: Number of directions along which all step sizes are tried, at the first sample: enough for a root mean square.
SWEEP_DIRECTIONS = 8


@dataclass(frozen=True)
class Agreement:
    """Agreement of a gradient `g` with the true one `t`.

    Args:
        cosine: Cosine `g.t / (|g| |t|)`; None if one of them is zero.
        cosine_error: Standard error of the cosine, 0 if `t` is known.
        norm_ratio: Ratio `|g| / |t|`; None if `t` is zero.
        norm_ratio_error: Standard error of the ratio.
    """

    cosine: float | None
    cosine_error: float
    norm_ratio: float | None
    norm_ratio_error: float


@dataclass(frozen=True, eq=False)
class Truth:
    """True gradients at some samples.

    Args:
        exact: Exact gradients, `(d,)` each, or None.
        directions: Directions at every sample, `(n, d)` each, where there are no exact gradients.
        slopes: Slopes along these, `(n,)` each.
        sweep: Slopes at the first sample, over the step size.
        steps: States advanced to find all that.
    """

    exact: list[Vector] | None
    directions: list[Vector]
    slopes: list[Vector]
    sweep: Sweep
    steps: int

    def agreements(self, gradients: Sequence[Vector]) -> list[Agreement]:
        """Compare gradients at the same samples, `(d,)` each."""
        if self.exact is not None:
            return [compare_gradients(g, t) for g, t in zip(gradients, self.exact, strict=True)]
        known = zip(gradients, self.directions, self.slopes, strict=True)
        return [compare_slopes(directions @ g, slopes) for g, directions, slopes in known]


def measure_truth(subject: Subject, twin: DifferentiableSolver | None = None, directions: int = 64, seed: int = 0) -> Truth:
    """Compute the true gradients by a twin, or measure their slopes by forward steps.

    Args:
        subject: Gradient under test, which has the samples.
        twin: Differentiable solver that takes the same step; None if there is none.
        directions: Number of directions along which slopes are measured at every sample without a twin; errors fall with its
            square root.
        seed: Seed of the directions.

    Raises:
        ConfigError: There are too few directions, the twin is none, or answers change.
        SolverError: The solver failed.
    """
    expected = f"directions must be a whole number of {SWEEP_DIRECTIONS} or more"
    require(is_count(directions, SWEEP_DIRECTIONS), expected, directions, "64 do well")
    shape = subject.samples, int(directions)
    seeds = torch.randint(2**62, shape, generator=new_generator(seed)).tolist()
    size = subject.size(0)  # before all else, for it refuses what is random
    exact = None if twin is None else subject.exact_gradients(twin)
    sweep = subject.sweep(seeds[0][:SWEEP_DIRECTIONS], size, exact)
    if exact is not None:
        return Truth(exact, [], [], sweep, subject.steps)
    slopes = [subject.slopes(sample, of_sample, sweep.best) for sample, of_sample in enumerate(seeds)]
    return Truth(None, [subject.directions(of_sample) for of_sample in seeds], slopes, sweep, subject.steps)


def compare_gradients(gradient: Vector, true: Vector) -> Agreement:
    """Compare two gradients, `(d,)` each."""
    return Agreement(_cosine(gradient, true), 0.0, _norm_ratio(gradient, true), 0.0)


def compare_slopes(slopes: Vector, true: Vector) -> Agreement:
    """Compare slopes `b_i = v_i.g` with measured ones, `a_i = v_i.t`, along `n` random directions of no preference.

    Along Gaussian directions the pairs are Gaussian with means of zero and `E[a b] = t.g`, `E[a^2] = |t|^2`, `E[b^2] = |g|^2`;
    so the gradients' cosine and norm ratio are the pairs' correlation and ratio of standard deviations:

        cosine = sum a_i b_i / sqrt(sum a_i^2 sum b_i^2)          norm ratio = sqrt(sum b_i^2 / sum a_i^2)

    with standard errors `(1 - cosine^2) / sqrt(n)` and `ratio * sqrt((1 - cosine^2) / n)`, to leading order in `n`: where
    gradients agree, few directions suffice.

    Args:
        slopes: Slopes `b` of the gradient under test, `(n,)`.
        true: Measured slopes `a`, `(n,)`.
    """
    cosine, ratio = _cosine(slopes, true), _norm_ratio(slopes, true)
    spread = 1 - (cosine or 0.0) ** 2
    ratio_error = (ratio or 0.0) * (spread / len(true)) ** 0.5
    return Agreement(cosine, 0.0 if cosine is None else spread / len(true) ** 0.5, ratio, ratio_error)


def _cosine(vector: Vector, true: Vector) -> float | None:
    norms = float(np.linalg.norm(vector) * np.linalg.norm(true))
    return None if norms == 0 else min(1.0, max(-1.0, float(vector @ true) / norms))  # rounding may lead past 1


def _norm_ratio(vector: Vector, true: Vector) -> float | None:
    norm = float(np.linalg.norm(true))
    return None if norm == 0 else float(np.linalg.norm(vector)) / norm
