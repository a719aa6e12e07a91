"""Trajectories of a reference solver on the grid of the source solver, in one HDF5 file.

/frames    (S, T, C, *N)   S simulations, T frames, padding zero
/params    (S, K)          scenario parameters
/mask      (C, *N)         1 where a frame holds values, 0 where it is padding
/times     (T,)            times of the frames, evenly spaced, where they are known
/axes/<channel>/<axis>     positions of a channel's points
attributes                 format, version; the solver's metadata of its states: name, dt, channels and parameters with their
                           units, axes, spacing, offsets (see :class:`Metadata`); first_step, settings and software versions

Lists and mappings are JSON. A file by other hands may have attributes in any form of text and number that HDF5 has, and needs
none but format and version: those that it has are compared with the solver that it is used with.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.files import digest
from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.types import Array, to_array
from deepzero_sim.datasets.checked_frames import cast_frames, cast_states, check_frames
from deepzero_sim.datasets.frames import Frames, LazyFrames, blocks
from deepzero_sim.datasets.hdf5 import open_to_write, show
from deepzero_sim.datasets.metadata import (
    Metadata,
    differences,
    metadata_of_solver,
    require_metadata_keys,
    time_factor,
)
from deepzero_sim.datasets.survey import Survey, spread_of, survey
from deepzero_sim.datasets.times import frames_of_step, step_of_times, times_of_file
from deepzero_sim.datasets.trajectory_file import (
    FORMAT,
    VERSION,
    as_mask,
    describe_origin,
    open_trajectory_file,
    read_attributes,
    read_frames,
    read_metadata,
    require_form,
    require_times,
    write_axes,
    write_dataset,
    write_frames,
)
from deepzero_sim.solver.spec import SolverSpec


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Simulations of equal length, one step of the source solver between frames.

    Args:
        frames: States `(S, T, C, *N)`: an array or a tensor, or frames that are read when they are indexed.
        params: Scenario parameters `(S, K)`; none if None.
        mask: True where a frame holds values, bool `(C, *N)`; everywhere if None.
        attributes: Attributes of the file: names, units, settings, software.
        metadata: Metadata in the form that is compared with a solver; None of trajectories that come from no file.
        may_differ: Keys of metadata that may differ from a solver.
        times: Times of the frames, `(T,)`, evenly spaced, in the solver's unit; None where they are not known.
        time_unit: Unit of time, empty where it is not known.
        numbers: Numbers of the simulations in the file that they were taken from, if only some were; 0, 1, 2 and so on if None.
        unobserved: True if NaN in a frame stands for a value that was not observed; else NaN is refused.
    """

    frames: Frames
    params: Array = None  # type: ignore[assignment] # an array once it is made
    mask: NDArray[np.bool_] = None  # type: ignore[assignment]
    attributes: dict[str, Any] = field(default_factory=dict)
    metadata: Metadata | None = None
    may_differ: Collection[str] = ()
    times: NDArray[np.float64] | None = None
    time_unit: str = ""
    numbers: Sequence[int] | None = None
    unobserved: bool = False

    def __post_init__(self) -> None:
        frames = self.frames if isinstance(self.frames, LazyFrames) else as_array(self.frames)
        params = np.empty((len(frames), 0), dtype=frames.dtype) if self.params is None else as_array(self.params)
        mask = np.ones(frames.shape[2:], dtype=bool) if self.mask is None else _as_truth(as_array(self.mask))
        for key, value in {"frames": frames, "params": params, "mask": mask}.items():
            object.__setattr__(self, key, value)

    def __repr__(self) -> str:
        """Show how many there are, of what."""
        simulations, times = self.frames.shape[:2]
        where = " on disk" if self.on_disk else ""
        parameters = f", {self.params.shape[1]} parameter(s) each" if self.params.ndim == 2 and self.params.shape[1] else ""
        states = f"states {tuple(self.frames.shape[2:])} of {self.frames.dtype}"
        return f"Trajectories({simulations} simulations of {times} frames{where}: {states}{parameters})"

    @property
    def notes(self) -> list[str]:
        """Sentences on what was left out or assumed of a foreign file."""
        notes = self.attributes.get("notes")
        return [str(note) for note in notes] if isinstance(notes, list | tuple) else []

    @property
    def on_disk(self) -> bool:
        """True if frames are read on demand, because they are many."""
        return isinstance(self.frames, LazyFrames)

    @cached_property
    def complete(self) -> NDArray[np.bool_]:
        """True for frames of which every value was observed, from which a rollout can begin, bool `(S, T)`."""
        whole = np.ones(self.frames.shape[:2], bool)
        for block in blocks(self.frames) if self.unobserved else ():
            whole[block.simulations, block.times] = ~np.isnan(block.states).any(axis=tuple(range(2, block.states.ndim)))
        return whole

    def scales(self) -> tuple[Array, Array]:
        """Compute standard deviations, 1 where zero: of channels over active points, `(C,)`, and of parameters, `(K,)`."""
        channels = self._survey.deviations if self.on_disk else spread_of(self.frames, self.mask).deviations()
        params = np.zeros(self.params.shape[1])
        if len(self.params):
            params = self.params.std(axis=0, dtype=np.float64)
            params[np.ptp(self.params, axis=0) == 0] = 0.0  # else the rounding of their mean would pass for a scale
        return np.where(channels > 0, channels, 1.0), np.where(params > 0, params, 1.0)

    def means(self) -> tuple[Array, Array]:
        """Compute means, 0 where there is nothing: of channels over active points, `(C,)`, and of parameters, `(K,)`."""
        channels = self._survey.means if self.on_disk else spread_of(self.frames, self.mask).means()
        params = self.params.mean(axis=0, dtype=np.float64) if len(self.params) else np.zeros(self.params.shape[1])
        return channels, params

    def digest(self) -> str:
        """Compute a digest of frames, parameters and mask."""
        return self._survey.digest if self.on_disk else digest([], [self.frames[:], self.params, self.mask])

    @cached_property
    def _survey(self) -> Survey:
        """Figures of frames on disk, which do not change while they are in use: read once."""
        return survey(self.frames, self.params, self.mask)

    def require_fit(self, spec: SolverSpec, what: str = "the data") -> None:
        """Refuse frames that are not states of a solver, as far as shapes and metadata tell.

        Args:
            spec: Spec of the solver.
            what: Name of these data, for messages.

        Raises:
            DataError: They are not.
        """
        require_shape(self, spec, what)
        require_agreement(self, metadata_of_solver(spec), what, f"solver {spec.name!r}", self.may_differ)


def as_array(values: Any) -> NDArray[Any]:
    """Convert an array, a tensor or nested lists to an array, without a copy where it is one."""
    require_data(
        not np.ma.is_masked(values),
        "trajectories must be numbers, not a masked array, some of whose values are missing: fill them, or name their points "
        "by mask.",
    )
    return to_array(values) if isinstance(values, torch.Tensor) else np.asarray(values)


def _as_truth(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Convert a mask of 1 and 0 to one of truth values: as numbers it would be taken for indices."""
    fits = mask.dtype == bool or (mask.dtype.kind in "iuf" and bool(np.isin(mask, (0, 1)).all()))
    require_data(
        fits, "the mask of trajectories must be True where a frame holds values and False elsewhere, and nothing else."
    )
    return mask.astype(bool, copy=False)


def require_shape(trajectories: Trajectories, spec: SolverSpec, what: str) -> None:
    """Refuse frames and parameters of another shape than a solver's.

    Args:
        trajectories: Frames and parameters.
        spec: Spec of the solver.
        what: Name of the data, for messages.

    Raises:
        DataError: They have another shape.
    """
    frames, params = trajectories.frames, trajectories.params
    require_data(
        frames.shape[2:] == spec.state_shape,
        f"{what} holds states of shape {frames.shape[2:]}, but solver {spec.name!r} takes {spec.state_shape}: "
        "use the solver and resolution the data were made for.",
    )
    require_data(
        params.shape[1] == len(spec.parameters),
        f"{what} holds {params.shape[1]} parameters a simulation, but solver {spec.name!r} takes "
        f"{len(spec.parameters)} ({', '.join(spec.parameters) or 'none'}): use data made for it.",
    )


def require_agreement(
    trajectories: Trajectories, other: Metadata, what: str, whose: str, may_differ: Collection[str] = ()
) -> None:
    """Refuse a file whose metadata contradict those of a solver or another file.

    Args:
        trajectories: Content of the file.
        other: Metadata of the solver or the other file.
        what: Name of the file, for messages.
        whose: Name of the solver or the other file, for messages.
        may_differ: Keys that are known to differ.

    Raises:
        DataError: They contradict each other.
    """
    if trajectories.metadata is None:
        return
    found = differences(trajectories.metadata, other, may_differ)
    keys = ", ".join(dict.fromkeys([*may_differ, *found]))
    apart, factor = trajectories.metadata.dt, time_factor(trajectories.metadata, other)
    every = frames_of_step(apart * factor, other.dt) if "dt" in found and apart and factor else None
    remedy = "" if every is None else f"take one frame in {every} (a path of data may have every: {every} beside it), "
    require_data(
        not found,
        f"{what} does not fit {whose}: {'; '.join(found.values())}: {remedy}use what belongs together, or set data_may_differ "
        f"to [{keys}] if this is meant.",
    )


def as_batch(frames: Array, params: Array) -> tuple[Array, Array | None]:
    """Reshape frames of simulations to states of one batch, simulation after simulation.

    Args:
        frames: States `(S, T, C, *N)`.
        params: Scenario parameters `(S, K)`.

    Returns:
        States `(S T, C, *N)`, and the parameters of each, `(S T, K)`, or None if there are none.
    """
    states = frames.reshape(frames.shape[0] * frames.shape[1], *frames.shape[2:])
    return states, np.repeat(params, frames.shape[1], axis=0) if params.shape[1] else None


#: Attributes that come from a solver's spec.
_SPEC_ATTRIBUTES = ("name", "dt", "channels", "channel_units", "parameters", "parameter_units", "axes", "spacing", "offsets")

#: Attributes that are written of what is saved, whatever its own attributes say.
_OWN_ATTRIBUTES = {"format", "version", "time_unit", "missing", *_SPEC_ATTRIBUTES}

#: Attribute and value of files whose NaN stand for values that were not observed.
_UNOBSERVED = "missing", "unobserved"


def says_unobserved(attributes: Mapping[str, Any]) -> bool:
    """Tell from a file's attributes whether NaN stands for a value that was not observed."""
    return bool(attributes.get(_UNOBSERVED[0]) == _UNOBSERVED[1])


def save(
    path: Path | str,
    trajectories: Trajectories,
    spec: SolverSpec,
    *,
    named: bool = True,
    positions: Mapping[tuple[int, int], NDArray[np.float64]] | None = None,
) -> None:
    """Write a file of trajectories, whole or not at all.

    Args:
        path: Path of the HDF5 file.
        trajectories: Trajectories to write.
        spec: Spec of the source solver, for names, units and axes.
        named: False to leave out the spec's name, by which data are held to one solver.
        positions: Positions of points that the spec does not say, by channel and axis, such as uneven ones.

    Raises:
        DataError: They are no trajectories, or not of this solver.
    """
    path = Path(path)
    trajectories = _check(trajectories, show(path), "check what is to be saved")
    require_shape(trajectories, spec, f"what is to be saved as {show(path)}")
    with open_to_write(path) as file:
        file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
        file.attrs["dt"] = step_of_times(trajectories.times) or float(spec.dt)
        if named:
            file.attrs["name"] = spec.name
        if trajectories.time_unit or spec.time_unit:
            file.attrs["time_unit"] = trajectories.time_unit or spec.time_unit
        if trajectories.unobserved:
            file.attrs[_UNOBSERVED[0]] = _UNOBSERVED[1]
        for key in _SPEC_ATTRIBUTES[2:]:
            if key != "offsets" or not positions:  # without offsets, positions tell where points lie
                file.attrs[key] = json.dumps(getattr(spec, key))
        for key, value in trajectories.attributes.items():
            if key not in _OWN_ATTRIBUTES:  # of data that were loaded, perhaps from another solver
                file.attrs[key] = value if isinstance(value, str | int | float | np.generic | np.ndarray) else json.dumps(value)
        write_frames(file, trajectories.frames)
        if trajectories.times is not None:
            write_dataset(file, "times", trajectories.times, trajectories.times.shape)
        write_dataset(file, "params", trajectories.params, trajectories.params.shape)
        write_dataset(file, "mask", trajectories.mask.astype(np.uint8), trajectories.mask.shape)
        write_axes(file, spec, positions or {})


def load(
    path: Path | str, spec: SolverSpec | None = None, data_may_differ: Collection[str] = (), unobserved: bool = False
) -> Trajectories:
    """Read a file of trajectories.

    Args:
        path: Path of the HDF5 file.
        spec: Spec of the solver that the frames must be states of, if any.
        data_may_differ: Keys of the file's metadata that may contradict the solver's: see
            :data:`deepzero_sim.datasets.metadata.MetadataKey`.
        unobserved: True if NaN stands for a value that was not observed, which the file may say itself.

    Raises:
        DataError: The file is missing, is no such file, is damaged, or does not fit the solver.
        ConfigError: A name in `data_may_differ` is no key of metadata.
    """
    path = Path(path)
    require_metadata_keys(data_may_differ)
    with open_trajectory_file(path) as file:
        frames, (params, mask) = read_frames(path, file), (hdf5_objects.array(file, name) for name in ("params", "mask"))
        attributes = read_attributes(file)
        unobserved = unobserved or says_unobserved(attributes)
        trajectories = Trajectories(
            frames, params, as_mask(mask), attributes, may_differ=tuple(data_may_differ), unobserved=unobserved
        )
        trajectories = _check(trajectories, show(path), "generate it again")
        metadata = read_metadata(file, trajectories.mask, params.shape[1], spec)
        trajectories = replace(trajectories, metadata=metadata, times=times_of_file(file), time_unit=metadata.time_unit)
        require_times(trajectories.times, frames.shape[1], show(path), "generate it again")
    if spec is None:
        return trajectories
    trajectories.require_fit(spec, show(path))
    too_large = (
        f"{show(path)} holds numbers too large for {spec.dtype}, in which solver {spec.name!r} takes its states: use a "
        "solver of float64, or other units."
    )
    frames = cast_frames(trajectories.frames, spec.dtype, too_large, unobserved)
    params = cast_states(params, spec.dtype, too_large)
    return replace(trajectories, frames=frames, params=params)


def describe(trajectories: Trajectories) -> dict[str, Any]:
    """Describe how a file was made, for which solver, by which reference, with which software, and notes; in plain values."""
    notes = {"notes": trajectories.notes} if trajectories.notes else {}
    return describe_origin(trajectories.attributes) | notes


class Summary(NamedTuple):
    """Summary of a file of trajectories.

    Args:
        shape: Shape of the frames, `(S, T, C, *N)`.
        metadata: Metadata of the file.
    """

    shape: tuple[int, ...]
    metadata: Metadata


def summarise(path: Path) -> Summary:
    """Read the shape and the metadata of a file of trajectories.

    Raises:
        DataError: The file is refused by :func:`load`, as far as that is seen without reading the frames.
    """
    with open_trajectory_file(path) as file:
        frames, params = (hdf5_objects.dataset(file, name, on_demand=True) for name in ("frames", "params"))
        mask = as_mask(hdf5_objects.array(file, "mask"))
        hdf5_objects.require(
            frames.ndim >= 4 and params.ndim == 2 and mask.shape == frames.shape[2:],
            f"it has frames of shape {frames.shape}, params of {params.shape} and a mask of {mask.shape}",
        )
        return Summary(frames.shape, read_metadata(file, mask, params.shape[1]))


def _check(trajectories: Trajectories, what: str, remedy: str) -> Trajectories:
    """Refuse what are no trajectories; frames on disk are held to be finite when they are read."""
    frames, mask = trajectories.frames, trajectories.mask
    require_form(frames, trajectories.params, mask, what, remedy)
    require_times(trajectories.times, frames.shape[1], what, remedy)
    return replace(trajectories, frames=check_frames(frames, mask, what, remedy, trajectories.unobserved))
