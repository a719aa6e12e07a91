"""A recording made to fit a solver: its channels, axes, parameters, units, times and grid, found by name and compared.

Nothing is fitted in silence: what cannot be used as it stands is refused, and what is left out or assumed is said in notes.
Frames are read, selected and restricted when they are asked for; only values that are missing are looked for at once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.settings import to_plain
from deepzero_sim.datasets.checked_frames import cast_states
from deepzero_sim.datasets.fitting.arrangement import Arrangement, Positions, arrangement_of, drop_single_points
from deepzero_sim.datasets.fitting.fitted_frames import (
    ByFunction,
    FittedStates,
    MissingValues,
    find_missing,
    keep_whole,
    require_in_range,
    without_values,
)
from deepzero_sim.datasets.fitting.matching import Match, match
from deepzero_sim.datasets.fitting.regridding import (
    Grid,
    Restriction,
    explain_offsets,
    grid_of_recording,
    grid_of_solver,
)
from deepzero_sim.datasets.fitting.steps import Steps, convert_times, steps_between_frames
from deepzero_sim.datasets.frames import Frames, MappedFrames, load_if_small, select
from deepzero_sim.datasets.metadata import Metadata, metadata_of_solver, require_metadata_keys
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.datasets.trajectories import Trajectories, says_unobserved
from deepzero_sim.solver.spec import SolverSpec


def fit(
    recording: Recording,
    spec: SolverSpec,
    settings: DataSource,
    may_differ: Collection[str] = (),
    positions: Positions | None = None,
) -> Trajectories:
    """Fit a recording to a solver's grid and step.

    Args:
        recording: Content of a file.
        spec: Spec of the solver.
        settings: Words on the file, and on how it is to be fitted.
        may_differ: Keys of metadata that may contradict the solver.
        positions: Positions of the solver's points that its spec does not say.

    Returns:
        Trajectories whose frames are read on demand unless they are small; `attributes["notes"]` says what was left out or
        assumed.

    Raises:
        DataError: They do not fit.
        ConfigError: Settings name what is not there.
    """
    if settings.missing == "refuse" and says_unobserved(recording.attributes):  # as a file of ours says itself
        settings = replace(settings, missing="unobserved")
    plan = _Plan.of(recording, spec, settings, may_differ, positions or {})
    recording, simulations = plan.recording, _choose(recording, settings)
    frames = select(recording.frames, simulations.tolist(), slice(None, None, plan.steps.every))
    missing = find_missing(frames, recording, plan.match.channels, simulations.tolist(), plan.steps.every)
    notes = list(plan.notes)
    shifted = "" if "offsets" in may_differ else explain_offsets(settings.restrict, spec)
    notes += [f"{recording.name}: {shifted}"] if shifted else []
    if settings.function is None:
        whole = keep_whole(missing, settings.missing, recording.name)
        frames = select(frames, whole.tolist()) if len(whole) < len(simulations) else frames
        frames = _restrict_frames(plan, frames, missing, notes)
    else:
        frames = _frames_by_function(plan, settings.function, frames)
        whole = keep_whole(without_values(frames), "drop", settings.function) if settings.missing == "drop" else _all(frames)
        frames = select(frames, whole.tolist()) if len(whole) < len(simulations) else frames
    if len(whole) < len(simulations):
        dropped = np.setdiff1d(simulations, simulations[whole]).tolist()
        notes.append(
            f"{recording.name}: {len(dropped)} of {len(simulations)} simulations have values that are missing and are left "
            f"out: {', '.join(map(str, dropped))}."
        )
    unusable = (
        f"{recording.name} has parameters that are NaN, infinite or too large for {spec.dtype}: give their values by "
        "parameters."
    )
    params = cast_states(plan.match.params[simulations[whole]], spec.dtype, unusable)
    attributes: dict[str, Any] = {
        "dt": spec.dt if plan.steps.dt is None else plan.steps.dt,
        "source": to_plain(settings),
        "notes": notes,
    }
    return Trajectories(
        load_if_small(frames),
        params,
        spec.active(),
        attributes,
        plan.metadata,
        tuple(may_differ),
        plan.times,
        recording.time_unit,
        simulations[whole].tolist(),
        settings.missing == "unobserved",
    )


def metadata_of_fit(recording: Recording, spec: SolverSpec, settings: DataSource, may_differ: Collection[str] = ()) -> Metadata:
    """Return the metadata of a recording as :func:`fit` would fit it, without reading frames or calling a user's function."""
    return _Plan.of(recording, spec, settings, may_differ, {}).metadata


@dataclass(frozen=True, eq=False)
class _Plan:
    """All that is known of a fit before frames are read."""

    recording: Recording
    spec: SolverSpec
    settings: DataSource
    match: Match
    steps: Steps
    arrangement: Arrangement
    fine: Grid
    coarse: Grid
    may_differ: Collection[str]
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        recording: Recording,
        spec: SolverSpec,
        settings: DataSource,
        may_differ: Collection[str],
        positions: Positions,
    ) -> _Plan:
        require_metadata_keys(may_differ)
        recording = drop_single_points(recording, spec, settings)
        recording, converted = convert_times(recording, spec, settings, may_differ)
        found = match(recording, spec, settings, may_differ)
        steps = steps_between_frames(recording, spec, converted, may_differ)
        arrangement, turned = arrangement_of(recording, found.channels, found.axes, spec, positions)
        fine = grid_of_recording(recording, arrangement, found.axis_names)
        comparable = {"compare_positions": "spacing" not in may_differ, "compare_origin": "offsets" not in may_differ}
        coarse = grid_of_solver(spec, positions, **comparable)
        notes = (*recording.notes, *found.notes, *turned, *steps.notes)
        return cls(recording, spec, settings, found, steps, arrangement, fine, coarse, may_differ, notes)

    def restriction(self, never: NDArray[np.bool_] | None = None) -> Restriction:
        """Build the restriction by name; points where values are never there are masked."""
        fine = self.fine
        if never is not None:
            fine = replace(fine, mask=fine.mask & ~self.arrangement.arrange_axes(never[None])[0])
        if_shifted = "set data_may_differ to [offsets] if a shift of all positions is meant"
        return Restriction(self.settings.restrict, fine, self.coarse, self.recording.name, self.spec.name, if_shifted)

    @property
    def times(self) -> NDArray[np.float64] | None:
        """Times of the frames that are taken, without the file's rounding; None if nobody says how far apart they lie."""
        count, given = len(range(0, self.recording.frames.shape[1], self.steps.every)), self.recording.times
        begin = 0.0 if given is None else float(given[0])
        if self.steps.dt is None:
            return None if given is None else np.array([begin])
        return np.asarray(begin + self.steps.dt * np.arange(count), dtype=np.float64)

    @property
    def metadata(self) -> Metadata:
        """Metadata as they are after fitting: what was compared is the solver's, what may differ the file's."""
        if self.settings.function is None:
            self.restriction()  # says so if the grids do not allow it
        ours = metadata_of_solver(self.spec)
        return replace(
            ours,
            name="",
            dt=self.steps.dt,
            channel_units=self.match.channel_units,
            parameter_units=self.match.parameter_units,
            time_unit=self.recording.time_unit,
            positions={place: points for place, points in ours.positions.items() if place in self.fine.positions},
        )


def _all(frames: Frames) -> NDArray[np.intp]:
    return np.arange(len(frames))


def _frames_by_function(plan: _Plan, name: str, frames: Frames) -> Frames:
    """Map frames to those that a user's function makes of them."""
    spec, convert = plan.spec, plan.match.conversion
    room = float(np.finfo(spec.dtype).max) - float(np.abs(convert.shifts).max())
    may_be_missing = plan.settings.missing in ("drop", "unobserved")
    function = ByFunction(name, spec, room / max(1.0, float(np.abs(convert.factors).max())), may_be_missing)
    absent = None if plan.fine.mask.all() else ~plan.fine.mask[None]
    states = FittedStates(plan.arrangement, function, convert, spec.active(), missing=absent)
    made = MappedFrames(frames, states, spec.state_shape, spec.dtype)
    require_data(  # before hours are spent
        np.array_equal(made[0, 0], made[0, 0], equal_nan=True),
        f"{name} must return the same states for the same frame, but two calls gave different ones: draw no random numbers in "
        "it, and keep nothing from one call to the next.",
    )
    return made


def _restrict_frames(plan: _Plan, frames: Frames, missing: MissingValues, notes: list[str]) -> Frames:
    """Map frames to those of the solver, by the restriction of a name or as they are."""
    spec, convert = plan.spec, plan.match.conversion
    fill = plan.settings.missing == "mask" and bool(missing.always.any())
    restriction = plan.restriction(missing.always if fill else None)
    _require_values(restriction.mask, plan, notes)
    require_in_range(convert.largest(missing.largest * restriction.largest_sum), spec, plan.recording.name)
    if restriction.is_identity and not fill and _is_plain(plan, frames):
        return frames
    require_data(
        restriction.is_identity or plan.settings.missing != "unobserved" or not missing.sometimes.any(),
        f"{plan.recording.name} has values that are missing, and restrict {plan.settings.restrict} would spread them over the "
        "grid: give data on the solver's own grid, or a function of your own as restrict, which returns NaN where nothing is "
        "known.",
    )
    through = None if restriction.is_identity else restriction
    states = FittedStates(plan.arrangement, through, convert, spec.active(), fill)
    return MappedFrames(frames, states, spec.state_shape, spec.dtype)


def _is_plain(plan: _Plan, frames: Frames) -> bool:
    """Tell frames that are the solver's as they stand."""
    same = plan.arrangement.is_identity(frames.shape[2]) and plan.match.conversion.is_identity
    return same and bool(plan.spec.active().all()) and frames.dtype == np.dtype(plan.spec.dtype)


def _require_values(mask: NDArray[np.bool_], plan: _Plan, notes: list[str]) -> None:
    """Refuse data without values where the solver has some; say it if it is the other way round."""
    what, active = plan.recording.name, plan.spec.active()
    lacking = int((active & ~mask).sum())
    require_data(
        not lacking,
        f"{what} has no values at {lacking} of the {int(active.sum())} points where solver {plan.spec.name!r} has some: use a "
        "solver with the mask of the data, or a restriction that needs fewer points.",
    )
    more = int((mask & ~active).sum())
    require_data(
        not more or plan.recording.mask is None or plan.settings.restrict is not None or "mask" in plan.may_differ,
        f"{what} does not fit solver {plan.spec.name!r}: its mask has values at {int(mask.sum())} of {mask.size} points, not "
        f"at the same {int(active.sum())}: use what belongs together, or set data_may_differ to [mask] if this is meant.",
    )
    if more:
        notes.append(f"{what}: {more} points that solver {plan.spec.name!r} masks are zero.")


def _choose(recording: Recording, settings: DataSource) -> NDArray[np.intp]:
    """Return the numbers of the simulations that are asked for."""
    count = recording.frames.shape[0]
    if settings.simulations is None:
        return np.arange(count)
    beyond = [number for number in settings.simulations if number >= count]
    require_data(not beyond, f"{recording.name} has {count} simulations, numbered from 0, and none of number {beyond[:1]}.")
    return np.array(settings.simulations, dtype=np.intp)
