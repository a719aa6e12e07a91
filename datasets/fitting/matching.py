"""Channels, axes and parameters of a recording, found by a solver's names, with their units compared."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import did_you_mean, require_data, require_known, require_that
from deepzero_sim.datasets.fitting.fitted_frames import UnitConversion
from deepzero_sim.datasets.fitting.name_examples import example_of_axes, example_of_channels, require_side
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import TIME, DataSource
from deepzero_sim.datasets.units import Conversion, conversion, same_unit, unit_to_show
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.spec_values import default_names


@dataclass(frozen=True, eq=False, kw_only=True)
class Match:
    """Channels, axes and parameters of a recording for a solver.

    Args:
        channels: Numbers of the recording's channels, in the solver's order; all of them where a function makes its channels.
        channel_units: Units of the solver's channels, as far as they are known.
        conversion: Conversion from the file's units to the solver's.
        axes: Numbers of the recording's axes, in the solver's order.
        axis_names: The solver's names of these axes.
        params: Parameters in the solver's order, `(S, K)`.
        parameter_units: Units of the parameters, as far as they are known.
        notes: Sentences on what is left out or assumed.
    """

    channels: tuple[int, ...]
    channel_units: tuple[str, ...]
    conversion: UnitConversion
    axes: tuple[int, ...]
    axis_names: tuple[str, ...]
    params: NDArray[np.float64]
    parameter_units: tuple[str, ...]
    notes: tuple[str, ...]


def match(recording: Recording, spec: SolverSpec, settings: DataSource, may_differ: Collection[str]) -> Match:
    """Find a solver's channels, axes and parameters in a recording.

    Raises:
        DataError: One is not there, or of another unit.
        ConfigError: Settings name what the solver does not have.
    """
    notes: list[str] = []
    channels, by_name = _match_channels(recording, spec, settings.function, may_differ, notes)
    axes, names = _match_axes(recording, spec, settings, may_differ)
    convert = _conversion(spec, settings)
    units = _channel_units(recording, spec, channels if by_name else (), convert, may_differ)
    params, parameter_units = _match_parameters(recording, spec, settings, may_differ, notes)
    return Match(
        channels=channels,
        channel_units=units,
        conversion=convert,
        axes=axes,
        axis_names=names,
        params=params,
        parameter_units=parameter_units,
        notes=tuple(notes),
    )


def _match_channels(
    recording: Recording, spec: SolverSpec, function: str | None, may_differ: Collection[str], notes: list[str]
) -> tuple[tuple[int, ...], bool]:
    """Find the channels; returns their numbers, and whether they are the solver's one by one."""
    theirs, ours, what = recording.channels, spec.channels, recording.name
    lacking = [name for name in ours if name not in theirs]
    everything = tuple(range(len(theirs)))
    if function is not None and (lacking or not ours):
        notes.append(f"{what}: {function} gets its channels ({', '.join(theirs)}).")
        return everything, False
    if not ours or ("channels" in may_differ and lacking):
        require_data(
            len(theirs) == spec.state_shape[0],
            f"{what} has {len(theirs)} channels ({', '.join(theirs)}), but solver {spec.name!r} takes {spec.state_shape[0]}"
            f"{_in_parentheses(ours)}: name those to take, in its order, by channels.",
        )
        if not ours and len(theirs) > 1:
            notes.append(f"{what}: solver {spec.name!r} does not name its channels, so they are taken in the file's order, "
                         f"{', '.join(theirs)}.")  # fmt: skip
        return everything, True
    require_data(
        not lacking,
        f"{what} has channels ({', '.join(theirs)}), but solver {spec.name!r} takes ({', '.join(ours)}): say which is which by "
        f"channels, from the file's names to the solver's{example_of_channels(recording, spec)}.",
    )
    left = [name for name in theirs if name not in ours]
    if left:
        notes.append(f"{what}: channels that solver {spec.name!r} does not have are left out: {', '.join(left)}.")
    return tuple(theirs.index(name) for name in ours), True


def _in_parentheses(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _conversion(spec: SolverSpec, settings: DataSource) -> UnitConversion:
    names = spec.channel_names
    require_known(settings.scale, names if TIME in names else (*names, TIME), f"scale for solver {spec.name!r}")
    require_known(settings.shift, names, f"shift for solver {spec.name!r}")
    return UnitConversion(
        np.array([settings.scale.get(name, 1.0) for name in names]), np.array([settings.shift.get(name, 0.0) for name in names])
    )


def _channel_units(
    recording: Recording,
    spec: SolverSpec,
    channels: tuple[int, ...],
    convert: UnitConversion,
    may_differ: Collection[str],
) -> tuple[str, ...]:
    """Compare units, and return those of the solver's channels as far as they are known; none if some are not."""
    ours = spec.channel_units or ("",) * spec.state_shape[0]
    if not channels:
        return spec.channel_units
    units = []
    for place, (name, own, channel) in enumerate(zip(spec.channel_names, ours, channels, strict=True)):
        unit = recording.channel_units[channel]
        given = Conversion(float(convert.factors[place]), float(convert.shifts[place]))
        changed = given != (1.0, 0.0)
        if "channel_units" not in may_differ:
            quantities = Quantity(recording.channels[channel], unit), Quantity(name, own)
            _require_conversion(*quantities, given if changed else None, recording.name, spec.name)
        units.append(own if own or changed else unit)
    return tuple(units) if all(units) else ()


class Quantity(NamedTuple):
    """Quantity of a file or a solver, in a unit that may be empty."""

    name: str
    unit: str

    @property
    def words(self) -> str:
        return f"{self.name} in {unit_to_show(self.unit)}" if unit_to_show(self.unit) else f"{self.name} without a unit"


def _require_conversion(theirs: Quantity, ours: Quantity, given: Conversion | None, what: str, solver: str) -> None:
    """Refuse another unit that nobody converts, and a conversion that is not the one between the units."""
    known = conversion(theirs.unit, ours.unit) if theirs.unit and ours.unit else None
    has = f"{what} has {theirs.words}, but solver {solver!r} takes {ours.words}"
    otherwise = "set data_may_differ to [channel_units] if this is meant"
    if given is None:
        convert = f"scale, as in {{{ours.name}: 0.01}}" if known is None else _settings_of(ours.name, known)
        require_data(same_unit(*(one.unit for one in (theirs, ours))), f"{has}: convert it by {convert}, or {otherwise}.")
    elif known is not None:
        require_data(
            bool(np.allclose(given, known, rtol=1e-3, atol=1e-3 * abs(known.shift))),
            f"{has}, which is converted by {_settings_of(ours.name, known) or 'nothing'}, not by a factor of {given.factor:g} "
            f"and a shift of {given.shift:g}: correct that, or {otherwise}.",
        )


def _settings_of(name: str, known: Conversion) -> str:
    """Write the settings of a conversion."""
    parts = [("scale", known.factor)] * (known.factor != 1) + [("shift", known.shift)] * (known.shift != 0)
    return " and ".join(f"{key}, as in {{{name}: {number:.12g}}}," for key, number in parts).rstrip(",")


def _match_axes(
    recording: Recording, spec: SolverSpec, settings: DataSource, may_differ: Collection[str]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Find the axes: by name where both name them, else in the file's order."""
    renamed = settings.axes if isinstance(settings.axes, dict) else {}
    way = "axes go from the file's names to the solver's"
    require_side(renamed, recording.axes, spec.axes, f"axes of {recording.name}", way)
    theirs = tuple(renamed.get(name, name) for name in recording.axes)
    count, what = len(spec.state_shape) - 1, recording.name
    in_order = tuple(range(len(theirs)))
    if settings.function is not None and len(theirs) != count:
        return in_order, theirs
    require_data(
        len(theirs) == count,
        f"{what} has {len(theirs)} axes in space ({', '.join(theirs)}), but states of solver {spec.name!r} have {count}"
        f"{_in_parentheses(spec.axes)}: use data of as many, or a function of yours as restrict.",
    )
    unnamed = recording.axes == default_names("axis", count) and not renamed
    if not spec.axes or unnamed or ("axes" in may_differ and set(theirs) != set(spec.axes)):
        return in_order, spec.axes or theirs
    double = [name for name in spec.axes if theirs.count(name) > 1]
    require_data(not double, f"axes of {what} are to be ({', '.join(theirs)}), {double[:1]} twice: give each another name.")
    require_data(
        set(theirs) == set(spec.axes),
        f"{what} has axes ({', '.join(theirs)}), but solver {spec.name!r} has ({', '.join(spec.axes)}): say which is which by "
        f"axes, from the file's names to the solver's{example_of_axes(theirs, spec.axes)}.",
    )
    return tuple(theirs.index(name) for name in spec.axes), spec.axes


def _match_parameters(
    recording: Recording, spec: SolverSpec, settings: DataSource, may_differ: Collection[str], notes: list[str]
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Find the parameters, `(S, K)`, and their units as far as they are known; none if some are not."""
    given = settings.parameters
    require_that(
        bool(spec.parameters) or not given,
        f"solver {spec.name!r} takes no parameters: leave out parameters ({', '.join(given)}).",
    )
    way = "parameters go from the solver's names to values, or to the file's names"
    require_side(given, spec.parameters, recording.parameters, f"parameters of solver {spec.name!r}", way)
    columns, units, used = [], [], set()
    for place, name in enumerate(spec.parameters):
        own = spec.parameter_units[place] if spec.parameter_units else ""
        value = given.get(name, name)
        if not isinstance(value, str):
            columns.append(_values(name, value, recording))
            units.append(own)
            continue
        number = _find_parameter(recording, spec, name, value)
        unit = recording.parameter_units[number]
        require_data(
            same_unit(unit, own) or "parameter_units" in may_differ,
            f"{recording.name} has parameter {Quantity(value, unit).words}, but solver {spec.name!r} takes "
            f"{Quantity(name, own).words}: give its values{_in_unit(unit, own)} by parameters, or set data_may_differ to "
            "[parameter_units] if this is meant.",
        )
        used.add(value)
        columns.append(recording.params[:, number])
        units.append(own or unit)
    left = [name for name in recording.parameters if name not in used and name not in given]
    if left:
        notes.append(_left_out(recording, spec, left))
    params = np.stack(columns, axis=1) if columns else np.zeros((recording.frames.shape[0], 0))
    return params, tuple(units) if all(units) else ()


def _find_parameter(recording: Recording, spec: SolverSpec, name: str, value: str) -> int:
    names, what = recording.parameters, recording.name
    others = f", only{_in_parentheses(names)}" if names else ""
    why = next((f" ({note.rstrip('.')})" for note in recording.notes if _names(note, value)), "")
    has = f"{what} has no parameter {value}{others}{did_you_mean(value, names)}"
    require_data(
        value in names or value == name,
        f"{has}, which parameters.{name} names{why}: a parameter of a file is one number, or one for each simulation: give its "
        f"values, as in {{{name}: 0.01}}, or another name.",
    )
    require_data(
        value in names,
        f"{has}, which solver {spec.name!r} takes{why}: "
        f"give it by parameters, as in {{{name}: 0.01}}, a number, a list with one a simulation, or the file's name for it.",
    )
    return names.index(value)


def _names(note: str, name: str) -> bool:
    """Tell a sentence that names a thing."""
    return bool(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", note))


def _in_unit(theirs: str, ours: str) -> str:
    """Say how values of a file become values in a solver's unit, as far as that is known."""
    known = conversion(theirs, ours)
    if known is None:
        return ""
    times = f", those of the file times {known.factor:.9g}" if known.factor != 1 else ", those of the file"
    return f"{times} plus {known.shift:.9g}," if known.shift else f"{times},"


def _values(name: str, value: Any, recording: Recording) -> NDArray[np.float64]:
    count = recording.frames.shape[0]
    values = np.asarray(value, dtype=np.float64)
    require_that(
        values.ndim == 0 or len(values) == count,
        f"parameters.{name} has {values.size} values, but {recording.name} has {count} simulations: give one for each, or one "
        "number for all.",
    )
    return np.broadcast_to(values, (count,))


def _left_out(recording: Recording, spec: SolverSpec, left: Sequence[str]) -> str:
    columns = [recording.params[:, recording.parameters.index(name)] for name in left]
    differ = any(len(np.unique(column)) > 1 for column in columns)
    which = ", which differ between simulations" if differ else ""
    return f"{recording.name}: parameters that solver {spec.name!r} does not take are left out{which}: {', '.join(left)}."
