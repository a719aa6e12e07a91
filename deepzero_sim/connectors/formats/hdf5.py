"""A dataset of an HDF5 file."""

from __future__ import annotations

import io

import h5py
import numpy as np

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.types import Array, is_integer
from deepzero_sim.connectors.formats.base import Content, Format, checked, floating, require_array
from deepzero_sim.errors import ConfigError, InvalidStateError, UnreadableOutputError

#: Attributes of a netCDF variable that says its numbers are not those that it holds.
PACKED = ("scale_factor", "add_offset")


class Hdf5(Format):
    """`hdf5`: one dataset of a file that may hold others.

    Args:
        dataset: its path in the file; soft links of the file are followed, external ones are not.
        dtype: to write in; that of the states if None. Any precision can be read.
        index: place on the dataset's first axis where one is read, such as -1 for the last of many times; all of it if None.

    Raises:
        ConfigError: `dtype` names no floating-point numbers, `dataset` is no path, or `index` no place.
    """

    def __init__(self, dataset: str = "state", dtype: str | None = None, index: int | None = None) -> None:
        if not isinstance(dataset, str) or not dataset.strip("/") or "\0" in dataset:
            raise ConfigError(f"dataset must be the path of a dataset in the file, such as fields/u, not {dataset!r}.")
        if index is not None and not is_integer(index):
            raise ConfigError(f"index must be a place on the dataset's first axis, such as -1 for the last, not {index!r}.")
        self._dataset, self._dtype, self._index = dataset, floating(dtype), index

    def encode(self, values: Array) -> Content:
        file = io.BytesIO()
        with h5py.File(file, "w") as container:
            container.create_dataset(self._dataset, data=values, dtype=self._dtype or values.dtype)
        return file.getbuffer()

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        try:
            with h5py.File(io.BytesIO(content), "r") as container:
                found = hdf5_objects.dataset(container, self._dataset)
                place = self._place(found)
                require_array(found.shape if place is None else found.shape[1:], found.dtype, shape)  # it may be huge
                _require_unpacked(found)
                return checked(hdf5_objects.array(container, self._dataset, place), shape, dtype)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise UnreadableOutputError(f"is no whole HDF5 file with a dataset {self._dataset!r} ({error})") from error

    def _place(self, found: h5py.Dataset) -> int | None:
        """The index from the front of the first axis."""
        if self._index is None:
            return None
        length = found.shape[0] if found.shape else 0
        if not -length <= self._index < length:
            raise InvalidStateError(f"holds an array of shape {found.shape}, which has no index {self._index}")
        return self._index % length

    def largest(self, values: int) -> int:
        return (64 if self._index is None else 2**13) * values + 2**26  # others, or other times, may lie beside it


def _require_unpacked(found: h5py.Dataset) -> None:
    packed = [name for name in PACKED if name in found.attrs]
    if packed:
        raise InvalidStateError(f"holds packed numbers, as its attribute {packed[0]} says: have them written as they are")
