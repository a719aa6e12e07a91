"""Difference quotients over their step size `mu`: where they hold still, and the noise below which they say nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: A gradient, or one of `n` directions and its slope: `(d,)`, `(n, d)`, `(n,)`.
Vector = NDArray[np.float64]

#: Step sizes to try, in units of the size of what is perturbed.
STEP_SIZES = tuple(10.0**-k for k in range(1, 9))

#: Largest change of a plateau's slopes, in units of the noise floor.
PLATEAU = 10.0


@dataclass(frozen=True)
class Sweep:
    """Central difference quotients along the same directions at ever smaller steps.

    A step too large measures curvature, one too small rounding. On either side a quotient's error is about its change to the
    neighbour towards the middle, whose own is far smaller: the lesser of its two changes.

    Args:
        step_sizes: Step sizes `mu`, falling, in units of the size of the states or parameters.
        changes: Root mean square change of the slopes to the nearer neighbour, relative, at every step size; None where the
            solver failed.
        errors: Root mean square difference to the exact slopes, relative; None where there are no exact ones, or the solver
            failed.
        best: Step size of the least change.
        plateau: Least and largest step size around it whose slopes change by no more than ten times that.
        noise_floor: Least change: slopes at the best step size are known to that, or somewhat better.
        rounding: Noise of the differenced value itself, relative to its size: `sqrt(2) mu` times the change of slopes at the
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
        """Least cosine that the true gradient itself would show against measured slopes, which their noise lowers."""
        return float((1 + self.noise_floor**2) ** -0.5)


def analyse_slopes(slopes: Mapping[float, Vector | None], exact: Vector | None, unit: float, size: float) -> Sweep:
    """Find plateau and noise of slopes at several step sizes.

    Args:
        slopes: Slopes by step size, falling, `(n,)`; None where the solver failed. Two neighbours at least hold slopes.
        exact: Exact slopes, `(n,)`, if known.
        unit: Length of a step of size 1.
        size: Size of the value that is differenced.
    """
    steps, values = list(slopes), list(slopes.values())
    apart = [_relative_change(a, b) for a, b in itertools.pairwise(values)]
    if not np.isfinite(apart).any():  # the value is constant: every slope is zero
        apart = [0.0 if a is not None and b is not None else np.inf for a, b in itertools.pairwise(values)]
    # changes of every step size to its neighbours, the nearer one first
    to_neighbours = [sorted([a, b]) for a, b in zip([np.inf, *apart], [*apart, np.inf], strict=True)]
    best = min(range(len(steps)), key=lambda k: to_neighbours[k])
    floor = to_neighbours[best][0]
    changes = tuple(nearer if np.isfinite(nearer) else None for nearer, _ in to_neighbours)
    below = [k for k in range(best, len(apart)) if np.isfinite(apart[k])] or [best - 1]
    noise = [2**0.5 * steps[k + 1] * unit * _rms(values[k] - values[k + 1]) for k in below]  # type: ignore[operator]
    return Sweep(
        tuple(steps),
        changes,
        tuple(None if exact is None or value is None else _relative_error(value, exact) for value in values),
        steps[best],
        _plateau(steps, changes, best),
        float(floor),
        float(max(noise) / size) if size else 0.0,
    )


def worst_sweep(sweeps: Sequence[Sweep]) -> Sweep:
    """Combine sweeps over the same step sizes, at several states, into one whose step size has to suit them all.

    Where no step size has slopes at all of them, it is that of the first.
    """
    changes = tuple(map(_largest, zip(*(sweep.changes for sweep in sweeps), strict=True)))
    known = [k for k, change in enumerate(changes) if change is not None]
    if len(sweeps) == 1 or not known:
        return sweeps[0]
    steps = list(sweeps[0].step_sizes)
    best = min(known, key=lambda k: changes[k] or 0.0)
    rounding = max(sweep.rounding for sweep in sweeps)
    errors = (None,) * len(steps)
    return Sweep(tuple(steps), changes, errors, steps[best], _plateau(steps, changes, best), changes[best] or 0.0, rounding)


def _largest(changes: Sequence[float | None]) -> float | None:
    """Return the largest of several changes; None if one is missing."""
    known = [change for change in changes if change is not None]
    return max(known) if len(known) == len(changes) else None


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


def _relative_change(a: Vector | None, b: Vector | None) -> float:
    """Compare slopes, relative to the larger ones; infinite if one is missing, or all of them are zero."""
    if a is None or b is None or not (a.any() or b.any()):
        return float("inf")
    return _rms(a - b) / max(_rms(a), _rms(b))


def _relative_error(slopes: Vector, exact: Vector) -> float | None:
    return _rms(slopes - exact) / _rms(exact) if _rms(exact) else None


def _rms(values: Vector) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
