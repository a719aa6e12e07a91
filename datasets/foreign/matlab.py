"""MATLAB's files: version 5 to 7.2 through scipy, version 7.3 (HDF5, axes in the opposite order) through h5py."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.file_state import FileState
from deepzero_sim.datasets.foreign.content import assemble, left_out, shorten
from deepzero_sim.datasets.foreign.damage import explain
from deepzero_sim.datasets.foreign.named_arrays import arrange
from deepzero_sim.datasets.foreign.named_hdf5 import datasets
from deepzero_sim.datasets.foreign.options import ReadingOptions
from deepzero_sim.datasets.foreign.variables import Index, Source
from deepzero_sim.datasets.hdf5 import StoredFile, open_to_read, show
from deepzero_sim.datasets.recording import Recording

WHAT, REMEDY = "a file of MATLAB", "save it again in MATLAB, or restore the file"

#: Bytes before the first array of an older file.
_HEADER = 128

#: MATLAB's classes of numeric arrays.
_NUMERIC = {"double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}


def read(path: Path, options: ReadingOptions) -> Recording:
    """Read arrays by their names; see :func:`deepzero_sim.datasets.foreign.read_recording`."""
    if h5py.is_hdf5(path):
        with open_to_read(path, WHAT, REMEDY) as file:
            arrays = datasets(file, StoredFile(path, WHAT), reverse=True)
        others: list[str] = []
    else:
        arrays, others = _list_arrays(path)
    content = arrange(show(path), arrays, options)
    if others:
        content.notes.append(f"{left_out(others, 'is no array of numbers', 'are no arrays of numbers')}.")
    return assemble(content, options)


def _list_arrays(path: Path) -> tuple[dict[str, Source], list[str]]:
    """List the numeric arrays of an older file, without reading them, and the names of all else."""
    from scipy.io import whosmat  # noqa: PLC0415 - takes a while to import

    with explain(show(path), WHAT, REMEDY):
        _require_whole(path)
        listing = whosmat(str(path))
    arrays: dict[str, Source] = {name: _MatSource(path, name, shape) for name, shape, kind in listing if kind in _NUMERIC}
    others = [f"{name} ({kind})" for name, _, kind in listing if kind not in _NUMERIC]
    require_data(
        bool(arrays),
        f"{show(path)} holds no array of numbers, only {shorten(others) or 'nothing'}: save plain arrays in MATLAB.",
    )
    return arrays, others


def _require_whole(path: Path) -> None:
    """Refuse a file that ends within an element: scipy lists those that came before, without a word.

    Raises:
        ValueError: It ends there.
    """
    size, end = path.stat().st_size, _HEADER
    with path.open("rb") as file:
        little = file.read(_HEADER)[-2:] == b"IM"
        while end < size:
            file.seek(end)
            _, length = struct.unpack("<II" if little else ">II", file.read(8))
            end += 8 + length
    if end > size:
        raise ValueError(f"it was cut short: it has {size} bytes, and needs {end}")


class _MatSource:
    """Array of an older file, which is read as a whole when it is first asked for, as such files allow nothing else.

    Args:
        path: Path of the file.
        name: Name of the array.
        shape: Shape that the file lists it with.
    """

    def __init__(self, path: Path, name: str, shape: tuple[int, ...]) -> None:
        self._path, self._name = path.absolute(), name
        self._values: NDArray[Any] | None = None
        self._state = FileState(path)
        self.shape, self.dtype = tuple(shape), np.dtype(np.float64)

    def read(self, index: Index) -> NDArray[Any]:
        """Read a part; see :class:`deepzero_sim.datasets.foreign.variables.Source`."""
        from scipy.io import loadmat  # noqa: PLC0415 - takes a while to import

        if self._values is None:
            self._state.require_unchanged()
            with explain(show(self._path), WHAT, REMEDY):
                values = np.asarray(loadmat(str(self._path), variable_names=[self._name])[self._name])
            require_data(
                values.shape == self.shape and values.dtype.kind in "fiub",
                f"{self._name} of {show(self._path)} must hold real numbers of shape {self.shape}, not {values.dtype} of "
                f"{values.shape}.",
            )
            self._values = values
        return self._values[index]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_values": None}
