"""Folders of Solver-in-the-Loop, as PhiFlow 1.x writes scenes.

sim_000000/velo_000000.npz   components in the order x, y, z, over axes (z, y, x); staggered ones lie on the lower faces of
                             cells and have one point more along every axis, partly padding
sim_000000/dens_000000.npz   values in cells, one component
sim_000000/params.json, description.json   settings, as far as there are any; a pickled params.pickle is never opened
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.types import is_number
from deepzero_sim.datasets.foreign.content import Content, assemble, shorten
from deepzero_sim.datasets.foreign.damage import explain
from deepzero_sim.datasets.foreign.options import CHANNEL, SIMULATION, TIME, ReadingOptions
from deepzero_sim.datasets.foreign.variables import Variable, is_numeric
from deepzero_sim.datasets.hdf5 import not_a_file, show
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.errors import DataError

_SIMULATION = re.compile(r"sim_(\d+)")
_FRAME = re.compile(r"([A-Za-z]\w*?)_(\d{4,})\.npz")

#: Full names of the fields whose files have short ones.
_FIELDS = {"velo": "velocity", "dens": "density", "forc": "force", "pres": "pressure"}

_COMPONENTS = ("x", "y", "z")


def recognise(path: Path) -> bool:
    """Tell folders of scenes, or the folder of one: files such as run_1000.npz alone are simulations, not frames."""
    simulations = _simulations(path)
    frames = _frames(simulations[0]) if simulations else {}
    named = simulations != [path] or _SIMULATION.fullmatch(path.absolute().name) is not None
    return bool(frames) and (named or bool(set(frames) & set(_FIELDS)))


def _simulations(path: Path) -> list[Path]:
    inside = [p for p in path.iterdir() if _SIMULATION.fullmatch(p.name) and p.is_dir()]
    return sorted(inside, key=lambda p: int(p.name[4:])) or ([path] if _frames(path) else [])


def _frames(simulation: Path) -> dict[str, dict[int, Path]]:
    """Find the files of a simulation, by field and number of the frame."""
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(simulation.iterdir()):
        match = _FRAME.fullmatch(path.name)
        if match:
            found.setdefault(match[1], {})[int(match[2])] = path
    return found


def read(path: Path, options: ReadingOptions) -> Recording:
    """Read a folder of simulations; see :func:`deepzero_sim.datasets.foreign.read_recording`."""
    simulations = _simulations(path)
    require_data(
        bool(simulations), f"{show(path)} holds no folders sim_000000, .. with files such as velo_000000.npz: check the path."
    )
    files = [_frames(simulation) for simulation in simulations]
    names, numbers = _compare(path, simulations, files)
    settings = [_settings(simulation) for simulation in simulations]
    sources = {name: _SceneSource([[found[name][n] for n in numbers] for found in files]) for name in names}
    cells = _cells(sources, settings[0], show(path))
    fields = [_Field(_FIELDS.get(name, name), source, cells) for name, source in sources.items()]
    grid = tuple(max(field.source.grid[axis] for field in fields) for axis in range(len(cells)))
    axes = tuple(reversed(_COMPONENTS[: len(cells)]))
    content = Content(
        name=show(path),
        variables=[field.variable(axes, grid) for field in fields],
        axes=axes,
        masks={channel: mask for field in fields for channel, mask in field.masks(grid).items()},
        parameters=_parameters(settings),
        attributes={"frame_numbers": numbers},
    )
    dt = options.dt if options.dt is not None else _step(settings, show(path))
    content.notes += _gaps(path, simulations)
    if any((simulation / "params.pickle").exists() for simulation in simulations):
        content.notes.append("params.pickle was not opened, as a pickle may run code: write what it holds to params.json.")
    if is_number(dt):
        content.times = np.asarray(numbers) * float(dt)
    else:
        content.notes.append("The folder states no time step: name dt, the time from one frame's number to the next.")
    content.coordinates = _coordinates(settings, cells, axes, grid)
    own = ReadingOptions(channels=options.channels, parameters=options.parameters)
    return assemble(content, own)


def _compare(path: Path, simulations: list[Path], files: list[dict[str, dict[int, Path]]]) -> tuple[list[str], list[int]]:
    """Find the fields and the numbers of frames, the same in all simulations."""
    names = sorted(files[0], key=lambda name: (list(_FIELDS).index(name) if name in _FIELDS else len(_FIELDS), name))
    numbers = sorted(files[0][names[0]])
    for simulation, found in zip(simulations, files, strict=True):
        require_data(
            set(found) == set(names),
            f"{show(simulation)} holds {shorten(sorted(found)) or 'nothing'}, but {show(simulations[0])} {shorten(names)}: "
            "all simulations must have the same fields.",
        )
        for name in names:
            absent = sorted(set(numbers) ^ set(found[name]))
            require_data(
                not absent,
                f"{show(simulation)} has {len(found[name])} frames of {name}, expected those of {show(simulations[0])}; the "
                f"first that only one of them has is {absent[0] if absent else 0}.",
            )
    require_data(bool(numbers), f"{show(path)} holds no frames: check the path.")
    steps = set(np.diff(numbers).tolist())
    require_data(len(steps) <= 1, f"{show(path)} has frames {shorten([str(n) for n in numbers])}: some between are missing.")
    return names, numbers


def _settings(simulation: Path) -> dict[str, Any]:
    """Read the settings of a simulation, as far as they are JSON."""
    settings: dict[str, Any] = {}
    for name in ("description.json", "params.json"):
        file = simulation / name
        if not file.is_file():
            continue
        try:
            parsed = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{show(file)} cannot be read as JSON ({error}): correct it, or take it away.") from error
        require_data(isinstance(parsed, dict), f"{show(file)} must hold an object, not {type(parsed).__name__}: correct it.")
        settings |= parsed
    return settings


def _parameters(settings: list[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """Collect the numbers that all simulations state."""
    keys = [key for key, value in settings[0].items() if is_number(value) and key != "dt"]
    shared = [key for key in keys if all(is_number(other.get(key)) for other in settings)]
    return {key: np.asarray([other[key] for other in settings], dtype=np.float64) for key in shared}


def _gaps(path: Path, simulations: list[Path]) -> list[str]:
    """Refuse simulations of one number, and say if some between are not there."""
    numbers = [int(simulation.name[4:]) for simulation in simulations if simulation != path]
    double = sorted({number for number in numbers if numbers.count(number) > 1})
    require_data(not double, f"{show(path)} has two folders of simulation {double[:1]}: take away the one that is not meant.")
    absent = next((place for place, number in enumerate(numbers) if number != place), None)
    return (
        [] if absent is None else [f"{show(path)} has no simulation {absent}: those that it has are numbered from 0 in order."]
    )


def _step(settings: list[dict[str, Any]], name: str) -> Any:
    """Return the time step that the settings state; None if they state none."""
    steps = [other.get("dt") for other in settings]
    require_data(
        all(step == steps[0] for step in steps),
        f"{name} has simulations of different time steps, dt {shorten(list(map(str, steps)))}: keep such simulations apart.",
    )
    return steps[0]


def _coordinates(
    settings: list[dict[str, Any]], cells: tuple[int, ...], axes: tuple[str, ...], grid: tuple[int, ...]
) -> dict[str, NDArray[Any]]:
    """Compute positions of cells' lower faces, if the settings state the resolution and the length of the reference axis."""
    resolution, length = settings[0].get("res"), settings[0].get("len")
    same = all((other.get("res"), other.get("len")) == (resolution, length) for other in settings)
    if not same or not is_number(resolution) or not is_number(length) or cells[-1] != resolution:
        return {}
    return {axis: np.arange(points) * (length / resolution) for axis, points in zip(axes, grid, strict=True)}


def _cells(sources: dict[str, _SceneSource], settings: dict[str, Any], name: str) -> tuple[int, ...]:
    """Find the number of cells along each axis: that of a field in cells, else one less than of a staggered one."""
    scalars = {source.grid for source in sources.values() if source.count == 1}
    vectors = {source.grid for source in sources.values() if source.count > 1}
    require_data(
        len(scalars) <= 1 and len(vectors) <= 1,
        f"{name} has fields on several grids, {shorten(list(map(str, scalars | vectors)))}.",
    )
    vector = next(iter(vectors), None)
    less = None if vector is None else tuple(points - 1 for points in vector)
    if scalars:
        cells = scalars.pop()
        require_data(
            vector in {None, cells} or less == cells,
            f"{name} has vectors on {vector} and scalars on {cells}: staggered vectors have one point more along each axis.",
        )
        return cells
    assert vector is not None and less is not None
    return vector if settings.get("res") == vector[-1] else less


class _Field:
    """Field of a folder, on the grid that all fields share.

    Args:
        name: Full name.
        source: Its values.
        cells: Number of cells along each axis.
    """

    def __init__(self, name: str, source: _SceneSource, cells: tuple[int, ...]) -> None:
        self.name, self.source, self._cells = name, source, cells
        self.is_staggered = source.count > 1 and source.grid != cells
        suffixes = [f"_{component}" for component in _COMPONENTS[: source.count]] if source.count > 1 else [""]
        self.channels = tuple(name + suffix for suffix in suffixes)

    def variable(self, axes: tuple[str, ...], grid: tuple[int, ...]) -> Variable:
        """Describe it on the grid that all fields share."""
        self.source.pad_to(grid)
        offsets = tuple(
            tuple(0.0 if self._normal(place) == axis else 0.5 for axis in range(len(axes)))
            for place in range(self.source.count)
        )
        return Variable(self.name, self.source, (SIMULATION, TIME, *axes, CHANNEL), self.channels, offsets=offsets)

    def masks(self, grid: tuple[int, ...]) -> dict[str, NDArray[np.bool_]]:
        """Return where each channel holds values: all cells, and one face more along the normal."""
        masks = {}
        for place, channel in enumerate(self.channels):
            mask = np.zeros(grid, dtype=bool)
            mask[tuple(slice(n + (self._normal(place) == axis)) for axis, n in enumerate(self._cells))] = True
            masks[channel] = mask
        return masks

    def _normal(self, component: int) -> int | None:
        """Return the axis whose faces a component lies on; components are x, y, z and axes z, y, x."""
        return len(self._cells) - 1 - component if self.is_staggered else None


class _SceneSource:
    """Files of one field, `(S, T, *N, C)`, one for each frame.

    Args:
        paths: Paths by simulation and frame.
    """

    def __init__(self, paths: list[list[Path]]) -> None:
        self._paths = paths
        first = load_scene_array(paths[0][0])
        require_data(
            first.ndim in {2, 3, 4} and first.shape[-1] in {1, first.ndim - 1},
            f"{show(paths[0][0])} must hold an array (.., y, x, components), of one component or one an axis, not of shape "
            f"{first.shape}.",
        )
        self.grid, self.count, self.dtype = first.shape[:-1], int(first.shape[-1]), first.dtype
        self.pad_to(self.grid)

    def pad_to(self, grid: tuple[int, ...]) -> None:
        """Give the arrays as many points as the fields of the folder need together; zero where there are none."""
        self._padding = [(0, n - own) for n, own in zip(grid, self.grid, strict=True)]
        self.shape = (len(self._paths), len(self._paths[0]), *grid, self.count)

    def read(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        """Read frames of one simulation; see :class:`deepzero_sim.datasets.foreign.variables.Source`."""
        simulation, times = index[:2]
        assert isinstance(simulation, int) and isinstance(times, slice)
        return np.stack([self._load(path) for path in self._paths[simulation][times]])

    def _load(self, path: Path) -> NDArray[Any]:
        values = load_scene_array(path)
        expected = (*self.grid, self.count)
        require_data(
            values.shape == expected and values.dtype == self.dtype,
            f"{show(path)} holds {values.dtype} of shape {values.shape}, the first file {self.dtype} of {expected}: all frames "
            "must be alike.",
        )
        return np.pad(values, [*self._padding, (0, 0)])


def load_scene_array(path: Path) -> NDArray[Any]:
    """Read the array of a scene's file without its batch axis of length 1: the last one in the file, as PhiFlow does.

    Raises:
        DataError: The file cannot be read, or is no such file.
    """
    instead = not_a_file(path)
    require_data(instead is None, f"{show(path)} cannot be read as a frame of a simulation, because {instead}: make it again.")
    sentence = explain(show(path), "a frame of a simulation", "make it again")
    with sentence, path.open("rb") as file, np.load(file, allow_pickle=False) as members:
        require_data(
            "field_type" not in members.files,
            f"{show(path)} was written by PhiFlow 2 or later: load it there, and save its arrays as .npy or .npz.",
        )
        require_data(bool(members.files), f"{show(path)} holds no array: make it again.")
        values: NDArray[Any] = members[members.files[-1]]
    require_data(is_numeric(values.dtype), f"{show(path)} holds {values.dtype}, expected real numbers: make it again.")
    return values[0] if values.ndim > 2 and values.shape[0] == 1 else values
