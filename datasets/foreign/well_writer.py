"""Trajectories as a file in The Well's layout, which its own readers and checkers take.

Channels named after all of the axes, `velocity_x` and `velocity_y`, become one vector; all others are scalars. Fields are in
single precision, as the layout says. Units, offsets of staggered channels and masks are in attributes and fields that The Well
does not know, but allows.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from deepzero_sim.common.hdf5_objects import number
from deepzero_sim.common.requirements import require_data, require_known
from deepzero_sim.datasets.foreign.well import GROUPS, MASK_OF
from deepzero_sim.datasets.frames import blocks
from deepzero_sim.datasets.hdf5 import open_to_write, show
from deepzero_sim.datasets.trajectories import Trajectories, require_shape
from deepzero_sim.errors import DataError
from deepzero_sim.solver.spec import SolverSpec


def write_well(
    path: Path | str, trajectories: Trajectories, spec: SolverSpec, periodic: Mapping[str, bool] | None = None
) -> None:
    """Write a file in The Well's layout, whole or not at all.

    Args:
        path: Path of the HDF5 file.
        trajectories: Trajectories to write, block by block.
        spec: Spec of their solver, for names, units, axes and the time of a step.
        periodic: True for axes that wrap around, False for those between walls, by name; open where nothing is said.

    Raises:
        DataError: They are not of this solver, hold what is not finite, or there is no space for them.
        ConfigError: An axis is named that is not there.
    """
    path = Path(path)
    axes = spec.axis_names
    require_known(periodic or {}, axes, "periodic")
    require_shape(trajectories, spec, f"what is to be written as {show(path)}")
    _require_space(path, 4 * math.prod(trajectories.frames.shape))
    try:
        with open_to_write(path) as file:
            writer = _Writer(file, trajectories, spec, axes)
            writer.write_attributes()
            writer.write_dimensions()
            writer.write_boundaries(periodic or {})
            writer.write_scalars()
            writer.write_fields(path)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{show(path)} cannot be written ({error}): make space, or choose another path.") from error


def _require_space(path: Path, size: int) -> None:
    """Refuse to begin what does not fit on the disk."""
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), Path("/"))
    free = shutil.disk_usage(folder).free
    require_data(
        size < free,
        f"{show(path)} takes {size / 2**20:,.0f} MiB, but there are {free / 2**20:,.0f} MiB free: make space, or choose "
        "another path.",
    )


class _Field(NamedTuple):
    """Scalar or vector to write.

    Args:
        name: Name of the field.
        channels: Numbers of its channels: one, or one for each axis.
    """

    name: str
    channels: list[int]


def group_vectors(channels: Sequence[str], units: Sequence[str], axes: Sequence[str]) -> list[_Field]:
    """Put channels together that are the components of a vector: `v_x` and `v_y` over axes x and y, in one unit."""
    fields: list[_Field] = []
    taken: set[int] = set()
    for place, channel in enumerate(channels):
        stem, _, last = channel.rpartition("_")
        parts = [f"{stem}_{axis}" for axis in axes]
        is_vector = len(axes) > 1 and stem and last in axes and set(parts) <= set(channels)
        numbers = [list(channels).index(part) for part in parts] if is_vector else [place]
        if len({units[n] for n in numbers}) > 1 or stem in channels:
            numbers = [place]
        if place not in taken:
            fields.append(_Field(stem if len(numbers) > 1 else channel, numbers))
            taken |= set(numbers)
    return fields


class _Writer:
    """Writer of one open file."""

    def __init__(self, file: h5py.File, trajectories: Trajectories, spec: SolverSpec, axes: tuple[str, ...]) -> None:
        self.file, self.trajectories, self.spec, self.axes = file, trajectories, spec, axes
        self.channels = spec.channel_names
        self.units = spec.channel_units or ("",) * len(self.channels)

    def write_attributes(self) -> None:
        """Write the attributes of the root."""
        attributes = self.file.attrs
        attributes["dataset_name"], attributes["grid_type"] = self.spec.name, "cartesian"
        attributes["n_spatial_dims"] = len(self.axes)
        attributes["n_trajectories"] = self.trajectories.frames.shape[0]
        _write_names(self.file, "simulation_parameters", self.spec.parameters)
        for place, name in enumerate(self.spec.parameters):
            values = np.asarray(self.trajectories.params[:, place], dtype=np.float64)
            require_data(
                name not in attributes,
                f"a parameter cannot be called {name!r} in The Well's layout, which has an attribute of that name: rename it.",
            )
            attributes[name] = values[0] if (values == values[0]).all() else values

    def write_dimensions(self) -> None:
        """Write the coordinates of the first channel's cells, and the times of the frames."""
        group = self.file.create_group("dimensions")
        _write_names(group, "spatial_dims", self.axes)
        first = number(self.trajectories.attributes.get("first_step")) or 0.0
        counted = (first + np.arange(self.trajectories.frames.shape[1])) * self.spec.dt
        times = counted if self.trajectories.times is None else self.trajectories.times
        self._dataset(group, "time", times.astype(np.float32)).attrs["time_varying"] = True  # as the checker has it
        for place, axis in enumerate(self.axes):
            spacing = self.spec.spacing[place] if self.spec.spacing else 1.0
            points = np.arange(self.spec.state_shape[1 + place]) * spacing
            shared = self._common_offset(place)
            self._dataset(group, axis, (points + (shared or 0.0) * spacing).astype(np.float32))

    def _common_offset(self, axis: int) -> float | None:
        """Return the offset that all channels have along an axis; None if they differ."""
        offsets = {row[axis] for row in self.spec.offsets} or {0.0}
        return offsets.pop() if len(offsets) == 1 else None

    def write_boundaries(self, periodic: Mapping[str, bool]) -> None:
        """Write what is known of the ends of axes: True at both of them."""
        group = self.file.create_group("boundary_conditions")
        for axis, wraps in periodic.items():
            kind = "PERIODIC" if wraps else "WALL"
            boundary = group.create_group(f"{axis}_{kind.lower()}")
            _write_names(boundary, "associated_dims", [axis])
            _write_names(boundary, "associated_fields", [])
            boundary.attrs["bc_type"] = kind
            boundary.attrs["sample_varying"] = boundary.attrs["time_varying"] = False
            mask = np.zeros(self.spec.state_shape[1 + self.axes.index(axis)], dtype=bool)
            mask[[0, -1]] = True
            boundary["mask"] = mask

    def write_scalars(self) -> None:
        """Write the scenario parameters, one number a simulation."""
        group = self.file.create_group("scalars")
        _write_names(group, "field_names", self.spec.parameters)
        for place, name in enumerate(self.spec.parameters):
            scalar = self._dataset(group, name, self.trajectories.params[:, place].astype(np.float32), sample_varying=True)
            scalar.attrs["units"] = self.spec.parameter_units[place] if self.spec.parameter_units else ""

    def write_fields(self, path: Path) -> None:
        """Write all channels, block by block, and the masks of those that have padding."""
        fields = group_vectors(self.channels, self.units, self.axes)
        frames = self.trajectories.frames
        datasets = []
        for order, group_name in enumerate(GROUPS):
            group = self.file.create_group(group_name)
            own = [field for field in fields if (len(field.channels) > 1) == (order == 1)] if order < 2 else []
            masks = self._masks() if order == 0 else {}
            _write_names(group, "field_names", [*(field.name for field in own), *masks])
            for field in own:
                datasets.append((field, self._field(group, field)))
            for name, (mask, channels) in masks.items():
                dataset = self._dataset(group, name, mask.astype(np.float32))
                dataset.attrs["dim_varying"] = [True] * len(self.axes)
                _write_names(dataset, MASK_OF, channels)
        for block in blocks(frames):
            require_data(
                bool(np.isfinite(block.states).all()), f"what is to be written as {show(path)} holds NaN or infinity: drop it."
            )
            for field, dataset in datasets:
                states = block.states[:, :, field.channels].astype(np.float32)
                dataset[block.simulations, block.times] = (
                    np.moveaxis(states, 2, -1) if len(field.channels) > 1 else states[:, :, 0]
                )

    def _field(self, group: h5py.Group, field: _Field) -> h5py.Dataset:
        simulations, times, _, *grid = self.trajectories.frames.shape
        components = [len(field.channels)] if len(field.channels) > 1 else []
        dataset = group.create_dataset(
            field.name,
            (simulations, times, *grid, *components),
            np.float32,
            chunks=(1, 1, *grid, *components),
            fletcher32=True,
        )
        dataset.attrs["dim_varying"] = [True] * len(self.axes)
        dataset.attrs["sample_varying"] = dataset.attrs["time_varying"] = True
        dataset.attrs["units"] = self.units[field.channels[0]]
        offsets = [
            [0.0 if self._common_offset(axis) is not None else row[axis] for axis in range(len(self.axes))]
            for row in (self.spec.offsets[channel] for channel in field.channels if self.spec.offsets)
        ]
        if np.any(offsets):
            dataset.attrs["offsets"] = np.asarray(offsets)
        return dataset

    def _masks(self) -> dict[str, tuple[Any, list[str]]]:
        """Find the masks that are not True everywhere, and the channels of each."""
        found: dict[bytes, tuple[Any, list[str]]] = {}
        for channel, mask in zip(self.channels, self.trajectories.mask, strict=True):
            if not mask.all():
                found.setdefault(mask.tobytes(), (mask, []))[1].append(channel)
        return {f"mask_of_{channels[0]}": (mask, channels) for mask, channels in found.values()}

    def _dataset(self, group: h5py.Group, name: str, values: Any, sample_varying: bool = False) -> h5py.Dataset:
        dataset = group.create_dataset(name, data=values)
        dataset.attrs["sample_varying"], dataset.attrs["time_varying"] = sample_varying, False
        return dataset


def _write_names(thing: Any, key: str, names: Sequence[str]) -> None:
    """Write a list of names, also an empty one, as texts of any length."""
    thing.attrs.create(key, np.array(list(names), dtype=object), dtype=h5py.string_dtype(), shape=(len(names),))
