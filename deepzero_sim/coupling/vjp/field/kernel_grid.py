"""Grid on which the kernels of convolutions live, and convolutions by fast Fourier transforms."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import scipy.fft

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.stencil_radius import wrapped_distance


class KernelGrid:
    """Points of a state, and the offsets of kernels between them.

    A periodic axis has as many offsets as points. Along any other axis, a state is continued by zeros, so that a convolution
    does not carry anything around its ends.

    Args:
        points: Number of points along each axis, `(*N)`.
        periodic: Flag of each axis, True if its ends meet.
        radius: Largest offset along each axis, in points; None for all.
    """

    def __init__(self, points: Sequence[int], periodic: Sequence[bool], radius: int | None = None) -> None:
        self.points, self.periodic, self.radius = tuple(points), tuple(periodic), radius
        self.shape = tuple(
            size if ends_meet else scipy.fft.next_fast_len(size + min(size - 1, radius or size - 1), real=True)
            for size, ends_meet in zip(points, periodic, strict=True)
        )
        self.axes = tuple(range(-len(self.points), 0))

    @property
    def size(self) -> int:
        """Number of offsets."""
        return math.prod(self.shape)

    @functools.cached_property
    def distance(self) -> np.ndarray:
        """Distance of every offset from 0, along the axis where it is largest, `(*E)`."""
        return wrapped_distance(self.shape, np.zeros(len(self.shape), dtype=int))

    @functools.cached_property
    def support(self) -> np.ndarray:
        """Mask of the offsets that kernels may use, bool `(*E)`."""
        inside = np.ones(self.shape, dtype=bool)
        for axis, (size, count, ends_meet) in enumerate(zip(self.shape, self.points, self.periodic, strict=True)):
            along = np.minimum(np.arange(size), size - np.arange(size))
            most = count if self.radius is None else self.radius
            near = along <= (most if ends_meet else min(most, count - 1))
            inside &= near.reshape([-1 if other == axis else 1 for other in range(len(self.shape))])
        return inside

    def shift(self, values: Array, offset: Sequence[int]) -> Array:
        """Return the values at `x + offset` for each point `x`, `(..., *N)`, zero beyond ends that do not meet."""
        shifted = np.roll(values, [-distance for distance in offset], axis=self.axes)
        for axis, distance, ends_meet in zip(self.axes, offset, self.periodic, strict=True):
            if distance and not ends_meet:
                beyond = slice(-distance, None) if distance > 0 else slice(None, -distance)
                shifted[(..., beyond, *[slice(None)] * (-axis - 1))] = 0
        return shifted

    def transform(self, values: Array) -> Array:
        """Transform values on the points, `(..., *N)`, or kernels, `(..., *E)`, to Fourier space."""
        return np.asarray(scipy.fft.rfftn(values, s=self.shape, axes=self.axes))

    def values(self, transform: Array) -> Array:
        """Transform back to the points, `(..., *N)`."""
        whole = scipy.fft.irfftn(transform, s=self.shape, axes=self.axes)
        return np.asarray(whole[(..., *(slice(size) for size in self.points))])

    def crop(self, transform: Array) -> Array:
        """Drop what lies beyond the ends of axes from a transform, `(..., *K)`."""
        return transform if all(self.periodic) else self.transform(self.values(transform))

    def identity(self, channels: int) -> Array:
        """Return the transforms of the identity's kernels, `(C, C, *1)`."""
        return np.eye(channels).reshape(channels, channels, *[1] * len(self.points))

    def kernels(self, transform: Array) -> Array:
        """Transform back to kernels, `(..., *E)`, zero outside their support."""
        return np.asarray(scipy.fft.irfftn(transform, s=self.shape, axes=self.axes) * self.support)


def convolve(kernels: Array, inputs: Array) -> Array:
    """Multiply transforms of kernels `(C, C', *K)` with those of inputs `(P, C', *K)`: transforms of outputs `(P, C, *K)`."""
    channels = range(kernels.shape[1])
    products = [sum(kernel[c] * inputs[:, c] for c in channels) for kernel in kernels]
    return np.stack(products, axis=1)


def correlate(kernels: Array, outputs: Array) -> Array:
    """Apply the adjoint of :func:`convolve`: transforms of outputs `(P, C, *K)` to those of inputs `(P, C', *K)`."""
    return np.conj(convolve(kernels.swapaxes(0, 1), np.conj(outputs)))
