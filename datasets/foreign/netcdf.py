"""netCDF files and Zarr stores through xarray, by the CF conventions.

Time, ensemble members and components are told by attributes (`axis`, `standard_name`, `units`) and names of dimensions; every
other dimension is an axis in space. Packed numbers are decoded and missing ones are NaN. Times stay numbers in the unit that
the file has for them.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.foreign import named_arrays
from deepzero_sim.datasets.foreign.classic_netcdf import require_whole
from deepzero_sim.datasets.foreign.content import Content, assemble, shorten
from deepzero_sim.datasets.foreign.options import CHANNEL, SIMULATION, TIME, ReadingOptions
from deepzero_sim.datasets.foreign.variables import Index, Variable, is_numeric
from deepzero_sim.datasets.hdf5 import show
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.errors import DataError, MissingExtraError

#: Names of dimensions by their role, where attributes say nothing.
_ROLES = {
    TIME: {"time", "t", "times", "ocean_time", "time_counter", "xtime"},
    SIMULATION: {
        "simulation",
        "ensemble",
        "member",
        "realization",
        "realisation",
        "sample",
        "batch",
        "trajectory",
        "run",
        "sim",
    },
    CHANNEL: {"channel", "channels", "component", "components", "variable", "vector"},
}

#: Number that netCDF puts where nothing was written, if a variable names no other.
_NOT_WRITTEN = 9.969209968386869e36

#: Ends of names of variables that hold the ends of cells.
_BOUNDS = ("_bnds", "_bounds")

_SINCE = re.compile(r"\s*(\w+)\s+since\s", re.IGNORECASE)


def recognise(file: h5py.File) -> bool:
    """Tell netCDF-4 from other HDF5 files: by what its library writes, or by dimensions that variables share."""
    datasets = [entry for entry in file.values() if isinstance(entry, h5py.Dataset)]
    return "_NCProperties" in file.attrs or any(
        hdf5_objects.text(entry.attrs.get("CLASS")) == "DIMENSION_SCALE" for entry in datasets
    )


def is_zarr(path: Path) -> bool:
    """Tell Zarr stores from other folders."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata", ".zarray"))


def read(path: Path, options: ReadingOptions) -> Recording:
    """Read a netCDF file; see :func:`deepzero_sim.datasets.foreign.read_recording`."""
    require_whole(path)
    return assemble(_Reader(_Store(path, "netcdf4"), options).read(), options)


def read_zarr(path: Path, options: ReadingOptions) -> Recording:
    """Read a Zarr store; see :func:`deepzero_sim.datasets.foreign.read_recording`."""
    notes = _unwritten_chunks(path)
    store = _Store(path, "zarr")
    if store.has_names():
        content = _Reader(store, options).read()
    else:
        arrays = _plain_arrays(path)
        content = named_arrays.arrange(show(path), arrays, options, has_names=len(arrays) > 1)
    content.notes += notes
    return assemble(content, options)


class _Store:
    """File or store that xarray opens when it is read, here or in the workers that it is sent to.

    Args:
        path: Path of it.
        engine: Name of xarray's engine.
    """

    def __init__(self, path: Path, engine: str) -> None:
        self.path, self.engine = path.absolute(), engine
        self._dataset: Any = None
        self.xarray = None
        require_extra(engine)

    def open(self) -> Any:
        """Open it as an xarray dataset, without decoding times.

        Raises:
            DataError: It cannot be opened.
        """
        if self._dataset is None:
            options = {"consolidated": False} if self.engine == "zarr" else {}
            with explain(self.path, self.engine):
                self._dataset = require_extra(self.engine).open_dataset(
                    self.path, engine=self.engine, decode_times=False, **options
                )
        return self._dataset

    def has_names(self) -> bool:
        """Tell stores whose arrays name their dimensions."""
        zarr = importlib.import_module("zarr")
        with explain(self.path, self.engine):
            root = zarr.open(self.path, mode="r")
            arrays = dict(root.arrays()) if hasattr(root, "arrays") else {}
        return bool(arrays) and all(
            not array.ndim or "_ARRAY_DIMENSIONS" in array.attrs or getattr(array.metadata, "dimension_names", None)
            for array in arrays.values()
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_dataset": None}


@contextmanager
def explain(path: Path, engine: str) -> Iterator[None]:
    """Turn what libraries say of a file that cannot be read into one sentence.

    Raises:
        DataError: It cannot be read.
    """
    kind = "a Zarr store" if engine == "zarr" else "netCDF"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{show(path)} cannot be read as {kind} ({words}): restore it, or make it again.") from error


def require_extra(engine: str) -> Any:
    """Import xarray, and the library of an engine.

    Raises:
        MissingExtraError: They are not installed.
    """
    library = "zarr" if engine == "zarr" else "netCDF4"
    for module in ("xarray", library):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise MissingExtraError(f"reading {'Zarr stores' if engine == 'zarr' else 'netCDF'}", module, "xarray") from error
    return importlib.import_module("xarray")


class _StoredVariable:
    """Variable of a store, decoded.

    Args:
        store: Store that holds it.
        name: Name of the variable.
    """

    def __init__(self, store: _Store, name: str) -> None:
        variable = store.open()[name]
        self._store, self._name = store, name
        self.shape, self.dtype = tuple(variable.shape), variable.dtype
        self._names_missing = bool({"_FillValue", "missing_value"} & set(variable.encoding))
        self._valid = _valid_range(variable)

    def read(self, index: Index) -> NDArray[Any]:
        """Read a part; see :class:`deepzero_sim.datasets.foreign.variables.Source`."""
        with explain(self._store.path, self._store.engine):
            values = np.asarray(self._store.open()[self._name].variable[index].values)
        if values.dtype.kind != "f":
            return values
        missing = (values < self._valid[0]) | (values > self._valid[1])
        if not self._names_missing and self._store.engine != "zarr":
            missing |= values == values.dtype.type(_NOT_WRITTEN)
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


class _Reader:
    """Reader of one store whose dimensions have names.

    Args:
        store: The store.
        options: Options of the user.
    """

    def __init__(self, store: _Store, options: ReadingOptions) -> None:
        self.store, self.options, self.name = store, options, show(store.path)
        self.dataset = store.open()
        self.notes: list[str] = []
        self.roles = {str(dim): self._role(str(dim)) for dim in self.dataset.sizes}

    def read(self) -> Content:
        """Read all but the fields' values."""
        if self.options.axes:
            self._rename()
        variables, parameters, left = self._sort()
        if not any(SIMULATION in variable.roles for variable in variables):
            left += [name for name in parameters if self.dataset[name].ndim]
            parameters = [name for name in parameters if not self.dataset[name].ndim]
        if left:
            self.notes.append(f"{shorten(left)} are no fields on the grid and were left out.")
        self._require_fields(variables)
        axes = tuple(role for role in variables[0].roles if role not in {SIMULATION, TIME, CHANNEL})
        times = self._coordinate(TIME)
        return Content(
            name=self.name,
            variables=variables,
            axes=axes,
            times=times[0] if times else None,
            time_unit=_time_unit(times[1]) if times else "",
            coordinates={axis: found[0] for axis in axes if (found := self._coordinate(axis))},
            axis_units={axis: found[1] for axis in axes if (found := self._coordinate(axis))},
            periodic={axis: True for axis in axes if self._goes_around(axis)},
            parameters={name: self.dataset[name].values for name in parameters},
            parameter_units={name: str(self.dataset[name].attrs.get("units", "")) for name in parameters},
            attributes={key: self.dataset.attrs[key] for key in ("title", "Conventions") if key in self.dataset.attrs},
            notes=self.notes,
        )

    def _role(self, dimension: str) -> str:
        """Tell what a dimension is, by its coordinate's attributes, then by its name."""
        attributes: Mapping[str, Any] = self.dataset[dimension].attrs if dimension in self.dataset.variables else {}
        standard = str(attributes.get("standard_name", ""))
        if (
            str(attributes.get("axis", "")).upper() == "T"
            or standard == "time"
            or _SINCE.match(str(attributes.get("units", "")))
        ):
            return TIME
        if standard == "realization":
            return SIMULATION
        return next((role for role, names in _ROLES.items() if dimension.lower() in names), dimension)

    def _rename(self) -> None:
        """Give the dimensions of the fields the roles that the user names in order."""
        given = self.options.axes
        fields = [v for v in self.dataset.data_vars.values() if v.ndim == len(given) and is_numeric(v.dtype)]
        chosen = [v for v in fields if v.name in self.options.channel_names] or fields
        require_data(
            bool(chosen),
            f"{self.name} has no variable with {len(given)} dimensions, as axes [{', '.join(given)}] has: it holds "
            f"{self._listing()}.",
        )
        self.roles.update(zip(map(str, chosen[0].dims), given, strict=True))

    def _sort(self) -> tuple[list[Variable], list[str], list[str]]:
        """Sort variables into fields, scenario parameters and the rest."""
        variables: list[Variable] = []
        parameters, left = [], []
        bounds = {str(v.attrs.get("bounds", v.encoding.get("bounds", ""))) for v in self.dataset.variables.values()}
        for name, array in self.dataset.data_vars.items():
            roles = tuple(self.roles[str(dim)] for dim in array.dims)
            space = set(roles) - {SIMULATION, TIME, CHANNEL}
            if not is_numeric(array.dtype) or name in bounds or str(name).endswith(_BOUNDS):
                left.append(str(name))
            elif space:
                variables.append(self._variable(str(name), array, roles))
            elif roles in {(), (SIMULATION,)}:
                parameters.append(str(name))
            else:
                left.append(str(name))
        return self._on_one_grid(variables, left), parameters, left

    def _variable(self, name: str, array: Any, roles: tuple[str, ...]) -> Variable:
        components: tuple[str, ...] = ()
        if CHANNEL in roles:
            dimension = str(array.dims[roles.index(CHANNEL)])
            count = array.sizes[dimension]
            named = dimension in self.dataset.variables and self.dataset[dimension].dtype.kind in "OUT"
            names = [str(n) for n in self.dataset[dimension].values] if named else [f"{name}_{i}" for i in range(count)]
            components = tuple(names)
        return Variable(name, _StoredVariable(self.store, name), roles, components, str(array.attrs.get("units", "")))

    def _on_one_grid(self, variables: list[Variable], left: list[str]) -> list[Variable]:
        """Keep the fields on the grid of those that change in time, or that the user chose."""
        wanted = set(self.options.channel_names)
        changing = [v for v in variables if not v.is_constant and (not wanted or {v.name, *v.channels} & wanted)]
        grids = {frozenset(_space(variable)): variable.name for variable in changing}
        require_data(
            len(grids) <= 1,
            f"{self.name} has fields on several grids, such as {' and '.join(grids.values())}: choose some by channels.",
        )
        grid = next(iter(grids), frozenset())
        kept = [variable for variable in variables if set(_space(variable)) == grid or (variable.is_constant and not grid)]
        parts = [v for v in variables if v not in kept and v.is_constant and set(_space(v)) <= grid]
        left += [variable.name for variable in variables if variable not in kept and variable not in parts]
        order = {v.name: place for place, v in enumerate(changing)}
        return sorted([*kept, *parts], key=lambda v: order.get(v.name, len(order)))

    def _require_fields(self, variables: list[Variable]) -> None:
        require_data(
            any(not variable.is_constant for variable in variables),
            f"{self.name} has no field along a dimension of time: it holds {self._listing()}: name its dimensions in order by "
            "axes, such as [simulation, time, y, x].",
        )

    def _listing(self) -> str:
        return shorten([f"{name} ({', '.join(map(str, v.dims))})" for name, v in self.dataset.data_vars.items()]) or "nothing"

    def _coordinate(self, role: str) -> tuple[NDArray[Any], str] | None:
        """Read the positions along an axis and their unit, if it has a coordinate of numbers."""
        dimension = next(dim for dim, own in self.roles.items() if own == role)
        if dimension not in self.dataset.variables:
            return None
        coordinate = self.dataset[dimension]
        if coordinate.ndim != 1 or coordinate.dtype.kind not in "fiu":
            return None
        with explain(self.store.path, self.store.engine):
            return np.asarray(coordinate.values), str(coordinate.attrs.get("units", ""))

    def _goes_around(self, axis: str) -> bool:
        """Tell longitudes that go around the whole earth."""
        found = self._coordinate(axis)
        if found is None or not found[1].lower().startswith("degrees_e") or len(found[0]) < 3:
            return False
        step = float(found[0][1] - found[0][0])
        return bool(np.isclose(abs(step) * len(found[0]), 360.0, rtol=1e-3))


def _space(variable: Variable) -> list[str]:
    return [role for role in variable.roles if role not in {SIMULATION, TIME, CHANNEL}]


def _time_unit(units: str) -> str:
    """Read the unit of time of "seconds since 2000-01-01", or of a plain unit."""
    since = _SINCE.match(units)
    return since[1] if since else units


def _plain_arrays(path: Path) -> dict[str, Any]:
    """Find the arrays of a Zarr store that names no dimensions."""
    zarr = importlib.import_module("zarr")
    with explain(path, "zarr"):
        root = zarr.open(path, mode="r")
        names = [name for name, _ in root.arrays()] if hasattr(root, "arrays") else [""]
    return {name or path.stem: _ZarrSource(path, name) for name in names}


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
        zarr = importlib.import_module("zarr")
        with explain(self._path, "zarr"):
            root = zarr.open(self._path, mode="r")
            return root[self._name] if self._name else root

    def read(self, index: Index) -> NDArray[Any]:
        """Read a part; see :class:`deepzero_sim.datasets.foreign.variables.Source`."""
        with explain(self._path, "zarr"):
            return np.asarray(self._open()[index])


def _unwritten_chunks(path: Path) -> list[str]:
    """Say which arrays have chunks that are not there: Zarr reads them as its fill value, without a word."""
    require_extra("zarr")
    zarr = importlib.import_module("zarr")
    notes = []
    with explain(path, "zarr"):
        root = zarr.open(path, mode="r")
        arrays = dict(root.arrays()) if hasattr(root, "arrays") else {path.stem: root}
        for name, array in arrays.items():
            absent = array.nchunks - array.nchunks_initialized
            if absent:
                notes.append(f"{absent} of {array.nchunks} chunks of {name} are not there and read as {array.fill_value}.")
    return notes
