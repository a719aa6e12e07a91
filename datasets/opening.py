"""The one way to trajectories: of this package's own files, and of those that other programs made."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import h5py
import numpy as np

from deepzero_sim.common import hdf5_objects
from deepzero_sim.datasets import trajectories, trajectory_file
from deepzero_sim.datasets.checked_frames import check_frames
from deepzero_sim.datasets.fitting.fit import fit, metadata_of_fit
from deepzero_sim.datasets.foreign.options import ReadingOptions
from deepzero_sim.datasets.foreign.reading import detect, read_recording
from deepzero_sim.datasets.hdf5 import explain_damage, not_a_file, open_to_read, show
from deepzero_sim.datasets.metadata import Metadata
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import DataSource, as_source
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import DataError
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.spec_values import default_names

#: Name of this package's own layout, as `format` of a source and in reports.
OWN = "deepzero-sim"


def open_trajectories(
    source: str | Path | DataSource | Trajectories, spec: SolverSpec, may_differ: Collection[str] = ()
) -> Trajectories:
    """Open trajectories for a solver: on its grid, its step apart, with its channels and parameters.

    Args:
        source: Path of a file or folder, a path with what has to be said of it, or trajectories.
        spec: Spec of the solver.
        may_differ: Keys of metadata that may contradict the solver: see
            :data:`deepzero_sim.datasets.metadata_keys.MetadataKey`.

    Returns:
        Trajectories; of a foreign file, `attributes["notes"]` are sentences on what was left out or assumed.

    Raises:
        DataError: The data cannot be read, or do not fit the solver.
        ConfigError: Something that is said of them cannot be used.
    """
    if isinstance(source, Trajectories):
        source.require_fit(spec)
        if not source.on_disk:
            remedy = "leave it out, or set unobserved where NaN stands for what was not observed"
            check_frames(source.frames, source.mask, "what was handed over as data", remedy, source.unobserved)
        return source
    source = as_source(source)
    if _is_loaded(source):
        return trajectories.load(source.path, spec, may_differ)
    return fit(read_source(source, spec), spec, source, may_differ)


def metadata_of(source: str | Path | DataSource, spec: SolverSpec, may_differ: Collection[str] = ()) -> Metadata:
    """Return the metadata of trajectories as :func:`open_trajectories` gives them, without reading frames or calling functions.

    Raises:
        DataError: The data cannot be read, or do not fit the solver.
    """
    source = as_source(source)
    if _is_loaded(source):
        return trajectories.summarise(source.path).metadata
    return metadata_of_fit(read_source(source, spec), spec, source, may_differ)


def read_source(source: DataSource, spec: SolverSpec | None = None) -> Recording:
    """Read what a file says of itself, in whatever known layout it is.

    Args:
        source: Path, and what has to be said of it.
        spec: Spec of the solver that it is for, whose axes a message may name; None for none.

    Raises:
        DataError: It cannot be read.
    """
    layout = layout_of(source)
    if layout == OWN:
        return _recording_of_own(source.path, source.missing == "unobserved")
    axes = source.axes if isinstance(source.axes, list) else ()
    space = () if spec is None else spec.axes or ("z", "y", "x")[1 - len(spec.state_shape) :]
    return read_recording(source.path, ReadingOptions(format=layout, axes=axes, channels=source.channels, space=space))


def _detect(path: Path) -> str:
    """Find the layout of a foreign file.

    Raises:
        DataError: It is none that is known; the sentence says which are, and how to get there.
    """
    try:
        return detect(path)
    except DataError as error:
        instead = not_a_file(path)
        if instead is not None and "folder" not in instead:
            raise
        raise DataError(
            f"expected a file of trajectories, but {str(error).rstrip('.')}; make files of this package's own layout with "
            "'deepzero-sim generate', or with 'deepzero-sim convert' from one of those."
        ) from error


def layout_of(source: DataSource) -> str:
    """Return the layout that a source is said to have, or else that of what it holds.

    Raises:
        DataError: It is none that is known.
    """
    if source.format is not None:
        return source.format
    return OWN if _is_own(source.path) else _detect(source.path)


def _is_loaded(source: DataSource) -> bool:
    """Tell what is loaded as it is: a file of ours, of which nothing else is said; or neither file nor folder."""
    instead = not_a_file(source.path)
    return source.is_plain and (_is_own(source.path) if instead is None else "folder" not in instead)


def _is_own(path: Path) -> bool:
    """Tell a file of this package, whole or not."""
    what, remedy = "HDF5 data", "check the path, or copy the file again"
    with explain_damage(path, what, remedy):
        if not_a_file(path) is not None or not h5py.is_hdf5(path):
            return False
    with open_to_read(path, what, remedy) as file:
        return hdf5_objects.text(file.attrs.get("format")) == trajectory_file.FORMAT


def _recording_of_own(path: Path, unobserved: bool) -> Recording:
    """Take a file of this package for a recording, which can be fitted to another grid.

    Args:
        path: Path of the file.
        unobserved: True if NaN stands for a value that was not observed.
    """
    data = trajectories.load(path, unobserved=unobserved)
    metadata = data.metadata or Metadata()
    channels, *points = data.mask.shape
    coordinates, offsets = [], []
    for axis in range(len(points)):
        first = metadata.positions.get((0, axis))
        known = metadata.from_origin and all((channel, axis) in metadata.positions for channel in range(channels))
        coordinates.append(first if known else None)
    for channel in range(channels):
        offsets.append(tuple(_offset(metadata, channel, axis, coordinates[axis]) for axis in range(len(points))))
    times = data.times
    if times is None and metadata.dt is not None:
        times = metadata.dt * np.arange(data.frames.shape[1], dtype=np.float64)
    return Recording(
        frames=data.frames,
        channels=metadata.channels or default_names("channel", channels),
        name=show(path),
        times=times,
        time_unit=data.time_unit,
        channel_units=metadata.channel_units,
        axes=metadata.axes,
        coordinates=tuple(coordinates),
        offsets=tuple(offsets),
        params=np.asarray(data.params, dtype=np.float64),
        parameters=metadata.parameters or default_names("parameter", data.params.shape[1]),
        parameter_units=metadata.parameter_units,
        mask=None if data.mask.all() else data.mask,
        attributes=data.attributes,
    )


def _offset(metadata: Metadata, channel: int, axis: int, coordinates: object) -> float:
    """Return how far a channel's points lie from those of the first channel, in units of the spacing."""
    ours, first = metadata.positions.get((channel, axis)), metadata.positions.get((0, axis))
    if coordinates is None or ours is None or first is None or len(first) < 2:
        return 0.0
    return float((ours[0] - first[0]) / (first[1] - first[0]))
