"""Trajectories of a reference solver on the grid of the source solver, in one HDF5 file.

/frames    (S, T, C, *N)   S simulations, T frames, padding zero
/params    (S, K)          scenario parameters
/mask      (C, *N)         1 where a frame holds values, 0 where it is padding
/axes/<channel>/<axis>     positions of a channel's points
attributes                 format, version; the solver's metadata of its states: name, dt, channels and parameters with their
                           units, axes, spacing, offsets (see :class:`Metadata`); first_step, settings and software versions

Lists and mappings are JSON. A file by other hands may have attributes in any form of text and number that HDF5 has, and needs
none but format and version: those that it has are compared with the solver that it is used with.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.hdf5 import not_a_file, open_to_read, open_to_write, show
from deepzero_sim.datasets.metadata import (
    Metadata,
    differences,
    metadata_of_file,
    metadata_of_solver,
    require_metadata_keys,
)
from deepzero_sim.solver.spec import SolverSpec

FORMAT, VERSION = "deepzero-sim trajectories", 1


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Simulations of equal length, one step of the source solver between frames.

    Args:
        frames: States `(S, T, C, *N)`.
        params: Scenario parameters `(S, K)`.
        mask: True where a frame holds values, bool `(C, *N)`.
        attributes: Attributes of the file: names, units, settings, software.
        metadata: Metadata in the form that is compared with a solver; None of trajectories that come from no file.
        may_differ: Keys of metadata that may differ from a solver.
    """

    frames: Array
    params: Array
    mask: NDArray[np.bool_]
    attributes: dict[str, Any] = field(default_factory=dict)
    metadata: Metadata | None = None
    may_differ: Collection[str] = ()

    def scales(self) -> tuple[Array, Array]:
        """Compute standard deviations, 1 where zero: of channels over active points, `(C,)`, and of parameters, `(K,)`."""
        states = [self.frames[:, :, c, active] for c, active in enumerate(self.mask)]
        channels = np.array([values.std(dtype=np.float64) if values.size else 0.0 for values in states])
        params = self.params.std(axis=0, dtype=np.float64) if len(self.params) else np.zeros(self.params.shape[1])
        return np.where(channels > 0, channels, 1.0), np.where(params > 0, params, 1.0)

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
    require_data(
        not found,
        f"{what} does not fit {whose}: {'; '.join(found.values())}: use what belongs together, or set data_may_differ to "
        f"[{keys}] if this is meant.",
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


def save(path: Path, trajectories: Trajectories, spec: SolverSpec) -> None:
    """Write a file of trajectories, whole or not at all.

    Args:
        path: Path of the HDF5 file.
        trajectories: Trajectories to write.
        spec: Spec of the source solver, for names, units and axes.

    Raises:
        DataError: They are no trajectories, or not of this solver.
    """
    _require_form(trajectories, show(path), "check what is to be saved")
    require_shape(trajectories, spec, f"what is to be saved as {show(path)}")
    with open_to_write(path) as file:
        file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
        file.attrs["name"], file.attrs["dt"] = spec.name, float(spec.dt)
        for key in _SPEC_ATTRIBUTES[2:]:
            file.attrs[key] = json.dumps(getattr(spec, key))
        for key, value in trajectories.attributes.items():
            if key not in {"format", "version", *_SPEC_ATTRIBUTES}:  # of data that were loaded, perhaps from another solver
                file.attrs[key] = value if isinstance(value, str | int | float | np.generic | np.ndarray) else json.dumps(value)
        frames = trajectories.frames
        _write_dataset(file, "frames", frames, (1, 1, *frames.shape[2:]))
        _write_dataset(file, "params", trajectories.params, trajectories.params.shape)
        _write_dataset(file, "mask", trajectories.mask.astype(np.uint8), trajectories.mask.shape)
        _write_axes(file, spec)


def _write_dataset(file: h5py.File, name: str, values: NDArray[Any], chunks: tuple[int, ...]) -> None:
    """Write a dataset with checksums, so that whoever reads it finds damage."""
    options = {"chunks": chunks, "fletcher32": True} if values.size else {}
    file.create_dataset(name, data=values, **options)


def _write_axes(file: h5py.File, spec: SolverSpec) -> None:
    channels = spec.channels or tuple(f"channel_{i}" for i in range(spec.state_shape[0]))
    axes = spec.axes or tuple(f"axis_{i}" for i in range(len(spec.state_shape) - 1))
    for c, channel in enumerate(channels):
        for a, axis in enumerate(axes):
            file[f"axes/{channel}/{axis}"] = spec.coordinates(c, a)


def load(path: Path, spec: SolverSpec | None = None, data_may_differ: Collection[str] = ()) -> Trajectories:
    """Read a file of trajectories.

    Args:
        path: Path of the HDF5 file.
        spec: Spec of the solver that the frames must be states of, if any.
        data_may_differ: Keys of the file's metadata that may contradict the solver's: see
            :data:`deepzero_sim.datasets.metadata.MetadataKey`.

    Raises:
        DataError: The file is missing, is no such file, is damaged, or does not fit the solver.
        ConfigError: A name in `data_may_differ` is no key of metadata.
    """
    require_metadata_keys(data_may_differ)
    with _open(path) as file:
        frames, params, mask = (hdf5_objects.array(file, name) for name in ("frames", "params", "mask"))
        trajectories = Trajectories(frames, params, _as_mask(mask), _attributes(file), may_differ=tuple(data_may_differ))
        _require_form(trajectories, show(path), "generate it again")
        metadata = _read_metadata(file, trajectories.mask, params.shape[1], spec)
    trajectories = replace(trajectories, metadata=metadata)
    if spec is None:
        return trajectories
    trajectories.require_fit(spec, show(path))
    return replace(trajectories, frames=_cast(frames, spec, path), params=_cast(params, spec, path))


def describe(trajectories: Trajectories) -> dict[str, Any]:
    """Describe how a file was made, in plain values: for which solver, by which reference, with which software."""
    attributes = trajectories.attributes
    values: dict[str, Any] = {key: attributes[key] for key in ("name", "dt", "first_step") if key in attributes}
    made = hdf5_objects.json_of(attributes.get("settings"))
    simulations = made.get("simulations") if isinstance(made, dict) else None
    if isinstance(simulations, dict):
        values |= {key: simulations[key] for key in ("reference", "source", "initial", "restrict") if key in simulations}
    software = hdf5_objects.json_of(attributes.get("software"))
    return {key: _as_yaml(value) for key, value in values.items()} | ({"software": software} if software else {})


def _as_yaml(value: Any) -> Any:
    """Convert a value to one that YAML has."""
    number = hdf5_objects.number(value)
    if number is not None:
        return int(number) if number.is_integer() else number
    return value if isinstance(value, str | dict) else str(value)


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
    with _open(path) as file:
        frames, params = (hdf5_objects.dataset(file, name) for name in ("frames", "params"))
        mask = _as_mask(hdf5_objects.array(file, "mask"))
        hdf5_objects.require(
            frames.ndim >= 4 and params.ndim == 2 and mask.shape == frames.shape[2:],
            f"it has frames of shape {frames.shape}, params of {params.shape} and a mask of {mask.shape}",
        )
        return Summary(frames.shape, _read_metadata(file, mask, params.shape[1]))


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    instead = not_a_file(path)
    remedy = "name the file in it" if "folder" in (instead or "") else "run 'deepzero-sim generate' or check the path"
    require_data(instead is None, f"expected a file of trajectories at {show(path)}, but {instead}: {remedy}.")
    with open_to_read(path, "HDF5 trajectories", "check the path, or generate it again") as file:
        _require_format(file, path)
        yield file


def _require_format(file: h5py.File, path: Path) -> None:
    require_data(
        hdf5_objects.text(file.attrs.get("format")) == FORMAT,
        f"{path} is HDF5, but not a file of '{FORMAT}': make one with 'deepzero-sim generate'.",
    )
    version = file.attrs.get("version")
    require_data(
        hdf5_objects.number(version) == VERSION,
        f"{path} is of version {version!s} of '{FORMAT}', expected {VERSION}: generate it again, "
        "or use the release of this package it was made with.",
    )


def _attributes(file: h5py.File) -> dict[str, Any]:
    """Read all attributes that can be read, text as Python's."""
    attributes = {}
    for key in file.attrs:
        try:
            value = file.attrs[key]
        except (OSError, TypeError, ValueError, RuntimeError):  # of a type that only its writer knows
            continue
        text = hdf5_objects.text(value)
        attributes[key] = value if text is None else text
    return attributes


def _as_mask(mask: NDArray[Any]) -> NDArray[np.bool_]:
    hdf5_objects.require(
        mask.dtype.kind in "biuf" and bool(np.isin(mask, (0, 1)).all()),
        "its mask must hold 1 where a frame holds values and 0 elsewhere, and nothing else",
    )
    return mask.astype(bool)


def _require_form(trajectories: Trajectories, what: str, remedy: str) -> None:
    frames, params, mask = trajectories.frames, trajectories.params, trajectories.mask

    def require(holds: Any, otherwise: str) -> None:
        require_data(bool(holds), f"{what} {otherwise}.")

    require(
        frames.ndim >= 4 and params.ndim == 2 and len(params) == len(frames) and mask.shape == frames.shape[2:],
        "must hold frames (S, T, C, *N), params (S, K) and mask (C, *N), "
        f"not {frames.shape}, {params.shape} and {mask.shape}: {remedy}",
    )
    require(
        frames.dtype.kind == params.dtype.kind == "f",
        f"must hold floating-point frames and params, not {frames.dtype} and {params.dtype}: {remedy}",
    )
    require(frames.size, f"must hold simulations, each of one frame or more, not frames of shape {frames.shape}: {remedy}")
    require(mask.any(), f"must have a mask that is 1 where a frame holds values, not 0 everywhere: {remedy}")
    require(np.isfinite(params).all(), f"holds NaN or infinity among its params: {remedy}")
    finite = np.isfinite(frames)
    diverged = "holds NaN or infinity: the simulation it was made from diverged"
    require(finite[:, :, mask].all(), f"{diverged}; {remedy}")
    require(finite.all(), "holds NaN or infinity where its mask is 0, and padding must be zero: write zeros there")


def _read_metadata(file: h5py.File, mask: NDArray[np.bool_], parameters: int, spec: SolverSpec | None = None) -> Metadata:
    """Read a file's metadata, and refuse some that contradict its shape.

    Raises:
        ValueError: They do, or an entry is of another type.
    """
    metadata = metadata_of_file(file, mask, spec)
    channels, *points = mask.shape
    expected = {"channels": channels, "channel_units": channels, "axes": len(points)}
    expected |= {"parameters": parameters, "parameter_units": parameters, "spacing": len(points)}
    for key, length in (expected | {"offsets": channels * len(points)}).items():
        entries = np.size(getattr(metadata, key))
        hdf5_objects.require(entries in {0, length}, f"its {key} must have {length} entries, not {entries}")
    for (channel, axis), positions in metadata.positions.items():
        hdf5_objects.require(
            len(positions) == points[axis],
            f"its axes must have {points[axis]} positions for channel {channel} along axis {axis}, not {len(positions)}",
        )
    return metadata


def _cast(values: Array, spec: SolverSpec, path: Path) -> Array:
    with np.errstate(over="ignore"):
        cast: Array = values.astype(spec.dtype)
    require_data(
        bool(np.isfinite(cast).all()),
        f"{show(path)} holds numbers too large for {spec.dtype}, in which solver {spec.name!r} takes its states: use a "
        "solver of float64, or other units.",
    )
    return cast
