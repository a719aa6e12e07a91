"""Figures of all frames of trajectories, found block by block: the spread of every channel, and a digest of everything.

They depend on the frames alone, bit for bit, wherever these lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.files import ArrayInParts, digest
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.frames import Frames, blocks


class Moments(NamedTuple):
    """Number, mean and variance of values."""

    values: int
    mean: float
    variance: float


#: Moments of no values.
NO_VALUES = Moments(0, 0.0, 0.0)


class Survey(NamedTuple):
    """Figures of all frames.

    Args:
        deviations: Standard deviation of every channel over its active points, `(C,)`.
        digest: Digest of frames, parameters and mask.
        means: Mean of every channel over its active points, `(C,)`.
    """

    deviations: NDArray[np.float64]
    digest: str
    means: NDArray[np.float64]


def survey(frames: Frames, params: Array, mask: NDArray[np.bool_]) -> Survey:
    """Go through all frames once.

    Args:
        frames: Frames `(S, T, C, *N)`.
        params: Scenario parameters `(S, K)`.
        mask: True where a frame holds values, bool `(C, *N)`.
    """
    spread = Spread(mask)

    def states() -> Iterator[Array]:
        for block in blocks(frames):
            spread.add(block.states)
            yield block.states

    found = digest([], [ArrayInParts(frames.dtype, frames.shape, states()), params, mask])
    return Survey(spread.deviations(), found, spread.means())


def spread_of(frames: Frames, mask: NDArray[np.bool_]) -> Spread:
    """Go through all frames once for means and standard deviations alone.

    Args:
        frames: Frames `(S, T, C, *N)`.
        mask: True where a frame holds values, bool `(C, *N)`.
    """
    spread = Spread(mask)
    for block in blocks(frames):
        spread.add(block.states)
    return spread


class Spread:
    """Means and variances of channels, of blocks put together by the formula of Chan et al. (1979)."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self._mask = mask
        self._moments = [NO_VALUES] * len(mask)

    def add(self, states: Array) -> None:
        """Add a block of frames, `(s, t, C, *N)`."""
        for channel, active in enumerate(self._mask):
            values = states[:, :, channel] if active.all() else states[:, :, channel, active]
            if values.size:
                self._moments[channel] = combine(self._moments[channel], moments_of(values))

    def deviations(self) -> NDArray[np.float64]:
        """Return the standard deviations, 0 of a channel without active points."""
        return np.sqrt([variance for _, _, variance in self._moments])

    def means(self) -> NDArray[np.float64]:
        """Return the means, 0 of a channel without active points."""
        return np.array([mean for _, mean, _ in self._moments])


def moments_of(values: Array) -> Moments:
    """Compute the moments of values, at least one, in float64; NaN are left out."""
    mean = float(values.mean(dtype=np.float64))
    if np.isnan(mean):  # some were not observed
        seen = values[~np.isnan(values)]
        return moments_of(seen) if seen.size else NO_VALUES
    centred = np.subtract(values, mean, dtype=np.float64)
    return Moments(values.size, mean, float(np.square(centred, out=centred).mean()))


def combine(a: Moments, b: Moments) -> Moments:
    """Combine the moments of two samples, by the formula of Chan et al. (1979)."""
    if not a.values or not b.values:
        return b if b.values else a
    count, shift = a.values + b.values, b.mean - a.mean
    share = b.values / count
    return Moments(
        count, a.mean + share * shift, (1 - share) * a.variance + share * b.variance + share * (1 - share) * shift**2
    )
