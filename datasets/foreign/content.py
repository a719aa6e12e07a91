"""Content of a file, and the recording that is made of it: channels chosen, lengths compared, times checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import did_you_mean, require_data, require_that
from deepzero_sim.datasets.foreign.options import CHANNEL, SIMULATION, TIME, ReadingOptions
from deepzero_sim.datasets.foreign.variables import ChosenChannels, MaskedFrames, Variable, VariableFrames, is_numeric
from deepzero_sim.datasets.frames import LazyFrames
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import turn_around
from deepzero_sim.errors import DataError

#: Names and shapes that a message lists before it counts the rest.
LISTED = 8


@dataclass(kw_only=True, eq=False)
class Content:
    """Content of a file, as a reader finds it.

    Args:
        name: Name of the file, for messages.
        variables: Fields, those that do not change in time among them.
        axes: Names of the axes in space, in the order of the array.
        simulations: Number of simulations; None if an array tells.
        times: Times of the frames, if there are any.
        time_unit: Unit of time.
        coordinates: Positions of points along axes, by axis.
        axis_units: Units of axes, by axis.
        periodic: True for axes that wrap around, False for those that do not, by axis.
        parameters: Values of scenario parameters, one a simulation or a single one for all.
        parameter_units: Units of parameters, by name.
        masks: True where frames hold values, `(*N)`, by the channel's name in the file; that of all others by an empty name.
        attributes: Other facts, by name.
        notes: Sentences that the user has to be told.
    """

    name: str
    variables: list[Variable]
    axes: tuple[str, ...]
    simulations: int | None = None
    times: NDArray[Any] | None = None
    time_unit: str = ""
    coordinates: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    axis_units: Mapping[str, str] = field(default_factory=dict)
    periodic: Mapping[str, bool | None] = field(default_factory=dict)
    parameters: dict[str, NDArray[Any]] = field(default_factory=dict)
    parameter_units: Mapping[str, str] = field(default_factory=dict)
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def assemble(content: Content, options: ReadingOptions) -> Recording:
    """Make a recording of what a file holds.

    Raises:
        DataError: Its parts contradict each other.
        ConfigError: The options name what is not there.
    """
    name, notes = content.name, list(content.notes)
    chosen = _choose(content.variables, options, name, notes)
    for variable in chosen.variables:
        kind = variable.source.dtype
        require_data(
            is_numeric(kind),
            f"{variable.name} of {name} holds {kind if kind.kind != 'O' else 'text or objects'}, expected real numbers: choose "
            "other fields by channels.",
        )
    lengths = _compare_lengths(chosen.variables, content)
    shape = (
        lengths.get(SIMULATION, content.simulations or 1),
        lengths[TIME],
        sum(len(variable.channels) for variable in chosen.variables),
        *(lengths[axis] for axis in content.axes),
    )
    require_data(0 not in shape, f"{name} holds fields of shape {shape}, which are empty: check how the file was made.")
    frames: LazyFrames = VariableFrames(chosen.variables, content.axes, shape)
    if chosen.places != list(range(shape[2])):
        frames = ChosenChannels(frames, chosen.places)
    mask = _mask(content, chosen.channels, shape[3:])
    if mask is not None:
        frames = MaskedFrames(frames, mask, name, only_missing=False)
    owners = [(variable, place) for variable in chosen.variables for place in range(len(variable.channels))]
    parameters = _choose_parameters(content.parameters, options, name, shape[0])
    return Recording(
        frames=frames,
        channels=chosen.names,
        name=name,
        times=_times(content.times, options, lengths, name),
        time_unit=content.time_unit,
        channel_units=tuple(owners[place][0].unit for place in chosen.places),
        channel_titles=tuple(() if one.components else one.titles for one in (owners[place][0] for place in chosen.places)),
        axes=content.axes,
        axis_units=tuple(content.axis_units.get(axis, "") for axis in content.axes),
        coordinates=tuple(_positions(content.coordinates.get(axis), axis, name) for axis in content.axes),
        offsets=_offsets([owners[place] for place in chosen.places], len(content.axes)),
        periodic=tuple(content.periodic.get(axis) for axis in content.axes),
        params=np.stack(list(parameters.values()), axis=1) if parameters else np.zeros((shape[0], 0)),
        parameters=tuple(parameters),
        parameter_units=tuple(_by_new_name(content.parameter_units, options).get(key, "") for key in parameters),
        mask=mask,
        attributes=content.attributes,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Chosen:
    """Fields to read, the places of the channels to take among all of theirs, their names in the file, and new names."""

    variables: list[Variable]
    places: list[int]
    channels: list[str]
    names: tuple[str, ...]


def _choose(variables: Sequence[Variable], options: ReadingOptions, name: str, notes: list[str]) -> _Chosen:
    """Choose the channels that the options name, or else all that change in time."""
    wanted = options.channel_names
    known = [*(variable.name for variable in variables), *(c for variable in variables for c in variable.channels)]
    renames = isinstance(options.channels, Mapping)
    turned = turn_around(wanted, known, None, "channels go from the file's names to the solver's") if renames else ""
    for channel in wanted:
        require_that(
            channel in known,
            f"{name} holds no channel {channel!r}{did_you_mean(channel, known)}: it has {shorten(known)}{turned}.",
        )
    if not wanted:
        taken = [variable for variable in variables if not variable.is_constant]
        left = [variable.name for variable in variables if variable.is_constant]
        require_data(bool(taken), f"{name} holds no field that changes in time, only {shorten(left)}: name some other file.")
        if left:
            them = "it" if len(left) == 1 else "them"
            why = left_out(left, "does not change in time", "do not change in time")
            notes.append(f"{why}: name {them} in channels to take {them}.")
        names = [channel for variable in taken for channel in variable.channels]
        _require_different(names, name)
        return _Chosen(taken, list(range(len(names))), names, tuple(names))
    taken = [v for v in variables if v.name in wanted or set(v.channels) & set(wanted)]
    require_data(
        any(not variable.is_constant for variable in taken),
        f"channels of {name} must name a field that changes in time, not only {shorten(list(wanted))}.",
    )
    present = [channel for variable in taken for channel in variable.channels]
    channels, names = [], []
    for asked, new in wanted.items():
        own = [asked] if asked in present else next(list(v.channels) for v in taken if v.name == asked)
        channels += own
        names += [new + channel.removeprefix(asked) for channel in own]
    _require_different(names, name)
    return _Chosen(taken, [present.index(channel) for channel in channels], channels, tuple(names))


def _require_different(names: Sequence[str], name: str) -> None:
    double = sorted({channel for channel in names if names.count(channel) > 1})
    require_data(
        not double, f"{name} holds several channels of the name {', '.join(double)}: choose some by channels, with new names."
    )


def _compare_lengths(variables: Sequence[Variable], content: Content) -> dict[str, int]:
    """Find the length of each role, the same in all fields."""
    lengths: dict[str, int] = {}
    owner: dict[str, str] = {}
    for variable in variables:
        for role, length in zip(variable.roles, variable.source.shape, strict=True):
            if role == CHANNEL:
                continue
            require_data(
                lengths.setdefault(role, length) == length,
                f"{content.name} has {lengths[role]} points along {role} in {owner.get(role)} and {length} in "
                f"{variable.name}: choose fields of one grid by channels.",
            )
            owner.setdefault(role, variable.name)
    for axis in content.axes:
        lengths.setdefault(axis, len(content.coordinates.get(axis, ())))
    require_data(
        content.simulations in {None, lengths.get(SIMULATION, content.simulations)},
        f"{content.name} says that it has {content.simulations} simulations, but its fields have "
        f"{lengths.get(SIMULATION)}: check how it was made.",
    )
    return lengths


def _mask(content: Content, channels: Sequence[str], grid: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Collect the masks of the channels; None if all points of all of them hold values."""
    everywhere = content.masks.get("", np.ones(grid, dtype=bool))
    masks = [content.masks.get(channel, everywhere) for channel in channels]
    for found in masks:
        require_data(
            found.shape == grid,
            f"{content.name} has a mask of shape {found.shape} for fields on {grid}: check how it was made.",
        )
    mask = np.stack(masks)
    require_data(bool(mask.any()), f"{content.name} has a mask that is False everywhere: it is True where fields have values.")
    return None if mask.all() else mask


def _times(
    times: NDArray[Any] | None, options: ReadingOptions, lengths: Mapping[str, int], name: str
) -> NDArray[np.float64] | None:
    """Check the times of a file, or count them from the time between frames that the user names."""
    dt, frames = options.dt, lengths[TIME]
    if times is None:
        return None if dt is None else np.arange(frames, dtype=np.float64) * float(dt)
    values = _numbers(times, f"the times of {name}")
    remedy = _correct_axes(options.axes, lengths, len(values)) if options.axes else "check how it was made"
    require_data(len(values) == frames, f"{name} holds {frames} frames, but {len(values)} times: {remedy}.")
    rising = bool(np.isfinite(values).all()) and bool((np.diff(values) > 0).all())
    if not rising:
        raise DataError(f"the times of {name} must be finite and rise from frame to frame, not {_some(values)}.")
    if dt is not None and not np.allclose(np.diff(values), dt, rtol=1e-3, atol=0.0):
        raise DataError(
            f"dt says that frames of {name} lie {dt} apart, but its times are {_some(values)}: leave dt out, or correct it."
        )
    return values


def _correct_axes(axes: Sequence[str], lengths: Mapping[str, int], times: int) -> str:
    """Say how axes that the user names have to change so that the time has as many points as the file has times."""
    alike = [role for role in axes if lengths.get(role) == times]
    if len(alike) != 1:
        return f"correct axes [{', '.join(axes)}], or check how it was made"
    swapped = [{TIME: alike[0], alike[0]: TIME}.get(role, role) for role in axes]
    return f"{alike[0]} is as long as they are: correct axes [{', '.join(axes)}], such as [{', '.join(swapped)}]"


def _positions(values: NDArray[Any] | None, axis: str, name: str) -> NDArray[np.float64] | None:
    if values is None:
        return None
    positions = _numbers(values, f"the positions along {axis} in {name}")
    steps = np.diff(positions)
    one_way = bool(np.isfinite(positions).all()) and bool((steps > 0).all() or (steps < 0).all())
    if not one_way:
        raise DataError(f"the positions along {axis} in {name} must be finite and rise or fall, not {_some(positions)}.")
    return positions


def _numbers(values: NDArray[Any], what: str) -> NDArray[np.float64]:
    require_data(
        values.ndim == 1 and values.dtype.kind in "fiu",
        f"{what} must be a list of numbers, not {values.dtype} of shape {values.shape}: check how the file was made.",
    )
    return values.astype(np.float64)


def _some(values: NDArray[np.float64]) -> str:
    return np.array2string(values, threshold=8, edgeitems=3, max_line_width=10**6)


def _offsets(owners: Sequence[tuple[Variable, int]], axes: int) -> tuple[tuple[float, ...], ...]:
    if not any(variable.offsets for variable, _ in owners):
        return ()
    return tuple(variable.offsets[place] if variable.offsets else (0.0,) * axes for variable, place in owners)


def _choose_parameters(
    values: Mapping[str, NDArray[Any]], options: ReadingOptions, name: str, simulations: int
) -> dict[str, NDArray[np.float64]]:
    """Choose scenario parameters, one value a simulation."""
    wanted = options.parameter_names
    wanted = {key: key for key in values} if wanted is None else wanted
    chosen = {}
    for key, new in wanted.items():
        require_that(
            key in values,
            f"{name} holds no parameter {key!r}{did_you_mean(key, values)}: it has {shorten(list(values)) or 'none'}.",
        )
        numbers = np.atleast_1d(values[key])
        require_data(
            numbers.dtype.kind in "fiub" and numbers.shape in {(1,), (simulations,)},
            f"parameter {key} of {name} must be a number for each of {simulations} simulations, not {numbers.dtype} of shape "
            f"{numbers.shape}.",
        )
        require_data(
            bool(np.isfinite(numbers).all()), f"parameter {key} of {name} has values that are not finite: check the file."
        )
        chosen[new] = np.broadcast_to(numbers.astype(np.float64), (simulations,))
    return chosen


def _by_new_name(units: Mapping[str, str], options: ReadingOptions) -> dict[str, str]:
    names = options.parameter_names or {}
    return {names.get(key, key): unit for key, unit in units.items()}


def shorten(names: Sequence[str]) -> str:
    """List names for a message, the first few of them and how many more there are."""
    listed = list(dict.fromkeys(names))
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return ", ".join(listed[:LISTED]) + more


def left_out(names: Sequence[str], why_one: str = "", why_several: str = "") -> str:
    """Begin a sentence on what was left out, and why, in words for one thing or for several: `a is text and was left out`."""
    why, were = (why_one, "was") if len(names) == 1 else (why_several, "were")
    return f"{shorten(names)} {f'{why} and ' if why else ''}{were} left out"
