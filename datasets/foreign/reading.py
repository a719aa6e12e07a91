"""The table of formats, the format of a file by its content, and the reading of a file as a recording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_data, require_known
from deepzero_sim.datasets.foreign import (
    matlab,
    named_hdf5,
    netcdf,
    numpy_files,
    pdebench,
    solver_in_the_loop,
    well,
    zarr_store,
)
from deepzero_sim.datasets.foreign.content import left_out, shorten
from deepzero_sim.datasets.foreign.damage import explain
from deepzero_sim.datasets.foreign.options import ReadingOptions
from deepzero_sim.datasets.foreign.variables import JoinedFrames, MaskedFrames
from deepzero_sim.datasets.hdf5 import not_a_file, open_to_read, show
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.times import rounding_of
from deepzero_sim.errors import DataError

#: Function that reads a file or folder of one format.
Reader: TypeAlias = Callable[[Path, ReadingOptions], Recording]

#: Formats by name, and what reads them.
FORMATS: dict[str, Reader] = {
    "well": well.read,
    "pdebench": pdebench.read,
    "solver-in-the-loop": solver_in_the_loop.read,
    "netcdf": netcdf.read,
    "zarr": zarr_store.read,
    "npy": numpy_files.read_npy,
    "npz": numpy_files.read_npz,
    "matlab": matlab.read,
    "hdf5": named_hdf5.read,
}

#: Formats of which a folder may have one file for each simulation, or a few, and the endings of their names.
_IN_FOLDERS = {"well", "pdebench", "netcdf", "npy", "npz", "matlab", "hdf5"}
_ENDINGS = {".h5", ".hdf5", ".nc", ".nc4", ".cdf", ".npy", ".npz", ".mat"}

#: What files of one set have in common.
_SAME = (
    "channels",
    "channel_units",
    "axes",
    "axis_units",
    "time_unit",
    "parameters",
    "parameter_units",
    "offsets",
    "periodic",
)

#: First bytes of files, and what they say.
_MAGIC = {
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"CDF\x01": "netcdf",
    b"CDF\x02": "netcdf",
    b"CDF\x05": "netcdf",
    b"\x93NUMPY": "npy",
    b"PK\x03\x04": "npz",
    b"MATLAB 7.3 MAT-file": "matlab",
    b"MATLAB 5.0 MAT-file": "matlab",
}


def detect(path: Path) -> str:
    """Find the format of a file or folder by what it holds.

    Raises:
        DataError: It is none of those known; the message lists what it holds.
    """
    if _is_folder(path):
        return _detect_folder(path)
    instead = not_a_file(path)
    require_data(instead is None, f"expected data at {show(path)}, but {instead}: check the path.")
    try:
        with path.open("rb") as file:
            first = file.read(128)
    except OSError as error:
        raise DataError(f"{show(path)} cannot be read ({error}): check the path.") from error
    kind = next((kind for magic, kind in _MAGIC.items() if first.startswith(magic)), None)
    require_data(
        kind is not None,
        f"{show(path)} is of no format that is known, as it begins with {first[:12]!r}: expected {', '.join(FORMATS)}.",
    )
    return _detect_hdf5(path) if kind == "hdf5" else str(kind)


def _is_folder(path: Path) -> bool:
    """Tell folders, whatever else stands at a path, or if it can be none."""
    return "folder" in (not_a_file(path) or "")


def _detect_hdf5(path: Path) -> str:
    with open_to_read(path, "HDF5 data", "check the path, or copy the file again") as file:
        if well.recognise(file):
            return "well"
        if pdebench.recognise(file):
            return "pdebench"
        return "netcdf" if netcdf.recognise(file) else "hdf5"


def _detect_folder(path: Path) -> str:
    if zarr_store.recognise(path):
        return "zarr"
    if solver_in_the_loop.recognise(path):
        return "solver-in-the-loop"
    files = _data_files(path)
    require_data(
        bool(files),
        f"{show(path)} is a folder without data that is known: expected {', '.join(FORMATS)}, in files ending in "
        f"{', '.join(sorted(_ENDINGS))}, but it has {shorten(sorted(p.name for p in path.iterdir())) or 'nothing'}.",
    )
    return detect(files[0])


def _data_files(path: Path) -> list[Path]:
    """List the files of a folder that may hold data, `run_2` before `run_10`."""
    return sorted((p for p in path.iterdir() if p.suffix.lower() in _ENDINGS), key=lambda p: numpy_files.natural_order(p.name))


def read_recording(path: Path | str, options: ReadingOptions | None = None) -> Recording:
    """Read a foreign file, or a folder of them, as far as it is read before frames are asked for.

    Args:
        path: Path of a file, or of a folder: a Zarr store, simulations of Solver-in-the-Loop, or files of one format.
        options: Format and what the file does not say of itself.

    Raises:
        DataError: It is missing, damaged, of no known layout, or contradicts itself.
        ConfigError: The options name what is not there.
    """
    path, options = Path(path), options or ReadingOptions()
    if options.format is not None:
        require_known([options.format], list(FORMATS), "format of the data")
    kind = options.format or detect(path)
    if _is_folder(path) and kind in _IN_FOLDERS and not (kind == "npy" and numpy_files.is_collection(_data_files(path))):
        recordings = [_read(file, kind, options) for file in _data_files(path)]
        require_data(bool(recordings), f"{show(path)} is a folder without files of the format {kind}: check the path.")
        recording = _join(recordings, show(path))
    else:
        recording = _read(path, kind, options)
    return _mask_missing(recording)


def _read(path: Path, kind: str, options: ReadingOptions) -> Recording:
    """Read one file, with one sentence for all that readers of formats raise."""
    instead = not_a_file(path)
    require_data(
        instead is None or _is_folder(path),
        f"{show(path)} cannot be read as data of the format {kind}, because {instead}: check the path.",
    )
    with explain(show(path), f"data of the format {kind}", "restore the file, or make it again"):
        return FORMATS[kind](path, options)


def _join(recordings: list[Recording], name: str) -> Recording:
    """Put the simulations of several files together.

    Raises:
        DataError: They differ in more than their values and parameters.
    """
    recordings, lacking = _share_parameters(recordings)
    first = recordings[0]
    for other in recordings[1:]:
        for key in _SAME:
            same = getattr(first, key) == getattr(other, key)
            require_data(same, _differ(first, other, key, getattr(first, key), getattr(other, key)))
        shapes = first.frames.shape[1:], other.frames.shape[1:]
        require_data(shapes[0] == shapes[1], _differ(first, other, "frames of shape", *shapes))
        for key, one, two in _arrays(first, other):
            require_data(_are_equal(one, two), _differ(first, other, key, "those", "others"))
    notes = dict.fromkeys([*lacking, *(note for recording in recordings for note in recording.notes)])
    return replace(
        first,
        name=name,
        frames=JoinedFrames([recording.frames for recording in recordings]),
        params=np.concatenate([recording.params for recording in recordings]),
        notes=tuple(notes),
    )


def _share_parameters(recordings: list[Recording]) -> tuple[list[Recording], list[str]]:
    """Keep the parameters that all files have, in one order; returns sentences on the others, too."""
    notes, lacks = [], {}
    for name in dict.fromkeys(name for recording in recordings for name in recording.parameters):
        lacks[name] = next((recording.name for recording in recordings if name not in recording.parameters), None)
        if lacks[name] is not None:
            notes.append(f"{left_out([name])}, as {lacks[name]} has no {name} of one number, or of one for each simulation.")
    kept = tuple(name for name, file in lacks.items() if file is None)
    return [_take_parameters(recording, kept) for recording in recordings], notes


def _take_parameters(recording: Recording, names: tuple[str, ...]) -> Recording:
    places = [recording.parameters.index(name) for name in names]
    units = tuple(recording.parameter_units[place] for place in places)
    return replace(recording, parameters=names, params=recording.params[:, places], parameter_units=units)


def _arrays(first: Recording, other: Recording) -> list[tuple[str, NDArray[np.float64] | None, NDArray[np.float64] | None]]:
    pairs = zip(first.axes, first.coordinates, other.coordinates, strict=True)
    masks = [None if recording.mask is None else recording.mask.astype(np.float64) for recording in (first, other)]
    return [
        ("times", first.times, other.times),
        ("a mask of", masks[0], masks[1]),
        *((f"positions along {axis}", one, two) for axis, one, two in pairs),
    ]


def _are_equal(one: NDArray[np.float64] | None, two: NDArray[np.float64] | None) -> bool:
    """Tell times, positions or masks that are equal up to rounding."""
    if one is None or two is None:
        return one is two
    return one.shape == two.shape and bool(np.abs(one - two).max(initial=0.0) <= rounding_of(one.reshape(-1)))


def _differ(first: Recording, other: Recording, key: str, one: object, two: object) -> str:
    return (
        f"{first.name} and {other.name} are to be simulations of one set, but the first has {key} {one} and the other {two}: "
        "keep such files apart."
    )


def _mask_missing(recording: Recording) -> Recording:
    """Mask points that are NaN in the first and last frames of the first and last simulation, such as land in ocean data."""
    frames = recording.frames
    corners = [np.isnan(frames[s, t]) for s in {0, len(frames) - 1} for t in {0, frames.shape[1] - 1}]
    missing = corners[0]
    if recording.mask is not None or not missing.any() or not all((corner == missing).all() for corner in corners):
        return recording
    require_data(not missing.all(), f"{recording.name} holds nothing but missing values: check how it was made.")
    count = f"{int(missing.sum())} of {missing.size}"
    note = f"{count} values of a frame are missing in its first and last frames and were masked, such as land in an ocean."
    return replace(
        recording,
        frames=MaskedFrames(frames, ~missing, recording.name, only_missing=True),
        mask=~missing,
        notes=(*recording.notes, note),
    )
