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
from deepzero_sim.datasets.fitting.fitted_frames import (
    ByFunction,
    FittedStates,
    MissingValues,
    find_missing,
    keep_whole,
    require_in_range,
)
from deepzero_sim.datasets.fitting.matching import Match, match
from deepzero_sim.datasets.fitting.regridding import Grid, Restriction, grid_of_recording, grid_of_solver
from deepzero_sim.datasets.fitting.steps import Steps, steps_between_frames
from deepzero_sim.datasets.frames import Frames, MappedFrames, load_if_small, select
from deepzero_sim.datasets.metadata import Metadata, metadata_of_solver, require_metadata_keys
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.solver.spec import SolverSpec


def fit(recording: Recording, spec: SolverSpec, settings: DataSource, may_differ: Collection[str] = ()) -> Trajectories:
    """Fit a recording to a solver's grid and step.

    Args:
        recording: Content of a file.
        spec: Spec of the solver.
        settings: Words on the file, and on how it is to be fitted.
        may_differ: Keys of metadata that may contradict the solver.

    Returns:
        Trajectories whose frames are read on demand unless they are small; `attributes["notes"]` says what was left out or
        assumed.

    Raises:
        DataError: They do not fit.
        ConfigError: Settings name what is not there.
    """
    plan = _Plan.of(recording, spec, settings, may_differ)
    simulations = _choose(recording, settings)
    frames = select(recording.frames, simulations.tolist(), slice(None, None, plan.steps.every))
    missing = find_missing(frames, recording, plan.match.channels, simulations.tolist(), plan.steps.every)
    whole = keep_whole(missing, settings.missing, recording.name)
    notes = list(plan.notes)
    if len(whole) < len(simulations):
        dropped = np.setdiff1d(simulations, simulations[whole]).tolist()
        notes.append(
            f"{recording.name}: {len(dropped)} of {len(simulations)} simulations have values that are missing and are left "
            f"out: {', '.join(map(str, dropped))}."
        )
        frames = select(frames, whole.tolist())
    made = _map_frames(plan, frames, missing if settings.missing == "mask" else None, notes)
    require_in_range(missing, made.largest_factor, spec, recording.name)
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
        load_if_small(made.frames),
        params,
        spec.active(),
        attributes,
        plan.metadata,
        tuple(may_differ),
        plan.times,
        spec.time_unit or recording.time_unit,
        simulations[whole].tolist(),
    )


def metadata_of_fit(recording: Recording, spec: SolverSpec, settings: DataSource, may_differ: Collection[str] = ()) -> Metadata:
    """Return the metadata of a recording as :func:`fit` would fit it, without reading frames or calling a user's function."""
    return _Plan.of(recording, spec, settings, may_differ).metadata


@dataclass(frozen=True, eq=False)
class _Plan:
    """All that is known of a fit before frames are read."""

    recording: Recording
    spec: SolverSpec
    settings: DataSource
    match: Match
    steps: Steps
    fine: Grid
    coarse: Grid
    may_differ: Collection[str]

    @classmethod
    def of(cls, recording: Recording, spec: SolverSpec, settings: DataSource, may_differ: Collection[str]) -> _Plan:
        require_metadata_keys(may_differ)
        found = match(recording, spec, settings, may_differ)
        steps = steps_between_frames(recording, spec, settings, may_differ)
        fine = replace(grid_of_recording(recording, found.channels, found.axes), axes=found.axis_names)
        comparable = {"compare_positions": "spacing" not in may_differ, "compare_origin": "offsets" not in may_differ}
        return cls(recording, spec, settings, found, steps, fine, grid_of_solver(spec, **comparable), may_differ)

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.recording.notes, *self.match.notes, *self.steps.notes)

    def restriction(self, never: NDArray[np.bool_] | None = None) -> Restriction:
        """Build the restriction by name; points where values are never there are masked."""
        fine = self.fine
        if never is not None:
            turned = never.transpose(0, *(axis + 1 for axis in self.match.axes))
            fine = replace(fine, mask=fine.mask & ~turned)
        return Restriction(self.settings.restrict, fine, self.coarse, self.recording.name, self.spec.name)

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
            positions={place: points for place, points in ours.positions.items() if place in self.fine.positions},
        )


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Frames of a solver, and the largest factor by which a value of the file may have grown."""

    frames: Frames
    largest_factor: Any


def _map_frames(plan: _Plan, frames: Frames, masked: MissingValues | None, notes: list[str]) -> _Fitted:
    """Map frames to those of the solver."""
    spec, found = plan.spec, plan.match
    fill = masked is not None and bool(masked.always.any())
    factors, active = found.factors, spec.active()
    if plan.settings.function is not None:
        function = ByFunction(plan.settings.function, spec, float(np.finfo(spec.dtype).max / max(1.0, np.abs(factors).max())))
        states = FittedStates(found.channels, found.axes, function, factors, active)
        made = MappedFrames(frames, states, spec.state_shape, spec.dtype)
        require_data(  # before hours are spent
            np.array_equal(made[0, 0], made[0, 0]),
            f"{plan.settings.function} must return the same states for the same frame, but two calls gave different ones: draw "
            "no random numbers in it, and keep nothing from one call to the next.",
        )
        return _Fitted(made, 0.0)
    restriction = plan.restriction(masked.always if masked is not None and fill else None)
    _require_values(restriction.mask, plan, notes)
    grow = np.abs(factors) * restriction.largest_sum
    if restriction.is_identity and not fill and _is_plain(plan, frames):
        return _Fitted(frames, grow)
    through = None if restriction.is_identity else restriction
    states = FittedStates(found.channels, found.axes, through, factors, active, fill)
    return _Fitted(MappedFrames(frames, states, spec.state_shape, spec.dtype), grow)


def _is_plain(plan: _Plan, frames: Frames) -> bool:
    """Tell frames that are the solver's as they stand."""
    found, spec = plan.match, plan.spec
    in_order = found.channels == tuple(range(frames.shape[2])) and found.axes == tuple(range(len(found.axes)))
    return in_order and bool((found.factors == 1).all() and spec.active().all()) and frames.dtype == np.dtype(spec.dtype)


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
