"""Local steps: probes of many points at once, far enough from each other."""

from __future__ import annotations

import itertools
from typing import final

import numpy as np

from deepzero_sim.errors import ConfigError
from deepzero_sim.probing import Probes
from deepzero_sim.schemes import Scheme
from deepzero_sim.types import Array, is_whole
from deepzero_sim.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.vjp.differences import Differences


@final
class Coloured(VectorJacobianProduct):
    """Finite differences of all points of a colour at once (Curtis, Powell and Reid, IMA J. Appl. Math. 13, 1974): exact, to
    their error, where a step carries information no farther than `r` points.

    Points of a colour lie `2 r + 1` or more from each other, around the ends of an axis too, so that whatever changes within
    `r` of one of them is its own. With `N` points along an axis, it has `ceil(N / floor(N / (2 r + 1)))` colours; the axes'
    colours multiply, and each of the `C` channels has its own: so many solver steps a product and state, twice that if central.

    Args:
        radius: `r`; None for the solver's `SolverSpec.stencil`.
        step_size: as of :class:`~deepzero_sim.vjp.differences.Differences`.
        scheme: ``"forward"`` or ``"central"``.

    Raises:
        ConfigError: a radius below 0.
    """

    def __init__(self, radius: int | None = None, step_size: float | None = None, scheme: Scheme = "central") -> None:
        if radius is not None and (not is_whole(radius) or radius < 0):
            raise ConfigError(f"radius must be a whole number of points, 0 or more, not {radius!r}.")
        self.radius = radius
        self.scheme: Scheme = scheme
        self._differences = Differences(step_size, scheme)

    def product(self, taken: StepTaken, cotangents: Array, probes: Probes) -> Array:
        radius = self.radius if self.radius is not None else probes.spec.stencil
        if radius is None:
            raise ConfigError(
                f"solver {probes.spec.name!r} does not say how far a step carries information: set stencil in its spec, or "
                "give Coloured a radius."
            )
        directions = colours(probes.spec.active(), radius).astype(cotangents.dtype)
        result = np.zeros_like(cotangents)
        for b, (state, advanced, w) in enumerate(zip(taken.states, taken.advanced, cotangents, strict=True)):
            params = None if taken.params is None else taken.params[b]
            changes = self._differences.along(probes, state, params, advanced, directions)
            seen = _within((changes * w).sum(1), radius)  # of each probe, what each point gets: (n, *N)
            result[b] = (directions * seen[:, None]).sum(0)
        return result


def colours(active: np.ndarray, radius: int) -> np.ndarray:
    """Which points are probed together.

    Args:
        active: bool `(C, *N)`, where a state holds values.
        radius: how far a step carries information.

    Returns:
        bool `(n, C, *N)`: every active point is in one of them.
    """
    channels, *sizes = active.shape
    of_axes = [_of_axis(size, radius) for size in sizes]
    found = []
    for channel, *places in itertools.product(range(channels), *(range(int(c.max()) + 1) for c in of_axes)):
        together = np.ones(sizes, dtype=bool)
        for axis, (of_axis, place) in enumerate(zip(of_axes, places, strict=True)):
            together &= np.expand_dims(of_axis == place, [other for other in range(len(sizes)) if other != axis])
        points = np.zeros(active.shape, dtype=bool)
        points[channel] = together & active[channel]
        if points.any():
            found.append(points)
    return np.stack(found)


def _of_axis(size: int, radius: int) -> np.ndarray:
    """The colour of each point of an axis: its place in one of as many equal parts as are long enough."""
    parts = max(1, size // (2 * radius + 1))
    starts = [size * part // parts for part in range(parts + 1)]
    return np.concatenate([np.arange(end - start) for start, end in itertools.pairwise(starts)])


def _within(values: Array, radius: int) -> Array:
    """The sum of all values within a radius along every axis, around the ends: `(n, *N)` to `(n, *N)`."""
    for axis in range(1, values.ndim):
        reach = min(radius, (values.shape[axis] - 1) // 2)
        offsets = range(-reach, reach + 1) if 2 * radius < values.shape[axis] else range(values.shape[axis])
        values = np.sum([np.roll(values, offset, axis) for offset in offsets], axis=0)
    return values
