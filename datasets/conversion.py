"""Conversion of data of any known layout, as they are or fitted to a solver, into this package's layout or The Well's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_data, require_that
from deepzero_sim.common.settings import to_plain
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.fitting.arrangement import drop_single_points
from deepzero_sim.datasets.fitting.fit import fit
from deepzero_sim.datasets.fitting.fitted_frames import find_missing
from deepzero_sim.datasets.fitting.restriction import Points
from deepzero_sim.datasets.fitting.steps import convert_times, frame_spacing
from deepzero_sim.datasets.foreign.content import shorten
from deepzero_sim.datasets.foreign.well_writer import write_well
from deepzero_sim.datasets.frames import blocks
from deepzero_sim.datasets.generation.generate import software
from deepzero_sim.datasets.hdf5 import NOTHING, not_a_file, show
from deepzero_sim.datasets.opening import OWN, layout_of, read_source
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import TIME, DataSource
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.solver.spec import SolverSpec

#: Layouts that data are written in.
Target: TypeAlias = Literal["deepzero-sim", "well"]


@dataclass(frozen=True, eq=False)
class Conversion:
    """Data on their way to a file.

    Args:
        layout: Name of the layout that was read.
        recording: Recording that was read.
        data: Trajectories that are written.
        spec: Spec of the states that are written, the solver's or one that says what the file says.
        ranges: Smallest and largest value of each channel over active points, `(C, 2)`.
        positions: Positions of points that the spec does not say, by channel and axis.
    """

    layout: str
    recording: Recording
    data: Trajectories
    spec: SolverSpec
    ranges: NDArray[np.float64]
    positions: Mapping[tuple[int, int], NDArray[np.float64]]


def convert(
    source: DataSource,
    output: Path,
    spec: SolverSpec | None = None,
    target: Target = "deepzero-sim",
    may_differ: Collection[str] = (),
    report: Callable[[str], None] = lambda word: None,
) -> Conversion:
    """Convert data, block by block; the output appears when it is whole.

    Args:
        source: Data, and what is said of them.
        output: Path of the file to write.
        spec: Spec of the solver that the data are fitted to; None to take them as they are.
        target: Layout to write.
        may_differ: Keys of metadata that may contradict the solver.
        report: Function that is called with a word after each part of the work: read, measured, written.

    Raises:
        DataError: The data cannot be read or do not fit, there is no space, or there is something at the output's path.
        ConfigError: Something that is said of them cannot be used.
    """
    _require_free(output)
    recording = read_source(source, spec)
    made, own = spec_of_recording(recording, source) if spec is None else (spec, {})
    kept = drop_single_points(recording, None, source) if spec is None else recording
    data = fit(kept, made, source, may_differ, own)
    require_data(
        target == OWN or not data.unobserved,
        f"{recording.name} has values that were not observed, for which The Well's layout has no sign: leave out --to well.",
    )
    report("read")
    conversion = Conversion(layout_of(source), recording, data, made, _ranges(data), own)
    report("measured")
    _write(conversion, source, output, spec is not None, target)
    report("written")
    return conversion


def _require_free(output: Path) -> None:
    """Refuse a path that something stands at, or that nothing can be written to."""
    instead = not_a_file(output)
    points_nowhere = instead == NOTHING and output.is_symlink()
    require_data(
        not points_nowhere and (instead == NOTHING or (instead is not None and not instead.startswith("that is"))),
        f"{show(output)} is there already, and nothing is replaced: name another output, or take that away first.",
    )
    require_data(instead == NOTHING, f"nothing can be written to {show(output)}, because {instead}: name another output.")


def _write(conversion: Conversion, source: DataSource, output: Path, fitted: bool, target: Target) -> None:
    recording, data, spec, layout = conversion.recording, conversion.data, conversion.spec, conversion.layout
    attributes = {
        **data.attributes,
        "converted_from": {"name": recording.name, "layout": layout, "time_unit": recording.time_unit},
        "foreign_attributes": {key: to_json(value) for key, value in recording.attributes.items()},
        "software": software(),
    }
    data = replace(data, attributes=attributes)
    if target == OWN:
        trajectories.save(output, data, spec, named=fitted, positions=conversion.positions)
        return
    uneven = [spec.axes[axis] for _, axis in conversion.positions if not spec.spacing]
    require_data(
        not uneven,
        f"{recording.name} has uneven or unknown positions along {', '.join(dict.fromkeys(uneven))}, which are not written in "
        "The Well's layout: leave out --to well, or name a solver and a restriction to its grid.",
    )
    renamed = source.axes if isinstance(source.axes, dict) else {}
    names = (renamed.get(axis, axis) for axis in recording.axes)
    periodic = {name: wraps for name, wraps in zip(names, recording.periodic, strict=True) if wraps is not None}
    write_well(output, data, spec, {name: wraps for name, wraps in periodic.items() if name in spec.axes})


def to_json(value: Any) -> Any:
    """Write a value that a file states of itself as JSON has it."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(to_plain(value))


def _ranges(data: Trajectories) -> NDArray[np.float64]:
    """Find the smallest and the largest value of each channel, `(C, 2)`; NaN of a channel without active points."""
    lowest, highest = np.full(len(data.mask), np.inf), np.full(len(data.mask), -np.inf)
    for block in blocks(data.frames):
        for channel, active in enumerate(data.mask):
            values = block.states[:, :, channel, active]
            if values.size:
                lowest[channel] = min(lowest[channel], float(values.min()))
                highest[channel] = max(highest[channel], float(values.max()))
    ranges = np.stack([lowest, highest], axis=1)
    return np.where(np.isfinite(ranges), ranges, np.nan)


def spec_of_recording(
    recording: Recording, source: DataSource
) -> tuple[SolverSpec, dict[tuple[int, int], NDArray[np.float64]]]:
    """Describe states as a file describes them; returns positions, too, where they are not evenly spaced."""
    require_that(source.restrict is None, f"restrict: {source.restrict} needs the grid of a solver: name one by solver.")
    recording, source = convert_times(drop_single_points(recording, None, source), None, source)
    spacing = frame_spacing(recording) or source.dt
    one_frame = recording.frames.shape[1] == 1
    require_data(
        spacing is not None or one_frame, f"{recording.name} says no times: give the distance of its frames in time by dt."
    )
    renamed = source.axes if isinstance(source.axes, dict) else {}
    given = source.parameters
    renamed_parameters = {value: name for name, value in given.items() if isinstance(value, str)}
    absent = [name for name in renamed_parameters if name not in recording.parameters]
    require_that(
        not absent,
        f"{recording.name} has no parameter {shorten(absent)}, which parameters names: it has "
        f"{shorten(recording.parameters) or 'none'}: a parameter of a file is one number, or one for each simulation.",
    )
    kept = [name for name in recording.parameters if name not in renamed_parameters and name not in given]
    grid, positions = _grid(recording)
    spec = SolverSpec(
        name=Path(recording.name).stem or recording.name,
        time_unit=recording.time_unit if TIME not in source.scale else "",
        state_shape=tuple(recording.frames.shape[2:]),
        dt=(spacing or 1.0) * (source.every or 1),
        dtype="float64" if recording.frames.dtype.itemsize > 4 or recording.frames.dtype.kind != "f" else "float32",
        channels=recording.channels,
        channel_units=_units(recording.channel_units) if not {*source.scale, *source.shift} - {TIME} else (),
        parameters=(*kept, *given),
        parameter_units=_units(recording.parameter_units) if not given else (),
        axes=tuple(renamed.get(axis, axis) for axis in recording.axes),
        mask=_mask(recording, source),
        **grid,
    )
    return spec, positions


def _units(units: tuple[str, ...]) -> tuple[str, ...]:
    """Return units, none if none are known."""
    return units if any(units) else ()


def _mask(recording: Recording, source: DataSource) -> NDArray[np.bool_] | None:
    """Find the mask: the file's, without points that are never there if they are to be masked."""
    mask = np.ones(tuple(recording.frames.shape[2:]), dtype=bool) if recording.mask is None else recording.mask
    if source.missing == "mask":
        mask = mask & ~find_missing(recording.frames, recording, tuple(range(len(recording.channels)))).always
    return None if mask.all() else mask


def _grid(recording: Recording) -> tuple[dict[str, Any], dict[tuple[int, int], NDArray[np.float64]]]:
    """Describe the grid by spacing and offsets if points are evenly spaced along all axes, else by their positions."""
    channels, *shape = recording.frames.shape[2:]
    places = list(np.ndindex(channels, len(shape)))
    known = {place: points for place in places if (points := recording.positions(*place)) is not None}
    steps = [Points(count=shape[axis], positions=known.get((0, axis))).spacing for axis in range(len(shape))]
    if len(known) < len(places) or None in steps:
        return {}, known
    spacing = [step for step in steps if step is not None]
    firsts = [[float(known[channel, axis][0]) for axis in range(len(shape))] for channel in range(channels)]
    return {"spacing": tuple(spacing), "offsets": tuple(tuple(np.divide(row, spacing).tolist()) for row in firsts)}, {}
