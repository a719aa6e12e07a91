"""netCDF files through xarray, by the CF conventions; Zarr stores whose dimensions have names are read alike.

Time, ensemble members and components are told by attributes (`axis`, `standard_name`, `units`) and names of dimensions; every
other dimension is an axis in space. Packed numbers are decoded and missing ones are NaN. Times stay numbers in the unit that
the file has for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.foreign.classic_netcdf import require_whole
from deepzero_sim.datasets.foreign.content import Content, assemble, left_out, shorten
from deepzero_sim.datasets.foreign.options import CHANNEL, SIMULATION, TIME, ReadingOptions
from deepzero_sim.datasets.foreign.variables import Variable, is_numeric
from deepzero_sim.datasets.foreign.xarray_store import Store, StoredVariable
from deepzero_sim.datasets.hdf5 import show
from deepzero_sim.datasets.recording import Recording

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

#: Ends of names of variables that hold the ends of cells.
_BOUNDS = ("_bnds", "_bounds")

_SINCE = re.compile(r"\s*(\w+)\s+since\s", re.IGNORECASE)


def recognise(file: h5py.File) -> bool:
    """Tell netCDF-4 from other HDF5 files: by what its library writes, or by dimensions that variables share."""
    datasets = [entry for entry in file.values() if isinstance(entry, h5py.Dataset)]
    return "_NCProperties" in file.attrs or any(
        hdf5_objects.text(entry.attrs.get("CLASS")) == "DIMENSION_SCALE" for entry in datasets
    )


def read(path: Path, options: ReadingOptions) -> Recording:
    """Read a netCDF file; see :func:`deepzero_sim.datasets.foreign.read_recording`."""
    require_whole(path)
    store = Store(path, "netcdf4")
    with store.explain():
        groups = _groups(path) if h5py.is_hdf5(path) else []
        content = NamedReader(store, options).read()
    if groups:
        content.notes.append(f"Its groups {shorten(groups)} were left out.")
    return assemble(content, options)


def _groups(path: Path) -> list[str]:
    """List the groups of a file, and refuse values that lie in other files.

    Raises:
        ValueError: There are such values.
    """
    with h5py.File(path, "r") as file:
        things = {name: hdf5_objects.find(file, name) for name in file}
        for name, thing in things.items():
            outside = isinstance(thing, h5py.Dataset) and (thing.is_virtual or thing.external)
            hdf5_objects.require(not outside, f"{name} has its values in other files, which are not read")
        return [name for name, thing in things.items() if isinstance(thing, h5py.Group)]


class NamedReader:
    """Reader of one store whose dimensions have names.

    Args:
        store: The store.
        options: Options of the user.
    """

    def __init__(self, store: Store, options: ReadingOptions) -> None:
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
            self.notes.append(f"{left_out(left, 'is no field on the grid', 'are no fields on the grid')}.")
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
            f"{self._list_variables()}.",
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
        titles = tuple(str(array.attrs[key]) for key in ("standard_name", "long_name") if key in array.attrs)
        unit = str(array.attrs.get("units", ""))
        return Variable(name, StoredVariable(self.store, name), roles, components, unit, titles=titles)

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
            f"{self.name} has no field along a dimension of time: it holds {self._list_variables()}: name its dimensions in "
            "order by axes, such as [simulation, time, y, x].",
        )

    def _list_variables(self) -> str:
        return shorten([f"{name} ({', '.join(map(str, v.dims))})" for name, v in self.dataset.data_vars.items()]) or "nothing"

    def _coordinate(self, role: str) -> tuple[NDArray[Any], str] | None:
        """Read the positions along an axis and their unit, if it has a coordinate of numbers."""
        dimension = next(dim for dim, own in self.roles.items() if own == role)
        if dimension not in self.dataset.variables:
            return None
        coordinate = self.dataset[dimension]
        numbers = coordinate.ndim == 1 and coordinate.dtype.kind in "fiu"
        require_data(
            numbers or role != TIME,
            f"the times of {self.name} ({dimension}) must be a list of numbers, not {coordinate.dtype} of shape "
            f"{coordinate.shape}: write them as numbers.",
        )
        if not numbers:
            self._say(f"{dimension} holds no numbers, so that positions along {role} are not known.")
            return None
        return np.asarray(coordinate.values), str(coordinate.attrs.get("units", ""))

    def _say(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

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
