"""`deepzero-sim convert`: data of any known layout, as they are or fitted to a solver, as one file of trajectories."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.cli.console import console, print_table, progress_bar
from deepzero_sim.cli.settings.convert import ConvertSettings
from deepzero_sim.common.words import count_of
from deepzero_sim.datasets.conversion import Conversion, convert
from deepzero_sim.datasets.units import unit_to_show, with_amount
from deepzero_sim.solver.build import build_solver


def run(settings: ConvertSettings) -> None:
    """Convert the data that settings name, and show what was found in them."""
    spec = None if settings.solver is None else build_solver(settings.solver).spec
    with progress_bar(f"converting {settings.path.name}", 3) as report:
        conversion = convert(settings.source, settings.output, spec, settings.to, settings.data_may_differ, report)
    print_table(rows(conversion), words=(0, 1, 2))
    for sentence in conversion.data.notes:
        console.print(sentence)
    console.print(f"{settings.output} made")


def rows(conversion: Conversion) -> list[list[str]]:
    """Return the rows of a table of what was read and what was written."""
    recording, data, spec = conversion.recording, conversion.data, conversion.spec
    found, made = recording.frames.shape, data.frames.shape
    theirs, ours = (_list(one.parameters, one.parameter_units) for one in (recording, spec))
    return [
        ["", "read", "written"],
        ["layout", conversion.layout, ""],
        ["simulations", str(found[0]), str(made[0])],
        ["frames of each", str(found[1]), str(made[1])],
        ["times", _span(recording.times, recording.time_unit), _span(data.times, data.time_unit)],
        ["channels", _list(recording.channels, recording.channel_units), _ranges(conversion)],
        *_axes(conversion),
        ["parameters", theirs or "none", ours or "none"],
    ]


def _span(values: NDArray[np.float64] | None, unit: str) -> str:
    """Write the ends of times or positions, and how far apart they lie."""
    if values is None:
        return "unknown"
    values = values + 0.0  # 0 in place of -0
    if len(values) < 2:
        return with_amount(f"{values[0]:.6g}", unit)
    steps = np.diff(values)
    even = bool(np.abs(steps - steps.mean()).max() <= 1e-3 * abs(steps.mean()))
    ends = with_amount(f"{values[0]:.6g} to {values[-1]:.6g}", unit)
    return f"{ends}, {f'{steps.mean():.6g} apart' if even else 'uneven'}"


def _list(names: Sequence[str], units: Sequence[str]) -> str:
    given = map(unit_to_show, units or [""] * len(names))
    return ", ".join(f"{name} [{unit}]" if unit else name for name, unit in zip(names, given, strict=True))


def _ranges(conversion: Conversion) -> str:
    """Write the names, ranges and units of the channels that are written."""
    spec = conversion.spec
    names = spec.channel_names
    units = spec.channel_units or (conversion.data.metadata and conversion.data.metadata.channel_units) or [""] * len(names)
    return ", ".join(
        with_amount(f"{name} {low:.4g} to {high:.4g}", unit)
        for name, unit, (low, high) in zip(names, units, conversion.ranges, strict=True)
    )


def _axes(conversion: Conversion) -> list[list[str]]:
    """Return a row for each axis that is written: numbers of points, and where those of the first channel lie."""
    recording, spec = conversion.recording, conversion.spec
    theirs = [
        f"{axis}: {count_of(count, 'point')}, {_span(recording.positions(0, place), recording.axis_units[place])}"
        for place, (axis, count) in enumerate(zip(recording.axes, recording.frames.shape[3:], strict=True))
    ]
    ours = [
        f"{spec.axes[place] if spec.axes else f'axis_{place}'}: {count_of(count, 'point')}, "
        f"{_span(spec.coordinates(0, place) if spec.spacing else conversion.positions.get((0, place)), '')}"
        for place, count in enumerate(spec.state_shape[1:])
    ]
    count = max(len(theirs), len(ours))
    theirs, ours = (one + [""] * (count - len(one)) for one in (theirs, ours))
    return [["axis", *pair] for pair in zip(theirs, ours, strict=True)]
