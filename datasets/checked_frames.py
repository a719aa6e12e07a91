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
    """

    def __init__(self, frames: LazyFrames, dtype: DTypeLike, too_large: str) -> None:
        self._frames, self._too_large = frames, too_large
        self.shape, self.dtype = frames.shape, np.dtype(dtype)

    def read(self, simulation: int, times: NDArray[np.intp]) -> Array:
        """Read frames of one simulation; see :class:`LazyFrames`."""
        return cast_states(self._frames.read(simulation, times), self.dtype, self._too_large)


def cast_frames(frames: Frames, dtype: DTypeLike, too_large: str) -> Frames:
    """Convert frames to another type of numbers, now or when they are read; the arguments are those of :class:`CastFrames`."""
    if frames.dtype == np.dtype(dtype):
        return frames
    return CastFrames(frames, dtype, too_large) if isinstance(frames, LazyFrames) else cast_states(frames, dtype, too_large)


def cast_states(states: Array, dtype: DTypeLike, too_large: str) -> Array:
    """Convert states to another type of numbers.

    Raises:
        DataError: Some are too large for it.
    """
    with np.errstate(over="ignore"):
        cast: Array = states.astype(dtype)
    require_data(bool(np.isfinite(cast).all()), too_large)
    return cast


class CheckedFrames(LazyFrames):
    """Frames that are held to be finite whenever some are read: see :func:`require_finite`."""

    def __init__(self, frames: LazyFrames, mask: NDArray[np.bool_], what: str, remedy: str) -> None:
        self._frames, self._mask, self._what, self._remedy = frames, mask, what, remedy
        self.shape, self.dtype = frames.shape, frames.dtype

    def read(self, simulation: int, times: NDArray[np.intp]) -> Array:
        """Read frames of one simulation; see :class:`LazyFrames`."""
        states = self._frames.read(simulation, times)
        require_finite(states[None], self._mask, self._what, self._remedy)
        return states


def check_frames(frames: Frames, mask: NDArray[np.bool_], what: str, remedy: str) -> Frames:
    """Hold frames to be finite: all of them now if they are in memory, else those that are read, whenever they are.

    Args:
        frames: Frames `(S, T, C, *N)`.
        mask: True where a frame holds values, bool `(C, *N)`.
        what: Name of the data, for messages.
        remedy: Advice for a simulation that diverged.

    Raises:
        DataError: Some are not.
    """
    if isinstance(frames, LazyFrames):
        return CheckedFrames(frames, mask, what, remedy)
    for block in blocks(frames):
        require_finite(block.states, mask, what, remedy)
    return frames


def require_finite(states: Array, mask: NDArray[np.bool_], what: str, remedy: str) -> None:
    """Refuse states that are NaN or infinite; see :func:`check_frames`.

    Args:
        states: States `(s, t, C, *N)`.
        mask: True where a frame holds values, bool `(C, *N)`.
        what: Name of the data, for messages.
        remedy: Advice for a simulation that diverged.

    Raises:
        DataError: Some are.
    """
    finite = np.isfinite(states)
    if finite.all():
        return
    diverged = not finite[:, :, mask].all()
    require_data(not diverged, f"{what} holds NaN or infinity: the simulation it was made from diverged; {remedy}.")
    require_data(False, f"{what} holds NaN or infinity where its mask is 0, and padding must be zero: write zeros there.")
