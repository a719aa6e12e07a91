"""Parts of an HDF5 file of trajectories, read and written one by one; see :mod:`deepzero_sim.datasets.trajectories`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import frames as frames_module
from deepzero_sim.datasets.frames import Frames, StoredFrames, blocks
from deepzero_sim.datasets.hdf5 import StoredFile, not_a_file, open_to_read, show
from deepzero_sim.datasets.metadata import Metadata, metadata_of_file
from deepzero_sim.datasets.times import are_even
from deepzero_sim.solver.spec import SolverSpec

FORMAT, VERSION = "deepzero-sim trajectories", 1

#: Content of a file, for messages.
CONTENT = "HDF5 trajectories"


@contextmanager
def open_trajectory_file(path: Path) -> Iterator[h5py.File]:
    """Open a file of trajectories to read it.

    Yields:
        Open file.

    Raises:
        DataError: There is none, or it is damaged, none of this format, or of another version.
    """
    instead = not_a_file(path)
    remedy = "name the file in it" if "folder" in (instead or "") else "run 'deepzero-sim generate' or check the path"
    require_data(instead is None, f"expected a file of trajectories at {show(path)}, but {instead}: {remedy}.")
    with open_to_read(path, CONTENT, "check the path, or generate it again") as file:
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


def read_attributes(file: h5py.File) -> dict[str, Any]:
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


def as_mask(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Convert a mask of 1 and 0 in a file to one of truth values."""
    hdf5_objects.require(
        mask.dtype.kind in "biuf" and bool(np.isin(mask, (0, 1)).all()),
        "its mask must hold 1 where a frame holds values and 0 elsewhere, and nothing else",
    )
    return mask.astype(bool)


def read_frames(path: Path, file: h5py.File) -> Frames:
    """Read frames into memory if they are few, else find where they lie."""
    stored, dataset = StoredFile(path, CONTENT), hdf5_objects.dataset(file, "frames", on_demand=True)
    if dataset.ndim < 4 or dataset.dtype.kind != "f" or dataset.nbytes <= frames_module.IN_MEMORY:
        return hdf5_objects.array(file, "frames")
    return StoredFrames(stored, dataset)


def read_metadata(file: h5py.File, mask: NDArray[np.bool_], parameters: int, spec: SolverSpec | None = None) -> Metadata:
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


def write_frames(file: h5py.File, frames: Frames) -> None:
    """Write frames with checksums, block by block."""
    options: dict[str, Any] = {"chunks": (1, 1, *frames.shape[2:]), "fletcher32": True}
    dataset = file.create_dataset("frames", frames.shape, frames.dtype, **options)
    for block in blocks(frames):
        dataset[block.simulations, block.times] = block.states


def write_dataset(file: h5py.File, name: str, values: NDArray[Any], chunks: tuple[int, ...]) -> None:
    """Write a dataset with checksums, so that whoever reads it finds damage."""
    options = {"chunks": chunks, "fletcher32": True} if values.size else {}
    file.create_dataset(name, data=values, **options)


def write_axes(file: h5py.File, spec: SolverSpec, positions: Mapping[tuple[int, int], NDArray[np.float64]]) -> None:
    """Write the positions of every channel's points along every axis.

    Args:
        file: Open file.
        spec: Spec of the solver.
        positions: Positions that are written in place of the spec's, by channel and axis.
    """
    for c, channel in enumerate(spec.channel_names):
        for a, axis in enumerate(spec.axis_names):
            file[f"axes/{channel}/{axis}"] = positions.get((c, a), spec.coordinates(c, a))


def describe_origin(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Describe how a file was made, as its attributes tell; see :func:`deepzero_sim.datasets.trajectories.describe`."""
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


def require_form(frames: Frames, params: Array, mask: NDArray[np.bool_], what: str, remedy: str) -> None:
    """Refuse arrays that cannot be trajectories, as far as that is seen without looking into the frames.

    Args:
        frames: Frames.
        params: Scenario parameters.
        mask: Mask.
        what: Name of the data, for messages.
        remedy: Advice.

    Raises:
        DataError: They cannot.
    """

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


def require_times(times: NDArray[np.float64] | None, frames: int, what: str, remedy: str) -> None:
    """Refuse times that are not those of a number of frames, or not even; see :func:`require_form`."""
    if times is not None:
        came = np.shape(times)
        require_data(came == (frames,), f"{what} must hold a time of each of {frames} frames, not times {came}: {remedy}.")
        require_data(are_even(times), f"{what} must hold times that rise in even steps: {remedy}.")
