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
        self._moments = [(0, 0.0, 0.0)] * len(mask)

    def add(self, states: Array) -> None:
        """Add a block of frames, `(s, t, C, *N)`."""
        for channel, active in enumerate(self._mask):
            values = states[:, :, channel] if active.all() else states[:, :, channel, active]
            if values.size:
                self._moments[channel] = _combine(self._moments[channel], _moments(values))

    def deviations(self) -> NDArray[np.float64]:
        """Return the standard deviations, 0 of a channel without active points."""
        return np.sqrt([variance for _, _, variance in self._moments])

    def means(self) -> NDArray[np.float64]:
        """Return the means, 0 of a channel without active points."""
        return np.array([mean for _, mean, _ in self._moments])


def _moments(values: Array) -> tuple[int, float, float]:
    """Compute the number, mean and variance of values, in float64."""
    mean = float(values.mean(dtype=np.float64))
    centred = np.subtract(values, mean, dtype=np.float64)
    return values.size, mean, float(np.square(centred, out=centred).mean())


def _combine(a: tuple[int, float, float], b: tuple[int, float, float]) -> tuple[int, float, float]:
    """Combine numbers, means and variances of two samples."""
    if not a[0]:
        return b
    count, shift = a[0] + b[0], b[1] - a[1]
    share = b[0] / count
    return count, a[1] + share * shift, (1 - share) * a[2] + share * b[2] + share * (1 - share) * shift**2
