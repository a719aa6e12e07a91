"""PDEBench's HDF5 dialects, told by what a file holds. Coordinates in the file are trusted.

fields (N, T, X, ..)         `tensor`, or `density`, `pressure`, `Vx`, ..; `x-coordinate`, .., and `t-coordinate`, which may
                             have one entry more than there are frames; `nu` (N, X, Y) of Darcy flow is constant in time
/0000, /0001, ..             one simulation each: `data` (T, X, .., C), `grid/x`, `grid/y`, `grid/t`, settings in `config`
`velocity` (B, T, X, Y, 2)   incompressible flow, with `particles` (B, T, X, Y, 1), `force` (B, X, Y, 2), `t` (B, T)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.hdf5_objects import require
from deepzero_sim.datasets.foreign.content import Content, assemble
from deepzero_sim.datasets.foreign.options import CHANNEL, SIMULATION, TIME, ReadingOptions
from deepzero_sim.datasets.foreign.variables import Hdf5Source, JoinedFrames, Variable
from deepzero_sim.datasets.hdf5 import StoredFile, open_to_read, show
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.solver.spec_values import default_names

WHAT, REMEDY = "data in a layout of PDEBench", "download it again, or name its format"

_AXES = ("x", "y", "z")

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: What the benchmark calls the quantity in `tensor`, and those of `data` by their number.
_TENSOR = "u"
_DATA = {1: ("u",), 2: ("u", "v")}

#: Attributes of files whose equations the benchmark solves on periodic domains, in one dimension.
_PERIODIC = {"beta", "Nu"}


def recognise(file: h5py.File) -> bool:
    """Tell PDEBench's files from others."""
    return _is_flow(file) or _is_grouped(file) or any(f"{axis}-coordinate" in file for axis in _AXES)


def _is_flow(file: h5py.File) -> bool:
    return {"velocity", "t"} <= set(file) and {"particles", "force"} & set(file) != set()


def _is_grouped(file: h5py.File) -> bool:
    names = list(file)
    return bool(names) and all(name.isdecimal() for name in names) and "data" in file[names[0]] and "grid" in file[names[0]]


def read(path: Path, options: ReadingOptions) -> Recording:
    """Read a file of PDEBench; see :func:`deepzero_sim.datasets.foreign.read_recording`."""
    with open_to_read(path, WHAT, REMEDY) as file:
        stored = StoredFile(path, WHAT)
        if _is_grouped(file):
            contents = _groups(file, stored)
        else:
            contents = [_flow(file, stored) if _is_flow(file) else _fields(file, stored)]
    recordings = [assemble(content, options) for content in contents]
    if len(recordings) == 1:
        return recordings[0]
    first = recordings[0]
    return replace(
        first,
        frames=JoinedFrames([recording.frames for recording in recordings]),
        params=np.concatenate([recording.params for recording in recordings]),
    )


def _fields(file: h5py.File, stored: StoredFile) -> Content:
    """Read fields `(N, T, X, ..)` that have coordinates."""
    axes = tuple(axis for axis in _AXES if f"{axis}-coordinate" in file)
    require(bool(axes), "it has neither x-coordinate nor numbered groups nor velocity with t")
    coordinates = {axis: hdf5_objects.array(file, f"{axis}-coordinate") for axis in axes}
    grid = tuple(values.size for values in coordinates.values())
    variables: list[Variable] = []
    frames: set[int] = set()
    for name in file:
        if name.endswith("-coordinate") or not isinstance(file[name], h5py.Dataset):
            continue
        source = Hdf5Source(stored, file, name)
        require(
            len(source.shape) > len(grid) and source.shape[-len(grid) :] == grid,
            f"{name} has shape {source.shape}, but {', '.join(f'{a}-coordinate' for a in axes)} say that it ends in {grid}",
        )
        changes = len(source.shape) == len(grid) + 2
        roles = (SIMULATION, TIME, *axes) if changes else (SIMULATION, *axes)
        require(
            len(source.shape) == len(roles), f"{name} of shape {source.shape} has more axes than N, T and {', '.join(axes)}"
        )
        variables.append(Variable(_TENSOR if name == "tensor" else name, source, roles))
        frames |= {source.shape[1]} if changes else set()
    require(len(frames) == 1, f"its fields have {' and '.join(map(str, sorted(frames))) or 'no'} frames")
    parameters = _numbers(dict(file.attrs))
    periodic = len(axes) == 1 and bool(_PERIODIC & set(parameters))
    return Content(
        name=show(stored.path),
        variables=variables,
        axes=axes,
        times=_times(file, "t-coordinate", frames.pop()) if "t-coordinate" in file else None,
        coordinates=coordinates,
        periodic=dict.fromkeys(axes, True) if periodic else {},
        parameters=parameters,
    )


def _times(container: h5py.Group, name: str, frames: int) -> NDArray[Any]:
    """Read times: one a frame, or one more, which is the end of a last interval that no frame was saved at."""
    times = hdf5_objects.array(container, name)
    require(
        times.ndim == 1 and len(times) in {frames, frames + 1},
        f"{name} of shape {times.shape} fits no {frames} frames, which need {frames} or {frames + 1} times",
    )
    return times[:frames]


def _numbers(attributes: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Keep those attributes that are numbers, as parameters."""
    found = {str(key): hdf5_objects.number(value) for key, value in attributes.items()}
    return {key: np.asarray(value) for key, value in found.items() if value is not None}


def _groups(file: h5py.File, stored: StoredFile) -> list[Content]:
    """Read numbered groups, one simulation each, all on one grid."""
    contents = {name: _group(file[name], stored, name) for name in sorted(file, key=int)}
    base, first = next(iter(contents.items()))
    for name, content in contents.items():
        for axis in (*first.axes, TIME):
            one, two = ((c.times if axis == TIME else c.coordinates[axis]) for c in (first, content))
            require(
                content.axes == first.axes and one is not None and two is not None and np.array_equal(one, two),
                f"group {name} has other values of {axis} than group {base}",
            )
        require(
            content.variables[0].source.shape == first.variables[0].source.shape
            and list(content.parameters) == list(first.parameters),
            f"group {name} has other shapes or settings than group {base}",
        )
    absent = next((place for place, name in enumerate(contents) if int(name) != place), None)
    if absent is not None:
        first.notes.append(
            f"{first.name} has {len(contents)} groups up to {list(contents)[-1]}, but none of number {absent}: its simulations "
            "are numbered from 0 in the order of the groups."
        )
    return list(contents.values())


def _group(group: h5py.Group, stored: StoredFile, name: str) -> Content:
    axes = tuple(axis for axis in _AXES if axis in group["grid"])
    coordinates = {axis: hdf5_objects.array(group, f"grid/{axis}") for axis in axes}
    source = Hdf5Source(stored, group, "data")
    grid = tuple(values.size for values in coordinates.values())
    require(
        len(source.shape) == len(grid) + 2 and source.shape[1:-1] == grid,
        f"data of group {name} has shape {source.shape}, but its grid says (T, {', '.join(map(str, grid))}, C)",
    )
    settings = _settings(group)
    count = source.shape[-1]
    channels = ("h",) if "dam_radius" in settings else _DATA.get(count, default_names("channel", count))
    return Content(
        name=show(stored.path),
        variables=[Variable("data", source, (TIME, *axes, CHANNEL), channels)],
        axes=axes,
        simulations=1,
        times=_times(group, "grid/t", source.shape[0]),
        coordinates=coordinates,
        parameters=settings,
    )


def _settings(group: h5py.Group) -> dict[str, NDArray[Any]]:
    """Read the numbers among the settings of a simulation, from the YAML text that the benchmark keeps with it."""
    text = hdf5_objects.text(group.attrs.get("config"))
    try:
        settings = yaml.load(text, _LOADER) if text else None  # noqa: S506 - the safe one, in C where there is one
    except yaml.YAMLError as error:
        raise ValueError(f"the settings of group {group.name} are no YAML") from error
    settings = settings.get("sim") if isinstance(settings, dict) else None
    return _numbers({k: v for k, v in settings.items() if not isinstance(v, bool)}) if isinstance(settings, dict) else {}


def _flow(file: h5py.File, stored: StoredFile) -> Content:
    """Read incompressible flow: velocity, particles, and the force, which does not change in time."""
    velocity = Hdf5Source(stored, file, "velocity")
    axes = _AXES[: len(velocity.shape) - 3]
    require(
        len(velocity.shape) in {5, 6} and velocity.shape[-1] == len(axes),
        f"velocity must be (B, T, X, Y, 2) or (B, T, X, Y, Z, 3), not of shape {velocity.shape}",
    )
    vector = tuple(f"_{axis}" for axis in axes)
    variables = [Variable("velocity", velocity, (SIMULATION, TIME, *axes, CHANNEL), tuple(f"velocity{v}" for v in vector))]
    if "particles" in file:
        source = Hdf5Source(stored, file, "particles")
        variables.append(Variable("particles", source, (SIMULATION, TIME, *axes, CHANNEL), ("particles",)))
    if "force" in file:
        source = Hdf5Source(stored, file, "force")
        variables.append(Variable("force", source, (SIMULATION, *axes, CHANNEL), tuple(f"force{v}" for v in vector)))
    for variable in variables:
        fits = len(variable.source.shape) == len(variable.roles) and variable.source.shape[-1] == len(variable.channels)
        require(fits, f"{variable.name} has shape {variable.source.shape}, expected axes {', '.join(variable.roles)}")
    frames = velocity.shape[1]
    last = hdf5_objects.number(file.attrs.get("latestIndex"))
    require(last is None or last == frames - 1, f"it was written up to frame {last} of {frames} only")
    times = hdf5_objects.array(file, "t")
    require(times.shape in {(frames,), velocity.shape[:2]}, f"t of shape {times.shape} fits no {frames} frames")
    require(times.ndim == 1 or bool((times == times[0]).all()), "its simulations have frames at different times")
    return Content(
        name=show(stored.path),
        variables=variables,
        axes=axes,
        times=times if times.ndim == 1 else times[0],
        notes=["The layout has no positions of the points: name them where data are fitted to a solver."],
    )
