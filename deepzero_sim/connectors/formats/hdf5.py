"""A dataset of an HDF5 file."""

from __future__ import annotations

import io
from collections import deque

import h5py
import numpy as np

from deepzero_sim.connectors.formats.base import Content, Format, checked, floating, require_array
from deepzero_sim.errors import ConfigError, InvalidStateError, UnreadableOutputError
from deepzero_sim.types import Array, is_whole

#: Soft links that are followed in one path; more lead round in a circle.
MOST_LINKS = 16

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
        if index is not None and not is_whole(index):
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
                found = self._found(container)
                if self._index is None:
                    require_array(found.shape, found.dtype, shape)  # before it is read: it may be huge
                    return checked(np.asarray(found[()]), shape, dtype)
                require_array(found.shape[1:], found.dtype, shape)
                return checked(np.asarray(found[self._place(found)]), shape, dtype)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise UnreadableOutputError(f"is no whole HDF5 file with a dataset {self._dataset!r} ({error})") from error

    def _place(self, found: h5py.Dataset) -> int:
        assert self._index is not None
        length = found.shape[0] if found.shape else 0
        if not -length <= self._index < length:
            raise InvalidStateError(f"holds an array of shape {found.shape}, which has no index {self._index}")
        return self._index % length

    def _found(self, container: h5py.File) -> h5py.Dataset:
        """The dataset, unless it lies in another file: external links and virtual datasets could read any."""
        place: h5py.Group = container
        names, followed = deque(_names(self._dataset)), 0
        while names:
            name = names.popleft()
            link = place.get(name, getlink=True) if isinstance(place, h5py.Group) else None
            if isinstance(link, h5py.SoftLink) and followed < MOST_LINKS:
                followed += 1
                place = container if link.path.startswith("/") else place
                names.extendleft(reversed(_names(link.path)))
            elif isinstance(link, h5py.HardLink):
                place = place[name]
            else:
                raise KeyError(f"no {name!r} in {place.name}, or only a link out of the file or in a circle")
        if not isinstance(place, h5py.Dataset) or place.is_virtual or place.external or place.shape is None:
            raise KeyError(f"{self._dataset!r} is no dataset of the file's own")
        packed = [name for name in PACKED if name in place.attrs]
        if packed:
            raise KeyError(f"its attribute {packed[0]} says that the numbers are packed: have them written as they are")
        return place

    def largest(self, values: int) -> int:
        return (64 if self._index is None else 2**13) * values + 2**26  # others, or other times, may lie beside it


def _names(path: str) -> list[str]:
    """The names in a path of HDF5."""
    return [name for name in path.split("/") if name not in ("", ".")]
