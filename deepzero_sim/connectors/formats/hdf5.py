"""Dataset of an HDF5 file."""

from __future__ import annotations

import io

import h5py
import numpy as np

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.requirements import require
from deepzero_sim.common.types import Array, is_integer
from deepzero_sim.connectors.formats.base import Content, Format, as_state, float_dtype, require_array, require_content
from deepzero_sim.errors import InvalidStateError, UnreadableOutputError


class Hdf5(Format):
    """`hdf5`: one dataset of a file that may hold others.

    Args:
        dataset: Path of the dataset in the file; soft links of the file are followed, external ones are not.
        dtype: Dtype to write in; that of the states if None. Any precision can be read.
        index: Index on the dataset's first axis where one is read, such as -1 for the last of many times; all of it if None.

    Raises:
        ConfigError: `dtype` names no floating-point numbers, `dataset` is no path, or `index` no whole number.
    """

    def __init__(self, dataset: str = "state", dtype: str | None = None, index: int | None = None) -> None:
        fits = isinstance(dataset, str) and dataset.strip("/") and "\0" not in dataset
        require(bool(fits), "dataset must be the path of a dataset in the file, such as fields/u", dataset)
        whole = index is None or is_integer(index)
        require(whole, "index must be a place on the dataset's first axis, such as -1 for the last", index)
        self._dataset, self._dtype, self._index = dataset, float_dtype(dtype), index

    def encode(self, values: Array) -> Content:
        file = io.BytesIO()
        with h5py.File(file, "w") as container:
            container.create_dataset(self._dataset, data=values, dtype=self._dtype or values.dtype)
        return file.getbuffer()

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        try:
            with h5py.File(io.BytesIO(content), "r") as container:
                dataset = hdf5_objects.dataset(container, self._dataset)
                index = self._index_from_front(dataset)
                # before the values are read, of which there may be many
                require_array(dataset.shape if index is None else dataset.shape[1:], dataset.dtype, shape)
                for name in hdf5_objects.PACKED:
                    complaint = f"holds packed numbers, as its attribute {name} says: have them written as they are"
                    require_content(name not in dataset.attrs, complaint, InvalidStateError)
                return as_state(hdf5_objects.array(container, self._dataset, index), shape, dtype)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise UnreadableOutputError(f"is no whole HDF5 file with a dataset {self._dataset!r} ({error})") from error

    def _index_from_front(self, dataset: h5py.Dataset) -> int | None:
        if self._index is None:
            return None
        length = dataset.shape[0] if dataset.shape else 0
        inside = -length <= self._index < length
        require_content(inside, f"holds an array of shape {dataset.shape}, which has no index {self._index}", InvalidStateError)
        return self._index % length

    def largest(self, values: int) -> int:
        # other datasets, or other times, may lie in the same file
        return (64 if self._index is None else 2**13) * values + 2**26
