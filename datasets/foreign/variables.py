"""Arrays of foreign files by the roles of their axes, and frames made of them when they are read.

A file's arrays may have their axes in any order, lack some (a field that all simulations share has no simulation axis), and
hold one channel or several. :class:`Variable` says what each axis is; :class:`VariableFrames` reads `(t, C, *N)` of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.foreign.options import CHANNEL, SIMULATION, TIME
from deepzero_sim.datasets.frames import Frames, LazyFrames, read_simulation, runs
from deepzero_sim.datasets.hdf5 import StoredFile

#: One index for each axis of an array.
Index: TypeAlias = tuple[int | slice, ...]


class Source(Protocol):
    """Array that is read in parts."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers as they are read."""

    def read(self, index: Index) -> NDArray[Any]:
        """Read a part.

        Raises:
            DataError: It cannot be read.
        """


class Hdf5Source:
    """Dataset of an HDF5 file.

    Args:
        file: File that holds it.
        container: Open group that `path` starts from.
        path: Path of the dataset.
        reverse: True for an array of MATLAB, whose axes HDF5 has in the opposite order.

    Raises:
        ValueError: It is no dataset of this file, not written to its end, or packed.
    """

    def __init__(self, file: StoredFile, container: Any, path: str, reverse: bool = False) -> None:
        dataset = hdf5_objects.dataset(container, path, on_demand=True)
        packed = next((key for key in hdf5_objects.PACKED if key in dataset.attrs), None)
        hdf5_objects.require(packed is None, f"{path} holds packed numbers, as its attribute {packed} says")
        self._file, self._name, self._reverse = file, str(dataset.name), reverse
        self._missing = [hdf5_objects.number(dataset.attrs.get(key)) for key in ("_FillValue", "missing_value")]
        self.shape = tuple(dataset.shape[::-1] if reverse else dataset.shape)
        self.dtype = dataset.dtype.newbyteorder("=")

    def read(self, index: Index) -> NDArray[Any]:
        """Read a part; see :class:`Source`."""
        with self._file.open() as file:
            dataset = file[self._name]
            values = np.asarray(dataset[index[::-1]]).T if self._reverse else np.asarray(dataset[index])
        for missing in self._missing:
            if missing is not None:
                values = np.where(hdf5_objects.are_missing(values, missing), np.nan, values)
        return values


@dataclass(frozen=True, eq=False)
class Variable:
    """Array of a file, and what its axes are.

    Args:
        name: Name in the file.
        source: Array that is read in parts.
        roles: Role of each axis: ``simulation``, ``time``, ``channel`` or the name of an axis in space.
        components: Names of the channels along the axis of role ``channel``.
        unit: Unit of its values; empty if the file does not say.
        offsets: Distance of each channel's points from the coordinates along each axis, in units of the spacing; empty if they
            lie at the coordinates.
        titles: Other names that the file has for it.
    """

    name: str
    source: Source
    roles: tuple[str, ...]
    components: tuple[str, ...] = ()
    unit: str = ""
    offsets: tuple[tuple[float, ...], ...] = ()
    titles: tuple[str, ...] = ()

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of its channels."""
        return self.components or (self.name,)

    @property
    def is_constant(self) -> bool:
        """True for a field that does not change in time."""
        return TIME not in self.roles

    def length(self, role: str) -> int | None:
        """Length of the axis of a role; None if there is no such axis."""
        return self.source.shape[self.roles.index(role)] if role in self.roles else None

    def read(self, simulation: int, times: slice, axes: Sequence[str]) -> NDArray[Any]:
        """Read frames of one simulation: `(t, c, *N)`, with 1 for axes that the array does not have.

        Args:
            simulation: Number of the simulation.
            times: Numbers of the frames.
            axes: Names of the axes in space, in the order that is wanted.
        """
        by_role: dict[str, int | slice] = {SIMULATION: simulation, TIME: times}
        values = self.source.read(tuple(by_role.get(role, slice(None)) for role in self.roles))
        present = [role for role in self.roles if role != SIMULATION]
        order = [TIME, CHANNEL, *axes]
        values = values.transpose([present.index(role) for role in order if role in present])
        absent = tuple(place for place, role in enumerate(order) if role not in present)
        return np.expand_dims(values, absent)


class VariableFrames(LazyFrames):
    """Frames whose channels are those of some variables, one after the other.

    Args:
        variables: Variables, all on one grid.
        axes: Names of the axes in space.
        shape: Shape `(S, T, C, *N)`.
    """

    def __init__(self, variables: Sequence[Variable], axes: Sequence[str], shape: tuple[int, ...]) -> None:
        self._variables, self._axes = tuple(variables), tuple(axes)
        self.shape, self.dtype = shape, number_type([variable.source.dtype for variable in variables])

    def read(self, simulation: int, times: NDArray[np.intp]) -> Array:
        """Read frames of one simulation; see :class:`LazyFrames`."""
        states = np.empty((len(times), *self.shape[2:]), dtype=self.dtype)
        channel = 0
        for variable in self._variables:
            channels = slice(channel, channel + len(variable.channels))
            for frames, part in runs(times):
                with np.errstate(over="ignore"):
                    states[frames, channels] = variable.read(simulation, part, self._axes)
            channel = channels.stop
        return states


class ChosenChannels(LazyFrames):
    """Some channels of frames, in another order."""

    def __init__(self, frames: LazyFrames, channels: Sequence[int]) -> None:
        self._frames, self._channels = frames, list(channels)
        self.shape, self.dtype = (*frames.shape[:2], len(channels), *frames.shape[3:]), frames.dtype

    def read(self, simulation: int, times: NDArray[np.intp]) -> Array:
        """Read frames of one simulation; see :class:`LazyFrames`."""
        return self._frames.read(simulation, times)[:, self._channels]


class JoinedFrames(LazyFrames):
    """Frames of several files or groups, the simulations of one after those of the other.

    Args:
        parts: Frames of equal shape but for the number of simulations.
    """

    def __init__(self, parts: Sequence[Frames]) -> None:
        self._parts, self._starts = tuple(parts), np.cumsum([0, *(len(part) for part in parts)])
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])
        self.dtype = np.result_type(*(part.dtype for part in parts))

    def read(self, simulation: int, times: NDArray[np.intp]) -> Array:
        """Read frames of one simulation; see :class:`LazyFrames`."""
        place = int(np.searchsorted(self._starts, simulation, side="right")) - 1
        part, own = self._parts[place], simulation - int(self._starts[place])
        return read_simulation(part, own, times).astype(self.dtype, copy=False)


class MaskedFrames(LazyFrames):
    """Frames that are zero where a mask is False.

    Args:
        frames: Frames `(S, T, C, *N)`.
        mask: True where a frame holds values, bool `(C, *N)`.
        name: Name of the file, for messages.
        only_missing: True if all that lies outside of the mask has to be NaN.
    """

    def __init__(self, frames: Frames, mask: NDArray[np.bool_], name: str, only_missing: bool) -> None:
        self._frames, self._outside, self._name, self._only_missing = frames, ~mask, name, only_missing
        self.shape, self.dtype = frames.shape, frames.dtype

    def read(self, simulation: int, times: NDArray[np.intp]) -> Array:
        """Read frames of one simulation; see :class:`LazyFrames`."""
        states = read_simulation(self._frames, simulation, times)
        values = ~np.isnan(states[:, self._outside]).all(axis=1)
        require_data(
            not (self._only_missing and values.any()),
            f"{self._name} has values in frame {times[int(np.argmax(values))]} of simulation {simulation} at points that are "
            "NaN in its first frame: a region that moves cannot be masked: fill these points with numbers first.",
        )
        states[:, self._outside] = 0
        return states


def number_type(types: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    """Return the type of floating-point numbers that holds all of some types: float32 where that does."""
    return np.dtype(np.float32 if all(np.can_cast(kind, np.float32) for kind in types) else np.float64)


def is_numeric(dtype: np.dtype[Any]) -> bool:
    """Tell types of real numbers, and of true and false, from text, objects, records and complex numbers."""
    return dtype.kind in "fiub"
