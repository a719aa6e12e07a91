"""Local features of solver states: neighbourhoods at several scales, made uncorrelated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.fft

from deepzero_sim.common.types import Array

#: Most features that are kept, and the share of the largest variance below which one is noise.
MOST, NEGLIGIBLE = 100, 1e-8

#: Points of states from which variances are estimated, about, and most values of all stencils there.
SAMPLED, VALUES = 2**18, 2**25


class FilterGrid:
    """Grid on which states are filtered: periodic axes as they are, others continued by their first and last values.

    Args:
        points: Number of points along each axis, `(*N)`.
        periodic: Flag of each axis, True if its ends meet.
    """

    def __init__(self, points: Sequence[int], periodic: Sequence[bool]) -> None:
        self.points = tuple(points)
        self._margins = [0 if ends_meet else size // 2 for size, ends_meet in zip(points, periodic, strict=True)]
        self._shape = [size + 2 * margin for size, margin in zip(points, self._margins, strict=True)]
        self._axes = tuple(range(-len(self.points), 0))

    def transform(self, values: Array) -> Array:
        """Transform values on the points, `(..., *N)`, to Fourier space."""
        pads = [(0, 0)] * (values.ndim - len(self.points)) + [(margin, margin) for margin in self._margins]
        return np.asarray(scipy.fft.rfftn(np.pad(values, pads, mode="edge"), axes=self._axes))

    def values(self, transform: Array) -> Array:
        """Transform back to the points, `(..., *N)`."""
        whole = scipy.fft.irfftn(transform, s=self._shape, axes=self._axes)
        crop = (slice(margin, margin + size) for size, margin in zip(self.points, self._margins, strict=True))
        return np.asarray(whole[(..., *crop)])

    def waves(self) -> list[Array]:
        """Return the wave number along each axis, in radians per point, as arrays that broadcast to `(*K)`."""
        waves = [scipy.fft.fftfreq(size) for size in self._shape[:-1]] + [scipy.fft.rfftfreq(self._shape[-1])]
        return list(np.meshgrid(*(2 * np.pi * wave for wave in waves), indexing="ij", sparse=True))


class Stencil(NamedTuple):
    """Neighbour of a point in a source that was smoothed so many times, each time over twice as many points as before.

    Args:
        source: Number of the source, see :func:`sources_of`.
        level: Number of smoothings.
        offset: Offset of the neighbour along each axis, in points.
    """

    source: int
    level: int
    offset: tuple[int, ...]

    def response(self, waves: Sequence[Array]) -> Array:
        """Compute the transfer function of smoothing with weights 1/4, 1/2, 1/4 at distances 1, 2, 4, ..., then shifting."""
        phase = sum(wave * offset for wave, offset in zip(waves, self.offset, strict=True))
        response = np.exp(1j * np.asarray(phase))
        for level, wave in itertools.product(range(self.level), waves):
            response = response * (1 + np.cos(wave * 2**level)) / 2
        return response


class Potential(NamedTuple):
    """Potential `u` of a source `y`, `-div grad u = y`, or its slope along an axis, such as the velocity of a vorticity.

    Args:
        source: Number of the source, see :func:`sources_of`.
        axis: Axis of the slope; None for the potential itself.
    """

    source: int
    axis: int | None

    def response(self, waves: Sequence[Array]) -> Array:
        """Compute the transfer function, 0 for a constant."""
        squared = np.asarray(sum(np.square(wave) for wave in waves))
        inverse = np.where(squared > 0, 1 / np.where(squared > 0, squared, 1), 0)
        return np.asarray(inverse if self.axis is None else inverse * 1j * np.sin(waves[self.axis]), complex)


def stencils(points: Sequence[int], channels: int, sources: int) -> list[Stencil | Potential]:
    """List what filters make of `C` channels, of their increments and of further sources, `S` in all, on `(*N)` points."""
    box = list(itertools.product((-1, 0, 1), repeat=len(points)))
    found: list[Stencil | Potential] = []
    for channel in range(channels):
        found += [
            Stencil(channel, level, tuple(2**level * distance for distance in offset))
            for level in range(count_levels(points) + 1)
            for offset in box
        ]
        found += [Stencil(channel, 0, tuple(2 * distance for distance in offset)) for offset in star(len(points))]
        found += [Stencil(channels + channel, 0, offset) for offset in box]
        found += [Potential(channel, axis) for axis in (None, *range(len(points)))]
    return found + [Stencil(source, 0, (0,) * len(points)) for source in range(2 * channels, sources)]


def star(axes: int) -> list[tuple[int, ...]]:
    """List the offsets to the nearest points along each axis."""
    return [tuple(sign * int(axis == other) for other in range(axes)) for axis, sign in itertools.product(range(axes), (-1, 1))]


def count_levels(points: Sequence[int]) -> int:
    """Count the smoothings after which a grid of `(*N)` points still has some four points along its shortest axis."""
    return max(0, math.ceil(math.log2(min(points))) - 2)


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Map from states to features, `psi_r(s, p)(x) = sum_j (h_rj * y_j)(x) + b_rk p_k + c_r`.

    Args:
        grid: Grid on which states are filtered.
        filters: Transfer functions of `h`, `(r, S, *K)`, complex, one for each of the `S` sources `y`, see :func:`sources_of`.
        slopes: Weights of the scenario parameters, `b`, `(r, K)`.
        constants: Constants `c`, `(r,)`.
    """

    grid: FilterGrid
    filters: Array
    slopes: Array
    constants: Array

    def __call__(self, states: Array, advanced: Array, params: Array | None) -> Array:
        """Evaluate all features at states `(B, C, *N)`, their steps, and parameters `(B, K)` or None: `(B, r, *N)`."""
        sources = self.grid.transform(sources_of(states, advanced, self.filters.shape[1]))
        local = np.empty((len(states), len(self.filters), *states.shape[2:]), states.dtype)
        for r, one in enumerate(self.filters):
            local[:, r] = self.grid.values((sources * one).sum(1))  # faster than einsum
        level = self.constants + (0 if params is None else params.astype(np.float64) @ self.slopes.T)
        everywhere = np.broadcast_to(level, local.shape[:2]).astype(states.dtype)
        return local + everywhere.reshape(*local.shape[:2], *[1] * (states.ndim - 2))


def count_sources(channels: int, squares: bool) -> int:
    """Count the sources of features of so many channels, with products of channels or without."""
    return 2 * channels + (channels * (channels + 1) // 2 if squares else 0)


def sources_of(states: Array, advanced: Array, count: int) -> Array:
    """Stack the channels of states, of their increments and, if so many are asked for, all products of two of the states'.

    Args:
        states: States `(B, C, *N)`.
        advanced: States after their step, `(B, C, *N)`.
        count: Number of sources, `S`.

    Returns:
        Sources, `(B, S, *N)`.
    """
    sources, channels = [states, advanced - states], states.shape[1]
    if count > 2 * channels:
        first, second = np.triu_indices(channels)
        sources.append(states[:, first] * states[:, second])
    return np.concatenate(sources, axis=1)


class StateFeatures:
    """Features of states and their steps: linear filters of `s` and of the increment `P(s) - s`, and scenario parameters.

    Filters reach neighbours on the grid and, after smoothing over 2, 4, 8, ... points, neighbours 2, 4, 8, ... points away:
    some dozens of them hold a field's derivatives, and, with its potential, what a far field such as a velocity makes of it.
    They are centred, and made uncorrelated by principal components of unit variance.

    Args:
        states: Sample of states, `(B, C, *N)`, in units of each channel.
        advanced: States after their step, `(B, C, *N)`.
        params: Scenario parameters, `(B, K)`, or None.
        periodic: Flag of each axis, True if its ends meet.
        squares: Flag to take products of two channels at a point too, which reactions depend on.
    """

    def __init__(
        self, states: Array, advanced: Array, params: Array | None, periodic: Sequence[bool], squares: bool = False
    ) -> None:
        self.grid = FilterGrid(states.shape[2:], periodic)
        self._sources = count_sources(states.shape[1], squares)
        self._stencils = stencils(states.shape[2:], states.shape[1], self._sources)
        self._complex = np.result_type(states.dtype, np.complex64)
        values = self._sample(states, advanced)
        means, scales = values.mean(1), _or_infinite(values.std(1), np.abs(values).max())
        scaled = (values - means[:, None]) / scales[:, None]
        variances, components = np.linalg.eigh(scaled @ scaled.T / scaled.shape[1])
        kept = np.flatnonzero(variances > NEGLIGIBLE * variances[-1])[::-1][:MOST]
        self._weights = components[:, kept] / np.sqrt(variances[kept]) / scales[:, None]  # (stencils, M - K)
        self._means = means
        spread = np.zeros((1, 0)) if params is None else params.astype(np.float64)
        self._centres = spread.mean(0)
        self._spans = _or_infinite(spread.std(0), np.abs(spread).max(initial=0.0))

    @property
    def count(self) -> int:
        """Number of features, `M`."""
        return int(self._weights.shape[1]) + len(self._spans)

    def _sample(self, states: Array, advanced: Array) -> Array:
        """Evaluate all stencils at points of some states, `(stencils, points)`, float64."""
        size, sampled = int(np.prod(self.grid.points)), min(SAMPLED, VALUES // len(self._stencils))
        some = np.unique(np.linspace(0, len(states) - 1, max(1, sampled // size)).astype(int))
        sources = self.grid.transform(sources_of(states[some], advanced[some], self._sources))
        every, waves = max(1, len(some) * size // sampled), self.grid.waves()
        found = np.empty((len(self._stencils), -(-len(some) * size // every)))
        for row, stencil in zip(found, self._stencils, strict=True):
            row[:] = self.grid.values(sources[:, stencil.source] * stencil.response(waves)).reshape(-1)[::every]
        return found

    def combine(self, directions: Array) -> FeatureMap:
        """Make the map to combinations of features, each a column of `(M, r)`."""
        local = self._weights.shape[1]
        weights, slopes = self._weights @ directions[:local], directions[local:] / self._spans[:, None]
        waves = self.grid.waves()
        shape = np.broadcast_shapes(*(wave.shape for wave in waves))
        summed = np.zeros((directions.shape[1], self._sources, *shape), self._complex)
        for stencil, row in zip(self._stencils, weights, strict=True):
            summed[:, stencil.source] += np.multiply.outer(row, stencil.response(waves)).astype(self._complex)
        level = -self._means @ weights - self._centres @ slopes
        return FeatureMap(self.grid, summed, np.ascontiguousarray(slopes.T), level)


def _or_infinite(spreads: Array, size: float) -> Array:
    """Replace spreads that are rounding of values of some size, so that what does not vary is no feature."""
    return np.where(spreads > 1e-7 * size, spreads, np.inf)
