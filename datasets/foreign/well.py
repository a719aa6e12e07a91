"""The Well's HDF5 layout: scalars, vectors and tensors on a uniform grid, trajectories of one length.

See the page on its data format, https://polymathic-ai.org/the_well/data_format.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.hdf5_objects import require
from deepzero_sim.datasets.foreign.content import Content, assemble
from deepzero_sim.datasets.foreign.options import CHANNEL, SIMULATION, TIME, ReadingOptions
from deepzero_sim.datasets.foreign.variables import Hdf5Source, Variable
from deepzero_sim.datasets.hdf5 import StoredFile, open_to_read, show
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.times import rounding_of

WHAT, REMEDY = "data in The Well's layout", "check it with The Well's own checker, or make it again"

#: Groups of fields, by the order of their tensors.
GROUPS = ("t0_fields", "t1_fields", "t2_fields")

#: Attribute of a field that marks the mask of channels; ours, as the layout has none.
MASK_OF = "mask_of"


def recognise(file: h5py.File) -> bool:
    """Tell files in The Well's layout from others."""
    return "dimensions" in file and any(group in file for group in GROUPS)


def read(path: Path, options: ReadingOptions) -> Recording:
    """Read a file in The Well's layout; see :func:`deepzero_sim.datasets.foreign.read_recording`."""
    with open_to_read(path, WHAT, REMEDY) as file:
        content = _Reader(path, file).read()
    return assemble(content, options)


class _Reader:
    """Reader of one open file.

    Args:
        path: Path of the file.
        file: The file, open.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.file, self.stored, self.name = file, StoredFile(path, WHAT), show(path)
        self.dimensions = self._group("dimensions")
        self.axes = self._names(self.dimensions, "spatial_dims")
        self.notes: list[str] = []
        stated = hdf5_objects.number(file.attrs.get("n_spatial_dims"))
        require(
            bool(self.axes) and stated in {None, len(self.axes)},
            f"it says that it has {stated} axes in space, but names {', '.join(self.axes) or 'none'}",
        )

        simulations = hdf5_objects.number(file.attrs.get("n_trajectories"))
        require(
            simulations is not None and simulations >= 1 and simulations.is_integer(),
            f"its attribute n_trajectories must be a number of simulations, not {file.attrs.get('n_trajectories')!r}",
        )
        assert simulations is not None
        self.simulations = int(simulations)

    def read(self) -> Content:
        """Read all but the fields' values."""
        fields, masks = self._fields()
        content = Content(
            name=self.name,
            variables=fields,
            axes=self.axes,
            simulations=self.simulations,
            coordinates={axis: self._coordinates(axis) for axis in self.axes},
            axis_units={axis: self._unit(self.dimensions[axis]) for axis in self.axes},
            periodic=self._periodic(),
            attributes=self._attributes(),
            notes=self.notes,
        )
        content.times = self._times()
        content.time_unit = self._unit(self.dimensions["time"])
        self._add_scalars(content)
        if masks:
            content.masks = self._masks(fields, masks)
        return content

    def _group(self, name: str) -> h5py.Group:
        group = hdf5_objects.find(self.file, name)
        require(isinstance(group, h5py.Group), f"{name} is no group")
        return group

    def _names(self, group: h5py.Group, key: str) -> tuple[str, ...]:
        names = hdf5_objects.texts(group.attrs.get(key))
        require(names is not None, f"attribute {key} of {group.name} must be a list of names")
        assert names is not None
        return names

    def _flag(self, thing: Any, key: str) -> bool:
        """Read an attribute that is true or false; one that is missing is false, as The Well's own reader would need it."""
        value = thing.attrs.get(key)
        require(value is not None, f"{thing.name} has no attribute {key}")
        return bool(np.all(value))

    def _unit(self, thing: Any) -> str:
        return hdf5_objects.text(thing.attrs.get("units")) or ""

    def _coordinates(self, axis: str) -> NDArray[Any]:
        values = hdf5_objects.array(self.dimensions, axis)
        varies = [key for key in ("sample_varying", "time_varying") if key in self.dimensions[axis].attrs]
        moves = any(self._flag(self.dimensions[axis], key) for key in varies)
        require(not moves and values.ndim == 1, f"its grid varies between simulations or in time along {axis}")
        return values

    def _times(self) -> NDArray[Any]:
        """Read the times of the frames, which all simulations must share."""
        values = hdf5_objects.array(self.dimensions, "time")
        if values.ndim == 2:
            values, others = values[0], values[1:]
            off = np.abs(others - values).max(initial=0.0)
            require(bool(off <= rounding_of(values, 1e-4)), "its simulations have frames at different times")
        return values

    def _fields(self) -> tuple[list[Variable], list[Variable]]:
        """Find the fields, and among them the masks that our own files have."""
        fields: list[Variable] = []
        masks: list[Variable] = []
        for order, group in enumerate(GROUPS):
            if group not in self.file:
                continue
            for name in self._names(self._group(group), "field_names"):
                field = self._field(self._group(group), name, order)
                (masks if MASK_OF in self._group(group)[name].attrs else fields).append(field)
        return fields, masks

    def _field(self, group: h5py.Group, name: str, order: int) -> Variable:
        dataset = hdf5_objects.dataset(group, name, on_demand=True)
        varies = np.atleast_1d(dataset.attrs.get("dim_varying", [True] * len(self.axes)))
        require(len(varies) == len(self.axes), f"dim_varying of {name} must have {len(self.axes)} entries, not {len(varies)}")
        roles = [SIMULATION] * self._flag(dataset, "sample_varying") + [TIME] * self._flag(dataset, "time_varying")
        roles += [axis for axis, varying in zip(self.axes, varies, strict=True) if varying]
        grid = len(roles)
        require(
            dataset.ndim == grid + order,
            f"{name} has shape {dataset.shape}, but its attributes say ({', '.join(roles)}) and {order} axes of components",
        )
        sizes = {axis: self.dimensions[axis].shape[-1] for axis in self.axes} | {
            TIME: self.dimensions["time"].shape[-1],
            SIMULATION: self.simulations,
        }
        expected = tuple(sizes[role] for role in roles) + (len(self.axes),) * order
        require(dataset.shape == expected, f"{name} has shape {dataset.shape}, but the file's dimensions say {expected}")
        source = Hdf5Source(self.stored, group, name)
        components: tuple[str, ...] = ()
        if order:
            suffixes = ("".join(axes) for axes in itertools.product(self.axes, repeat=order))
            components = tuple(f"{name}_{suffix}" for suffix in suffixes)
            roles += [CHANNEL]
        offsets = hdf5_objects.numbers(dataset.attrs.get("offsets"))
        rows = () if offsets is None or not offsets.size else tuple(map(tuple, offsets.reshape(-1, len(self.axes)).tolist()))
        require(
            len(rows) in {0, max(1, len(components))}, f"offsets of {name} must be {len(self.axes)} numbers for a component"
        )
        return Variable(
            name=name,
            source=_Flat(source, order) if order == 2 else source,
            roles=tuple(roles),
            components=components,
            unit=self._unit(dataset),
            offsets=rows,
        )

    def _periodic(self) -> dict[str, bool | None]:
        """Read which axes wrap around; what lies inside of the domain is only noted."""
        periodic: dict[str, bool | None] = {}
        if "boundary_conditions" not in self.file:
            return periodic
        conditions = self._group("boundary_conditions")
        for name in conditions:
            condition = conditions[name]
            kind = (hdf5_objects.text(condition.attrs.get("bc_type")) or "").upper()
            axes = hdf5_objects.texts(condition.attrs.get("associated_dims")) or ()
            if len(axes) != 1:
                self.notes.append(f"The boundary condition {name} ({kind}, along {', '.join(axes)}) was left out.")
                continue
            found = kind == "PERIODIC"
            require(
                periodic.setdefault(axes[0], found) == found,
                f"its boundary conditions say both that {axes[0]} is periodic and that it is not",
            )
        return periodic

    def _attributes(self) -> dict[str, Any]:
        keys = ("dataset_name", "grid_type")
        found = {key: hdf5_objects.text(self.file.attrs.get(key)) for key in keys}
        return {key: value for key, value in found.items() if value}

    def _add_scalars(self, content: Content) -> None:
        """Read scalars that are constant in time as parameters; name the others."""
        units: dict[str, str] = {}
        if "scalars" in self.file:
            group = self._group("scalars")
            for name in self._names(group, "field_names"):
                scalar = hdf5_objects.dataset(group, name)
                if self._flag(scalar, "time_varying"):
                    content.notes.append(f"The scalar {name} changes in time and was left out.")
                    continue
                content.parameters[name] = hdf5_objects.array(group, name)
                units[name] = self._unit(scalar)
        for name in hdf5_objects.texts(self.file.attrs.get("simulation_parameters")) or ():
            value = hdf5_objects.number(self.file.attrs.get(name))
            if name not in content.parameters and value is not None:
                content.parameters[name] = np.asarray(value)
        content.parameter_units = units

    def _masks(self, fields: list[Variable], masks: list[Variable]) -> dict[str, NDArray[np.bool_]]:
        """Read the masks of channels."""
        channels = [channel for field in fields for channel in field.channels]
        group = self._group(GROUPS[0])
        found = {}
        for variable in masks:
            values = hdf5_objects.array(group, variable.name) != 0
            for channel in hdf5_objects.texts(group[variable.name].attrs.get(MASK_OF)) or ():
                require(channel in channels, f"{variable.name} masks {channel}, which is no field")
                found[channel] = values
        return found


class _Flat:
    """Tensors `(..., D, D)` whose components lie along one axis.

    Args:
        source: Source of the tensors.
        order: Number of axes of components.
    """

    def __init__(self, source: Hdf5Source, order: int) -> None:
        self._source, self._order = source, order
        self.shape = (*source.shape[:-order], int(np.prod(source.shape[-order:])))
        self.dtype = source.dtype

    def read(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        """Read a part; see :class:`deepzero_sim.datasets.foreign.variables.Source`."""
        values = self._source.read((*index[:-1], *[slice(None)] * self._order))
        return values.reshape(*values.shape[: -self._order], -1)
