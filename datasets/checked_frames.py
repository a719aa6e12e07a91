"""Frames held to be finite, and converted to a solver's type of numbers: at once in memory, on disk whenever some are read."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.frames import Frames, LazyFrames, blocks


class CastFrames(LazyFrames):
    """Frames in another type of numbers, of which none may be too large for it.

    Args:
        frames: Frames `(S, T, C, *N)`.
        dtype: Type of the numbers.
        too_large: Sentence for frames that have numbers too large for that type.
        unobserved: True to leave NaN as it is.
    """

    def __init__(self, frames: LazyFrames, dtype: DTypeLike, too_large: str, unobserved: bool = False) -> None:
        self._frames, self._too_large, self._unobserved = frames, too_large, unobserved
        self.shape, self.dtype = frames.shape, np.dtype(dtype)

    def read(self, simulation: int, times: NDArray[np.intp]) -> Array:
        """Read frames of one simulation; see :class:`LazyFrames`."""
        return cast_states(self._frames.read(simulation, times), self.dtype, self._too_large, self._unobserved)


def cast_frames(frames: Frames, dtype: DTypeLike, too_large: str, unobserved: bool = False) -> Frames:
    """Convert frames to another type of numbers, now or when they are read; the arguments are those of :class:`CastFrames`."""
    if frames.dtype == np.dtype(dtype):
        return frames
    if isinstance(frames, LazyFrames):
        return CastFrames(frames, dtype, too_large, unobserved)
    return cast_states(frames, dtype, too_large, unobserved)


def cast_states(states: Array, dtype: DTypeLike, too_large: str, unobserved: bool = False) -> Array:
    """Convert states to another type of numbers; unobserved, NaN stays.

    Raises:
        DataError: Some are too large for it.
    """
    with np.errstate(over="ignore"):
        cast: Array = states.astype(dtype)
    fits = np.isfinite(cast) | np.isnan(states) if unobserved else np.isfinite(cast)
    require_data(bool(fits.all()), too_large)
    return cast


class CheckedFrames(LazyFrames):
    """Frames that are held to be finite whenever some are read: see :func:`require_finite`."""

    def __init__(self, frames: LazyFrames, mask: NDArray[np.bool_], what: str, remedy: str, unobserved: bool = False) -> None:
        self._frames, self._mask, self._what, self._remedy, self._unobserved = frames, mask, what, remedy, unobserved
        self.shape, self.dtype = frames.shape, frames.dtype

    def read(self, simulation: int, times: NDArray[np.intp]) -> Array:
        """Read frames of one simulation; see :class:`LazyFrames`."""
        states = self._frames.read(simulation, times)
        require_finite(states[None], self._mask, self._what, self._remedy, self._unobserved)
        return states


def check_frames(frames: Frames, mask: NDArray[np.bool_], what: str, remedy: str, unobserved: bool = False) -> Frames:
    """Hold frames to be finite: all of them now if they are in memory, else those that are read, whenever they are.

    Args:
        frames: Frames `(S, T, C, *N)`.
        mask: True where a frame holds values, bool `(C, *N)`.
        what: Name of the data, for messages.
        remedy: Advice for a simulation that diverged.
        unobserved: True if NaN stands for a value that was not observed.

    Raises:
        DataError: Some are not.
    """
    if isinstance(frames, LazyFrames):
        return CheckedFrames(frames, mask, what, remedy, unobserved)
    for block in blocks(frames):
        require_finite(block.states, mask, what, remedy, unobserved)
    return frames


def require_finite(states: Array, mask: NDArray[np.bool_], what: str, remedy: str, unobserved: bool = False) -> None:
    """Refuse states that are NaN or infinite; see :func:`check_frames`.

    Args:
        states: States `(s, t, C, *N)`.
        mask: True where a frame holds values, bool `(C, *N)`.
        what: Name of the data, for messages.
        remedy: Advice for a simulation that diverged.
        unobserved: True if NaN stands for a value that was not observed, where the mask has values.

    Raises:
        DataError: Some are.
    """
    finite = np.isfinite(states)
    if unobserved:
        finite |= np.isnan(states) & mask
    if finite.all():
        return
    diverged = not finite[:, :, mask].all()
    require_data(not diverged, f"{what} holds NaN or infinity: the simulation it was made from diverged; {remedy}.")
    require_data(False, f"{what} holds NaN or infinity where its mask is 0, and padding must be zero: write zeros there.")
