"""Frames of trajectories, `(S, T, C, *N)`: arrays where they are small, else read on demand from where they lie.

Whoever takes frames indexes them by simulation and time, or goes through all of them by :func:`blocks`; both work on arrays and
on what is on disk alike, and give the same numbers, bit for bit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.hdf5 import StoredFile

#: Bytes of the largest frames that are read into memory as a whole; the same on every machine.
IN_MEMORY = 512 * 2**20

#: Bytes of a block, where frames are gone through block by block: few enough for memory to be used again and again.
BLOCK = 8 * 2**20


class LazyFrames(ABC):
    """Frames that are read when they are indexed: `frames[simulation, time]` gives what numpy would give for an array.

    Both indices may be integers, slices or arrays of integers. A subclass sets `shape` and `dtype` and says how frames of one
    simulation are read. It can be pickled and sent to workers.

    Attributes:
        shape: Shape `(S, T, C, *N)`.
        dtype: Type of the numbers, in this machine's byte order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @abstractmethod
    def read(self, simulation: int, times: NDArray[np.intp]) -> Array:
        """Read frames of one simulation, `(len(times), C, *N)`, as an array of its own.

        Args:
            simulation: Number of the simulation.
            times: Numbers of the frames, ascending, each once.

        Raises:
            DataError: They cannot be read.
        """

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of numbers."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes that they would take in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.shape} of {self.dtype}, read on demand"

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> Array:
        count = len(key) if isinstance(key, tuple) else 1
        if count > 2 or (isinstance(key, tuple) and any(index is None or index is Ellipsis for index in key)):
            raise IndexError("frames on disk are indexed by simulation and time: index what frames[simulation, time] gives.")
        simulations, times = self.shape[:2]
        which = np.broadcast_to(np.arange(simulations)[:, None], (simulations, times))[key]
        when = np.broadcast_to(np.arange(times), (simulations, times))[key]
        states = np.empty((which.size, *self.shape[2:]), dtype=self.dtype)
        self._fill(states, which.reshape(-1), when.reshape(-1))
        return states.reshape(*which.shape, *self.shape[2:])

    def _fill(self, states: Array, which: NDArray[np.intp], when: NDArray[np.intp]) -> None:
        """Read frames of many simulations, those of a simulation together."""
        order = np.lexsort((when, which))
        for places in np.split(order, np.flatnonzero(np.diff(which[order])) + 1):
            if len(places):
                times, back = np.unique(when[places], return_inverse=True)
                read = self.read(int(which[places[0]]), times)
                together = slice(places[0], places[-1] + 1) if (np.diff(places) == 1).all() else places
                states[together] = read if len(times) == len(places) else read[back]


#: Frames in memory or on disk.
Frames: TypeAlias = Array | LazyFrames


class StoredFrames(LazyFrames):
    """Frames in a dataset `(S, T, C, *N)` of an HDF5 file.

    Args:
        file: File that holds them.
        dataset: The dataset, as it is in the open file.
    """

    def __init__(self, file: StoredFile, dataset: h5py.Dataset) -> None:
        self._file, self._name = file, str(dataset.name)
        self._missing = hdf5_objects.missing_values(dataset)
        self.shape, self.dtype = tuple(dataset.shape), dataset.dtype.newbyteorder("=")

    def read(self, simulation: int, times: NDArray[np.intp]) -> Array:
        """Read frames of one simulation; see :class:`LazyFrames`."""
        states = np.empty((len(times), *self.shape[2:]), dtype=self.dtype)
        with self._file.open() as file:
            dataset = file[self._name]
            for there, part in runs(times):
                dataset.read_direct(states, np.s_[simulation, part], there)
            hdf5_objects.require_none_missing(states, self._missing, self._name.lstrip("/"))
        return states


class MappedFrames(LazyFrames):
    """Frames made of others by a function, when they are read.

    The function gets one frame at a time, so that a frame is the same whatever it is read together with.

    Args:
        frames: Frames `(S, T, C, *N)`.
        function: Function of states `(1, C, *N)` to states `(1, C', *N')`.
        state_shape: Shape of the states that it returns, `(C', *N')`.
        dtype: Type of the numbers that it returns, or that they are converted to.
    """

    def __init__(
        self, frames: Frames, function: Callable[[Array], Array], state_shape: Sequence[int], dtype: DTypeLike
    ) -> None:
        self._frames, self._function = frames, function
        self.shape, self.dtype = (*frames.shape[:2], *state_shape), np.dtype(dtype)

    def read(self, simulation: int, times: NDArray[np.intp]) -> Array:
        """Read frames of one simulation; see :class:`LazyFrames`."""
        states = np.empty((len(times), *self.shape[2:]), dtype=self.dtype)
        together = max(1, BLOCK // max(1, math.prod(self._frames.shape[2:]) * self._frames.dtype.itemsize))
        for first in range(0, len(times), together):  # frames that are mapped may be much larger than what they become
            part = slice(first, first + together)
            for place, frame in enumerate(read_simulation(self._frames, simulation, times[part]), start=first):
                states[place] = self._map(frame)
        return states

    def _map(self, frame: Array) -> Array:
        made = self._function(frame[None])
        require_data(
            made.shape == (1, *self.shape[2:]),
            f"a frame of shape {frame.shape} must become one of {self.shape[2:]}, not {tuple(made.shape[1:])}: check the "
            "function that makes it.",
        )
        mapped: Array = made[0]
        return mapped


class SelectedFrames(LazyFrames):
    """Some simulations and some times of frames; see :func:`select`."""

    def __init__(self, frames: LazyFrames, simulations: NDArray[np.intp], times: NDArray[np.intp]) -> None:
        self._frames, self._simulations, self._times = frames, simulations, times
        self.shape, self.dtype = (len(simulations), len(times), *frames.shape[2:]), frames.dtype

    def read(self, simulation: int, times: NDArray[np.intp]) -> Array:
        """Read frames of one simulation; see :class:`LazyFrames`."""
        return self._frames.read(int(self._simulations[simulation]), self._times[times])


def select(frames: Frames, simulations: Sequence[int] | slice = slice(None), times: slice = slice(None)) -> Frames:
    """Select simulations and times, such as `times=slice(None, None, 4)` for every fourth frame; nothing is read.

    Args:
        frames: Frames `(S, T, C, *N)`.
        simulations: Numbers of the simulations, or a slice of them.
        times: Slice of the frames of each, forwards.
    """
    if not isinstance(frames, LazyFrames):
        return frames[simulations if isinstance(simulations, slice) else list(simulations)][:, times]
    chosen = np.arange(frames.shape[0])[simulations if isinstance(simulations, slice) else list(simulations)]
    return SelectedFrames(frames, chosen, np.arange(frames.shape[1])[times])


def load_if_small(frames: Frames, limit: int | None = None) -> Frames:
    """Read frames into memory unless they are large.

    Args:
        frames: Frames `(S, T, C, *N)`.
        limit: Bytes of the largest ones that are read; :data:`IN_MEMORY` if None.
    """
    if isinstance(frames, LazyFrames) and frames.nbytes <= (IN_MEMORY if limit is None else limit):
        return frames[:]
    return frames


class Block(NamedTuple):
    """Some frames in memory.

    Args:
        simulations: Slice of their simulations.
        times: Slice of their times.
        states: States `(s, t, C, *N)`, contiguous.
    """

    simulations: slice
    times: slice
    states: Array


def blocks(frames: Frames, size: int = BLOCK) -> Iterator[Block]:
    """Go through all frames in the order in which they lie, a block of bounded size after the other.

    How they are divided depends on their shape and type only.

    Args:
        frames: Frames `(S, T, C, *N)`.
        size: Bytes of a block, which holds one frame at least.

    Yields:
        Blocks: whole simulations, or some frames of one.
    """
    simulations, times = frames.shape[:2]
    at_once = max(1, size // max(1, math.prod(frames.shape[2:]) * frames.dtype.itemsize))
    together, length = max(1, at_once // max(1, times)), min(times, at_once)
    for first in range(0, simulations, together):
        for start in range(0, times, max(1, length)):
            part = slice(first, min(first + together, simulations)), slice(start, min(start + length, times))
            yield Block(*part, np.ascontiguousarray(frames[part]))


def runs(places: NDArray[np.intp]) -> Iterator[tuple[slice, slice]]:
    """Divide ascending places into slices.

    Yields:
        Slice of the list of places, and the slice that these are.
    """
    steps = np.diff(places)
    if len(steps) and (steps == steps[0]).all():
        yield slice(0, len(places)), slice(int(places[0]), int(places[-1]) + 1, int(steps[0]))
        return
    first = 0
    for part in np.split(places, np.flatnonzero(steps != 1) + 1):
        yield slice(first, first + len(part)), slice(int(part[0]), int(part[-1]) + 1, 1)
        first += len(part)


def read_simulation(frames: Frames, simulation: int, times: NDArray[np.intp]) -> Array:
    """Read frames of one simulation, `(len(times), C, *N)`, of frames in memory or on disk."""
    return frames.read(simulation, times) if isinstance(frames, LazyFrames) else frames[simulation, times]
