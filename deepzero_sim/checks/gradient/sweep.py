"""Difference quotients over their step size `mu`: where they hold still, and the noise below which they say nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.checks.gradient.subject import Subject, Vector
from deepzero_sim.errors import NonFiniteError, SolverError

#: Step sizes that are tried, in units of the size of what is perturbed.
STEP_SIZES = tuple(10.0**-k for k in range(1, 9))

#: A step size belongs to the plateau if its slopes are off by no more than so many times the noise floor.
PLATEAU = 10.0


@dataclass(frozen=True)
class Sweep:
    """Central difference quotients along the same directions at ever smaller steps.

    A step too large measures curvature, one too small rounding. On either side a quotient's error is about its change to the
    neighbour towards the middle, whose own is far smaller: the lesser of its two changes.

    Args:
        step_sizes: `mu`, falling, in units of the size of the states or parameters.
        changes: of each, the root mean square change of the slopes to the nearer neighbour, relative; None where the solver
            failed.
        errors: the same to the exact slopes; None where there are no exact ones, or the solver failed.
        best: the step size of the least change.
        plateau: the least and the largest step size around it whose slopes change by no more than ten times that.
        noise_floor: the least change; slopes at the best step size are known to that, or somewhat better.
        rounding: noise of the differenced value itself, relative to its size: `sqrt(2) mu` times the change of slopes at the
            steps from the best one down.
    """

    step_sizes: tuple[float, ...]
    changes: tuple[float | None, ...]
    errors: tuple[float | None, ...]
    best: float
    plateau: tuple[float, float]
    noise_floor: float
    rounding: float

    @property
    def cosine_ceiling(self) -> float:
        """The cosine that the true gradient itself would show, at least, against measured slopes: their noise lowers it."""
        return float((1 + self.noise_floor**2) ** -0.5)


def sweep_over(subject: Subject, seeds: Sequence[int], size: float, exact: list[Vector] | None = None) -> Sweep:
    """Try all step sizes at a subject's first sample.

    Args:
        subject: whose slopes.
        seeds: of the directions.
        size: of the value that is differenced.
        exact: the gradients, `(d,)` each, if known.

    Raises:
        SolverError: it failed at all step sizes but some that are no neighbours.
    """
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


def swept(
    slopes: Mapping[float, NDArray[np.float64] | None], exact: NDArray[np.float64] | None, unit: float, size: float
) -> Sweep:
    """What slopes at several step sizes say.

    Args:
        slopes: by step size, falling, `(n,)`; None where the solver failed, which two neighbours at least did not.
        exact: `(n,)`, if known.
        unit: what a step size of 1 is.
        size: of the value that is differenced.
    """
    steps, values = list(slopes), list(slopes.values())
    apart = [_apart(a, b) for a, b in itertools.pairwise(values)]
    if not np.isfinite(apart).any():  # the value is constant: every slope is zero
        apart = [0.0 if a is not None and b is not None else np.inf for a, b in itertools.pairwise(values)]
    # of every step size, the changes to its neighbours, the nearer one first
    beside = [sorted([a, b]) for a, b in zip([np.inf, *apart], [*apart, np.inf], strict=True)]
    best = min(range(len(steps)), key=lambda k: beside[k])
    floor = beside[best][0]
    changes = tuple(nearer if np.isfinite(nearer) else None for nearer, _ in beside)
    below = [k for k in range(best, len(apart)) if np.isfinite(apart[k])] or [best - 1]
    noise = [2**0.5 * steps[k + 1] * unit * _rms(values[k] - values[k + 1]) for k in below]  # type: ignore[operator]
    return Sweep(
        tuple(steps),
        changes,
        tuple(None if exact is None or value is None else _relative(value, exact) for value in values),
        steps[best],
        _plateau(steps, changes, best),
        float(floor),
        float(max(noise) / size) if size else 0.0,
    )


def _plateau(steps: list[float], changes: tuple[float | None, ...], best: int) -> tuple[float, float]:
    limit = PLATEAU * (changes[best] or 0.0)
    ends = []
    for direction in (1, -1):
        end = best
        while 0 <= end + direction < len(steps):
            change = changes[end + direction]
            if change is None or change > limit:
                break
            end += direction
        ends.append(steps[end])
    return ends[0], ends[1]


def _apart(a: NDArray[np.float64] | None, b: NDArray[np.float64] | None) -> float:
    """How far slopes are apart, relative to the larger ones; infinitely if one was not found, or nothing changed at all."""
    if a is None or b is None or not (a.any() or b.any()):
        return float("inf")
    return _rms(a - b) / max(_rms(a), _rms(b))


def _relative(found: NDArray[np.float64], exact: NDArray[np.float64]) -> float | None:
    return _rms(found - exact) / _rms(exact) if _rms(exact) else None


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
