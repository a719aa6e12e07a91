"""Frames of a file that lie one step of a solver apart: every `k`-th, where the step is `k` times their distance in time."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.datasets.times import NEAR, ROUNDING, rounding_of_step
from deepzero_sim.solver.spec import SolverSpec


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


def frame_spacing(recording: Recording) -> float | None:
    """Compute the distance of a file's frames in time; None if it has one frame only, or no times.

    Raises:
        DataError: Distances differ.
    """
    times = recording.times
    if times is None or len(times) < 2:
        return None
    spacing = float(times[-1] - times[0]) / (len(times) - 1)
    _require_even(times, spacing, recording.name)
    return spacing


def _require_even(times: NDArray[np.float64], spacing: float, what: str) -> None:
    rounding = min(ROUNDING * float(np.abs(times).max()), NEAR * abs(spacing))
    if spacing > 0 and np.abs(times - (times[0] + spacing * np.arange(len(times)))).max() <= rounding:
        return
    distances = np.diff(times)
    usual = float(np.median(distances))
    other = int(np.abs(distances - usual).argmax())
    require_data(
        False,
        f"frames of {what} must lie equally far apart in time, but most lie {usual:.6g} apart and frames {other} and "
        f"{other + 1} {distances[other]:.6g} (at {times[other]:.9g} and {times[other + 1]:.9g}): interpolate them in time, or "
        "cut the file there.",
    )


def steps_between_frames(
    recording: Recording, spec: SolverSpec, settings: DataSource, may_differ: Collection[str] = ()
) -> Steps:
    """Find which frames lie one step of a solver apart.

    Args:
        recording: Content of a file, with its times.
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
        steps = _match(spacing, rounding_of_step(recording.times), spec, settings.every, what)
    require_data(
        frames == 1 or frames > steps.every,
        f"{what} has {frames} frames, but one step of solver {spec.name!r} takes {steps.every} of them: use a longer file.",
    )
    return steps


def _spacing(recording: Recording, settings: DataSource) -> float | None:
    """Return the distance of frames that the file says, or else the one that is said of it."""
    spacing = frame_spacing(recording)
    require_data(
        spacing is None or settings.dt is None or abs(spacing - settings.dt) <= NEAR * spacing,
        f"{recording.name} says that its frames lie {spacing or 0:.6g} apart, not {settings.dt}: leave out dt, which is "
        "for files without times.",
    )
    return settings.dt if spacing is None else spacing


def _match(spacing: float, rounding: float, spec: SolverSpec, asked: int | None, what: str) -> Steps:
    """Find the number of frames in a step."""
    every = max(1, round(spec.dt / spacing))
    tolerance = ROUNDING * spec.dt + min(every * rounding, NEAR * spacing)
    whole = abs(every * spacing - spec.dt) <= tolerance
    require_data(whole, f"frames of {what} lie {spacing:.6g} apart in time, {_why_not(spacing, spec)}.")
    require_data(
        asked is None or asked == every,
        f"frames of {what} lie {spacing:.6g} apart in time, so {every} of them make a step of solver {spec.name!r} "
        f"(dt {spec.dt:.6g}), not the {asked} that every says: leave every out, or add dt to data_may_differ.",
    )
    note = f"{what}: one frame in {every} is taken, {spec.dt:g} apart." if every > 1 else ""
    return Steps(every, float(spec.dt), (note,) * bool(note))


def _why_not(spacing: float, spec: SolverSpec) -> str:
    solver, steps = f"solver {spec.name!r} takes steps of {spec.dt:.6g}", spacing / spec.dt
    if steps < 1:
        return (
            f"but {solver}, which is no whole multiple of that: give the solver a dt of {spacing:.6g} or a multiple, or add dt "
            "to data_may_differ"
        )
    if abs(steps - round(steps)) <= 10 * ROUNDING * steps:
        return (
            f"but {solver}, {round(steps)} from one frame to the next: let each step of the solver take {round(steps)} of its "
            f"own at once and say dt {spacing:.6g} in its spec"
        )
    return f"but {solver}, which never meet the next frame: give the solver a dt of {spacing:.6g}, or add dt to data_may_differ"
