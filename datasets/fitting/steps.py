"""Frames of a file that lie one step of a solver apart: every `k`-th, where the step is `k` times their distance in time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import TIME, DataSource
from deepzero_sim.datasets.times import NEAR, ROUNDING, rounding_of_step
from deepzero_sim.datasets.units import conversion, same_unit, unit_to_show, with_amount
from deepzero_sim.solver.spec import SolverSpec

#: Ratios of units of time, and most steps from one frame to the next that are taken for meant.
_UNIT_RATIOS, _MOST_STEPS = frozenset({24, 60, 365, 1000, 1440, 3600, 86400}), 1000


class Steps(NamedTuple):
    """Frames that are taken.

    Args:
        every: Number of frames of the file from one that is taken to the next.
        dt: Their distance in time, None if nobody says.
        notes: Sentences on what was assumed.
    """

    every: int
    dt: float | None
    notes: tuple[str, ...] = ()


def convert_times(
    recording: Recording, spec: SolverSpec | None, settings: DataSource, may_differ: Collection[str] = ()
) -> tuple[Recording, DataSource]:
    """Convert times to a solver's unit, where both name one or a factor is given.

    Args:
        recording: Content of a file.
        spec: Spec of the solver; None for none.
        settings: Words on the file: `scale` and `dt`.
        may_differ: Keys of metadata that may contradict the solver; with `dt`, units may.

    Returns:
        The recording and the words on it, both with times of the solver's unit.

    Raises:
        DataError: The units are of different quantities, or the factor is not the one between them.
    """
    theirs, ours, what = recording.time_unit, "" if spec is None else spec.time_unit, recording.name
    names = recording.channels if spec is None else spec.channel_names
    given = None if TIME in names else settings.scale.get(TIME)
    known = conversion(theirs, ours) if theirs and ours else None
    if spec is not None and theirs and ours and "dt" not in may_differ:
        units = unit_to_show(theirs) or "no unit", unit_to_show(ours) or "none"
        has = f"{what} counts time in {units[0]}, but solver {spec.name!r} in {units[1]}"
        require_data(
            known is not None or given is not None or same_unit(theirs, ours),
            f"{has}: give the factor by scale, as in {{{TIME}: 3600}}, or set data_may_differ to [dt] if this is meant.",
        )
        require_data(
            known is None or given is None or abs(given - known.factor) <= 1e-3 * known.factor,
            f"{has}, which is a factor of {known.factor if known else 1:.6g}, not the {given} of scale: leave {TIME} out of "
            "scale, or set data_may_differ to [dt] if this is meant.",
        )
    factor = given if given is not None else known.factor if known is not None else 1.0
    notes = list(recording.notes)
    if factor != 1:
        between = f"from {unit_to_show(theirs) or 'its unit'} to {unit_to_show(ours) or 'the unit of the solver'}"
        notes.append(f"{what}: times are multiplied by {factor:.9g}, {between}.")
    elif spec is not None and theirs and not ours and not same_unit(theirs, "s"):
        notes.append(f"{what}: its unit of time ({theirs}) is taken for that of solver {spec.name!r}, which names none.")
    unit = theirs if theirs and known is None and given is None else ours
    times = recording.times if recording.times is None or factor == 1 else recording.times * factor
    recording = replace(recording, times=times, time_unit=unit, notes=tuple(notes))
    return recording, settings if settings.dt is None or factor == 1 else replace(settings, dt=settings.dt * factor)


def frame_spacing(recording: Recording) -> float | None:
    """Compute the distance of a file's frames in time; None if it has one frame only, or no times.

    Raises:
        DataError: Distances differ.
    """
    times = recording.times
    if times is None or len(times) < 2:
        return None
    spacing = float(times[-1] - times[0]) / (len(times) - 1)
    _require_even(times, spacing, recording.name, recording.time_unit)
    return spacing


def _require_even(times: NDArray[np.float64], spacing: float, what: str, unit: str) -> None:
    rounding = min(ROUNDING * float(np.abs(times).max()), NEAR * abs(spacing))
    if spacing > 0 and np.abs(times - (times[0] + spacing * np.arange(len(times)))).max() <= rounding:
        return
    distances = np.diff(times)
    usual = float(np.median(distances))
    other = int(np.abs(distances - usual).argmax())
    require_data(
        False,
        f"frames of {what} must lie equally far apart in time, but most lie {with_amount(f'{usual:.6g}', unit)} apart "
        f"and frames {other} and {other + 1} {distances[other]:.6g} (at {times[other]:.9g} and {times[other + 1]:.9g}): "
        "interpolate them in time, or cut the file there.",
    )


def steps_between_frames(
    recording: Recording, spec: SolverSpec, settings: DataSource, may_differ: Collection[str] = ()
) -> Steps:
    """Find which frames lie one step of a solver apart.

    Args:
        recording: Content of a file, with its times in the solver's unit as far as that is known.
        spec: Spec of the solver, whose step is `dt`.
        settings: Words on the file: `every` and `dt`.
        may_differ: Keys of metadata that may contradict the solver; with `dt`, every frame is taken unless `every` says more.

    Raises:
        DataError: There are no such frames.
    """
    what, frames = recording.name, recording.frames.shape[1]
    spacing = _spacing(recording, settings)
    if spacing is None and frames > 1:
        every = settings.every or 1
        apart = "one step" if every == 1 else f"1/{every} of a step"
        note = f"{what} says no times: its frames are taken to lie {apart} of solver {spec.name!r} (dt {spec.dt:g}) apart."
        steps = Steps(every, None, (note,))
    elif spacing is None or "dt" in may_differ:
        every = settings.every or 1
        steps = Steps(every, None if spacing is None else spacing * every)
    else:
        steps = _match(spacing, recording, spec, settings.every)
    apart = "" if spacing is None else f" {with_amount(f'{spacing:.6g}', recording.time_unit)} apart"
    longer = _remedy("use a longer file", steps.every, recording, spec)
    require_data(
        frames == 1 or frames > steps.every,
        f"{what} has {frames} frames{apart}, but one step of solver {spec.name!r} (dt {spec.dt:.6g}) takes {steps.every} of "
        f"them: {longer}.",
    )
    return steps


def _remedy(otherwise: str, ratio: float, recording: Recording, spec: SolverSpec) -> str:
    """Say what to do: first of all about units of time, if they seem to differ, and last, if nobody says that they do not."""
    units = _unit_advice(recording, spec)
    if round(ratio) in _UNIT_RATIOS or ratio > _MOST_STEPS:
        return f"units of time seem to differ: {units}; if they do not, {otherwise}"
    return otherwise if spec.time_unit else f"{otherwise}, or, {units}"


def _unit_advice(recording: Recording, spec: SolverSpec) -> str:
    """Say what to do if times are of another unit than the solver's."""
    if spec.time_unit:
        return (
            f"check that dt is in {spec.time_unit}, as time_unit of its spec says, and that times are, or give their factor by "
            f"scale, as in {{{TIME}: 3600}}, where the file names no unit"
        )
    theirs = recording.time_unit
    whose = f"{theirs}, the unit of time of the file" if theirs else "the file's unit of time"
    remedy = "say so by time_unit in its spec, or " if theirs else ""
    return f"if the solver's dt is not in {whose}, {remedy}give the factor by scale, as in {{{TIME}: 3600}}"


def _spacing(recording: Recording, settings: DataSource) -> float | None:
    """Return the distance of frames that the file says, or else the one that is said of it."""
    spacing = frame_spacing(recording)
    require_data(
        spacing is None or settings.dt is None or abs(spacing - settings.dt) <= NEAR * spacing,
        f"{recording.name} says that its frames lie {spacing or 0:.6g} apart, not {settings.dt}: leave out dt, which is "
        "for files without times.",
    )
    return settings.dt if spacing is None else spacing


def _match(spacing: float, recording: Recording, spec: SolverSpec, asked: int | None) -> Steps:
    """Find the number of frames in a step."""
    every, what = max(1, round(spec.dt / spacing)), recording.name
    tolerance = ROUNDING * spec.dt + min(every * rounding_of_step(recording.times), NEAR * spacing)
    whole = abs(every * spacing - spec.dt) <= tolerance
    apart = f"frames of {what} lie {with_amount(f'{spacing:.6g}', recording.time_unit)} apart in time"
    require_data(whole, f"{apart}, but solver {spec.name!r} takes steps of {spec.dt:.6g}{_why_not(spacing, recording, spec)}.")
    require_data(
        asked is None or asked == every,
        f"{apart}, so {every} of them make a step of solver {spec.name!r} "
        f"(dt {spec.dt:.6g}), not the {asked} that every says: leave every out, or add dt to data_may_differ.",
    )
    note = f"{what}: one frame in {every} is taken, {spec.dt:g} apart." if every > 1 else ""
    return Steps(every, float(spec.dt), (note,) * bool(note))


def _why_not(spacing: float, recording: Recording, spec: SolverSpec) -> str:
    """Say why no number of frames makes a step, and what to do: the end of a sentence."""
    steps = spacing / spec.dt
    if steps < 1:
        why = "which is no whole multiple of that"
        remedy = f"give the solver a dt of {spacing:.6g} or a multiple, or add dt to data_may_differ"
    elif abs(steps - round(steps)) <= 10 * ROUNDING * steps:
        why = f"{round(steps)} from one frame to the next"
        remedy = f"let each step of the solver take {round(steps)} of its own at once and say dt {spacing:.6g} in its spec"
    else:
        why = "which never meet the next frame"
        remedy = f"give the solver a dt of {spacing:.6g}, or add dt to data_may_differ"
    return f", {why}: {_remedy(remedy, steps, recording, spec)}"
