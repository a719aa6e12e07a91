"""netCDF files and Zarr stores that xarray opens, here or in the workers that they are sent to."""

from __future__ import annotations

import importlib
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.datasets.file_state import FileState
from deepzero_sim.datasets.foreign.damage import explain
from deepzero_sim.datasets.foreign.variables import Index
from deepzero_sim.datasets.hdf5 import show
from deepzero_sim.errors import MissingExtraError

#: What xarray's engines read.
KINDS = {"netcdf4": "netCDF", "zarr": "a Zarr store"}

#: Numbers that netCDF puts where nothing was written, if a variable names no other; none for bytes.
_NOT_WRITTEN = {
    "f4": 9.969209968386869e36,
    "f8": 9.969209968386869e36,
    "i2": -(2**15) + 1,
    "i4": -(2**31) + 1,
    "i8": -(2**63) + 2,
    "u2": 2**16 - 1,
    "u4": 2**32 - 1,
    "u8": 2**64 - 2,
}


def require_extra(engine: str) -> Any:
    """Import xarray, and the library of an engine.

    Raises:
        MissingExtraError: They are not installed.
    """
    for module in ("xarray", "zarr" if engine == "zarr" else "netCDF4"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise MissingExtraError(f"reading {KINDS[engine]}", module, "xarray") from error
    return importlib.import_module("xarray")


class Store:
    """File or store that xarray opens when it is read, here or in the workers that it is sent to.

    Args:
        path: Path of it.
        engine: Name of xarray's engine.
    """

    def __init__(self, path: Path, engine: str) -> None:
        self.path, self.engine = path.absolute(), engine
        self._dataset: Any = None
        self.state = FileState(path)
        require_extra(engine)

    def open(self) -> Any:
        """Open it as an xarray dataset, without decoding times."""
        if self._dataset is None:
            options = {"consolidated": False} if self.engine == "zarr" else {}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they say of a file is not for our users
                opened = require_extra(self.engine).open_dataset
                dataset = opened(self.path, engine=self.engine, decode_times=False, **options)
            # Zarr lists arrays in the order in which a store happens to answer
            self._dataset = dataset[sorted(dataset.data_vars)] if self.engine == "zarr" else dataset
        return self._dataset

    def explain(self) -> AbstractContextManager[None]:
        """Turn what libraries say of it into one sentence; see :func:`deepzero_sim.datasets.foreign.damage.explain`."""
        return explain(show(self.path), KINDS[self.engine], "restore it, or make it again")

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_dataset": None}


class StoredVariable:
    """Variable of a store, decoded.

    Args:
        store: Store that holds it.
        name: Name of the variable.
    """

    def __init__(self, store: Store, name: str) -> None:
        variable = store.open()[name]
        self._store, self._name = store, name
        self.shape, self.dtype = tuple(variable.shape), variable.dtype
        self._names_missing = bool({"_FillValue", "missing_value"} & set(variable.encoding))
        self._valid = _valid_range(variable)

    def read(self, index: Index) -> NDArray[Any]:
        """Read a part; see :class:`deepzero_sim.datasets.foreign.variables.Source`."""
        self._store.state.require_unchanged()
        with self._store.explain():
            values = np.asarray(self._store.open()[self._name].variable[index].values)
        if values.dtype.kind not in "fiu":
            return values
        missing = np.asarray((values < self._valid[0]) | (values > self._valid[1]))
        not_written = _NOT_WRITTEN.get(values.dtype.str[1:])
        if not_written is not None and not self._names_missing and self._store.engine != "zarr":
            missing |= values == values.dtype.type(not_written)
        return np.where(missing, np.nan, values) if missing.any() else values


def _valid_range(variable: Any) -> tuple[float, float]:
    """Read the range of values that are not missing, for variables that are not packed."""
    if set(hdf5_objects.PACKED) & set(variable.encoding):
        return -np.inf, np.inf
    numbers = hdf5_objects.numbers(variable.attrs.get("valid_range"))
    if numbers is not None and numbers.size == 2:
        return float(numbers[0]), float(numbers[1])
    low, high = (hdf5_objects.number(variable.attrs.get(key)) for key in ("valid_min", "valid_max"))
    return -np.inf if low is None else low, np.inf if high is None else high
