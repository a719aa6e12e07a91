"""Jacobians within windows around every point, from probes of many points at once."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
from scipy.sparse import csr_array

from deepzero_sim.common.types import Array


class Windows:
    """Sparsity of the Jacobian of a step that carries information no farther than a radius, around the ends of axes too.

    Points of a colour lie `2 r + 1` or more from each other, so that whatever changes within `r` of one of them is its own
    (Curtis, Powell and Reid, IMA J. Appl. Math. 13, 1974). With `N` points along an axis, it has
    `ceil(N / floor(N / (2 r + 1)))` colours; the axes' colours multiply, and each of the `C` channels has its own.

    Args:
        active: Mask of the points where a state holds values, bool `(C, *N)`; `n` points in all.
        radius: Radius `r`, in points.
    """

    def __init__(self, active: np.ndarray, radius: int) -> None:
        self._active, self._radius = active, radius

    @functools.cached_property
    def directions(self) -> np.ndarray:
        """Points that are probed together, bool `(colours, C, *N)`."""
        return colours(self._active, self._radius)

    @functools.cached_property
    def _colour(self) -> np.ndarray:
        """Colour of every active point, `(n,)`."""
        return np.asarray(self.directions[:, self._active].argmax(0))

    @functools.cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Row starts, `(n + 1,)`, and columns of a matrix of inputs by outputs, in the order of its rows."""
        channels, *sizes = self._active.shape
        count = self._active.reshape(-1).cumsum(dtype=np.int32).reshape(self._active.shape)  # scipy copies wider ones
        numbers = np.where(self._active, count - 1, np.int32(-1))
        axes = tuple(range(1, len(sizes) + 1))
        around = [
            np.roll(numbers[channel : channel + 1], offset, axes)
            for channel in range(channels)
            for offset in itertools.product(*(_offsets(size, self._radius) for size in sizes))
        ]
        windows = np.stack([np.broadcast_to(places, self._active.shape)[self._active] for places in around], axis=1)
        windows.sort(axis=1)  # the points around each point in order, those that hold no values first
        inside = windows >= 0
        return np.concatenate([[0], inside.sum(1).cumsum()]).astype(np.int32), windows[inside]

    @property
    def entries(self) -> int:
        """Number of entries of a Jacobian, at most."""
        channels, *sizes = self._active.shape
        around: int = channels * math.prod(len(_offsets(size, self._radius)) for size in sizes)
        return int(self._active.sum()) * around

    @property
    def nonzeros(self) -> int:
        """Number of entries of a Jacobian."""
        return len(self._places[1])

    def transpose(self, changes: Array) -> csr_array:
        """Assemble `J^T`, inputs by outputs, `(n, n)`.

        Args:
            changes: Products `J v` with the directions `v`, `(colours, C, *N)`.
        """
        starts, columns = self._places
        rows = np.repeat(self._colour, np.diff(starts))
        return self.matrix(changes[:, self._active][rows, columns])

    def matrix(self, entries: Array) -> csr_array:
        """Assemble a matrix of inputs by outputs, `(n, n)`, from its entries in the order of its rows."""
        starts, columns = self._places
        return csr_array((entries, columns, starts), shape=(len(starts) - 1,) * 2)


def colours(active: np.ndarray, radius: int) -> np.ndarray:
    """Divide active points into groups that are probed together, bool `(colours, C, *N)`, with the arguments of
    :class:`Windows`; every active point is in one of them.
    """
    channels, *sizes = active.shape
    axis_colours = [_axis_colours(size, radius) for size in sizes]
    groups = []
    for channel, *places in itertools.product(range(channels), *(range(int(c.max()) + 1) for c in axis_colours)):
        together = np.ones(sizes, dtype=bool)
        for axis, (colour, place) in enumerate(zip(axis_colours, places, strict=True)):
            together &= np.expand_dims(colour == place, [other for other in range(len(sizes)) if other != axis])
        points = np.zeros(active.shape, dtype=bool)
        points[channel] = together & active[channel]
        if points.any():
            groups.append(points)
    return np.stack(groups)


def count_colours(active: np.ndarray, radius: int) -> int:
    """Count the groups of :func:`colours` without making them."""
    channel, *places = np.nonzero(active)
    along = [_axis_colours(size, radius) for size in active.shape[1:]]
    groups = [channel, *(colour[place] for colour, place in zip(along, places, strict=True))]
    shape = (len(active), *(int(colour.max()) + 1 for colour in along))
    return len(np.unique(np.ravel_multi_index(tuple(groups), shape)))


def _axis_colours(size: int, radius: int) -> np.ndarray:
    """Colour each point of an axis: its place in one of as many equal parts as are long enough."""
    parts = max(1, size // (2 * radius + 1))
    starts = [size * part // parts for part in range(parts + 1)]
    return np.concatenate([np.arange(end - start) for start, end in itertools.pairwise(starts)])


def _offsets(size: int, radius: int) -> range:
    """List the offsets to the points within a radius along an axis, each point once."""
    return range(-radius, radius + 1) if 2 * radius < size else range(size)
