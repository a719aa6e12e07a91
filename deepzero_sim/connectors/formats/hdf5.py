"""A dataset of an HDF5 file."""

from __future__ import annotations

import io

import h5py
import numpy as np

from deepzero_sim.connectors.formats.base import Content, Format, checked, floating
from deepzero_sim.errors import ConfigError, UnreadableOutputError
from deepzero_sim.types import Array


class Hdf5(Format):
    """`hdf5`: one dataset of a file that may hold others.

    Args:
        dataset: its path in the file.
        dtype: to write in; that of the states if None. Any precision can be read.

    Raises:
        ConfigError: `dtype` names no floating-point numbers, or `dataset` is no path.
    """

    def __init__(self, dataset: str = "state", dtype: str | None = None) -> None:
        if not isinstance(dataset, str) or not dataset.strip("/") or "\0" in dataset:
            raise ConfigError(f"dataset must be the path of a dataset in the file, such as fields/u, not {dataset!r}.")
        self._dataset, self._dtype = dataset, floating(dtype)

    def encode(self, values: Array) -> Content:
        file = io.BytesIO()
        with h5py.File(file, "w") as container:
            container.create_dataset(self._dataset, data=values, dtype=self._dtype or values.dtype)
        return file.getbuffer()

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        try:
            with h5py.File(io.BytesIO(content), "r") as container:
                found = self._found(container)
                if found.shape != shape or found.dtype.kind != "f":  # not read: it may be huge
                    return checked(np.broadcast_to(np.empty((), found.dtype), found.shape), shape, dtype)
                return checked(found[()], shape, dtype)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise UnreadableOutputError(f"is no whole HDF5 file with a dataset {self._dataset!r} ({error})") from error

    def _found(self, container: h5py.File) -> h5py.Dataset:
        """The dataset, unless it lies in another file: links and virtual datasets could read any."""
        place: h5py.Group = container
        for name in self._dataset.strip("/").split("/"):
            if not isinstance(place, h5py.Group) or not isinstance(place.get(name, getlink=True), h5py.HardLink):
                raise KeyError(f"no {name!r} in {place.name}, or only a link")
            place = place[name]
        if not isinstance(place, h5py.Dataset) or place.is_virtual or place.external:
            raise KeyError(f"{self._dataset!r} is no dataset of the file's own")
        return place

    def largest(self, values: int) -> int:
        return 64 * values + 2**26  # others may lie beside it
