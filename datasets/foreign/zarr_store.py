"""Zarr stores: with names of dimensions as xarray writes them, or plain arrays whose axes the user names."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.machine import memory
from deepzero_sim.datasets.foreign.content import assemble, shorten
from deepzero_sim.datasets.foreign.damage import explain
from deepzero_sim.datasets.foreign.named_arrays import arrange
from deepzero_sim.datasets.foreign.netcdf import NamedReader
from deepzero_sim.datasets.foreign.options import ReadingOptions
from deepzero_sim.datasets.foreign.variables import Index, Source
from deepzero_sim.datasets.foreign.xarray_store import KINDS, Store
from deepzero_sim.datasets.hdf5 import show
from deepzero_sim.datasets.recording import Recording


def recognise(path: Path) -> bool:
    """Tell Zarr stores from other folders."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata", ".zarray"))


def read(path: Path, options: ReadingOptions) -> Recording:
    """Read a Zarr store; see :func:`deepzero_sim.datasets.foreign.read_recording`."""
    store = Store(path, "zarr")
    with store.explain():
        root = importlib.import_module("zarr").open(path, mode="r")
        arrays = dict(sorted(root.arrays())) if hasattr(root, "arrays") else {"": root}
        notes = _absent_chunks(arrays)
        groups = sorted(name for name, _ in root.groups()) if hasattr(root, "groups") else []
        notes += [f"Its groups {shorten(groups)} were left out."] if groups else []
        if _has_names(arrays):
            content = NamedReader(store, options).read()
        else:
            plain: dict[str, Source] = {name or path.stem: _ZarrSource(path, name) for name in arrays}
            content = arrange(show(path), plain, options, has_names="" not in arrays)
    content.notes += notes
    return assemble(content, options)


def _has_names(arrays: Mapping[str, Any]) -> bool:
    """Tell stores whose arrays name their dimensions, in version 2 or 3 of the format."""
    return "" not in arrays and all(
        not array.ndim or "_ARRAY_DIMENSIONS" in array.attrs or getattr(array.metadata, "dimension_names", None)
        for array in arrays.values()
    )


def _absent_chunks(arrays: Mapping[str, Any]) -> list[str]:
    """Say which arrays have chunks that are not there: Zarr reads them as its fill value, without a word."""
    notes = []
    for name, array in arrays.items():
        absent = array.nchunks - array.nchunks_initialized
        what = name or "the array"
        size = math.prod(array.shape) * array.dtype.itemsize
        if absent and size > memory():
            raise ValueError(f"{absent} of {array.nchunks} chunks of {what}, {size / 2**30:,.0f} GiB, are not there")
        if absent:
            notes.append(f"{absent} of {array.nchunks} chunks of {what} are not there and read as {array.fill_value}.")
    return notes


class _ZarrSource:
    """Array of a Zarr store.

    Args:
        path: Path of the store.
        name: Name of the array in it; empty for a store that is one array.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path.absolute(), name
        array = self._open()
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)

    def _open(self) -> Any:
        root = importlib.import_module("zarr").open(self._path, mode="r")
        return root[self._name] if self._name else root

    def read(self, index: Index) -> NDArray[Any]:
        """Read a part; see :class:`deepzero_sim.datasets.foreign.variables.Source`."""
        with explain(show(self._path), KINDS["zarr"], "restore it, or make it again"):
            return np.asarray(self._open()[index])
