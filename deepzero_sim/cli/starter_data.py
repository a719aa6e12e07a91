"""Data of a newcomer: how they fit a solver, or the solver that would fit them."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepzero_sim.datasets.conversion import spec_of_recording
from deepzero_sim.datasets.fitting.steps import frame_spacing
from deepzero_sim.datasets.generation.restrictions import SUITABLE
from deepzero_sim.datasets.opening import open_trajectories, read_source
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import DataSource, Source, as_source
from deepzero_sim.errors import DeepZeroError
from deepzero_sim.solver.spec import SolverSpec, entries_but_mask

#: Largest relative difference of times that are the same number of steps.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class KnownData:
    """Knowledge of data: how they are taken, and the solver whose states they are.

    Args:
        source: Data as settings name them.
        spec: Spec of the solver.
        recording: Content of the file.
        notes: Sentences for the user.
    """

    source: DataSource
    spec: SolverSpec
    recording: Recording
    notes: Sequence[str]

    @property
    def is_periodic(self) -> bool:
        """True if the file says that all of its axes wrap around."""
        return all(wraps is True for wraps in self.recording.periodic)


def read_data(data: Source, spec: SolverSpec | None) -> KnownData:
    """Propose how data are taken for a solver.

    Args:
        data: Data, and what the user says of them.
        spec: Spec of the solver; None for the one whose states they are.

    Raises:
        DataError: They cannot be read.
    """
    source = as_source(data)
    recording = read_source(source, spec)
    notes = [_summary(recording), *recording.notes]
    if spec is None:
        spec = _choose(spec_of_recording(recording, source)[0], source)
        open_trajectories(source, spec)  # so that what does not fit is said before anything is written
        return KnownData(source, spec, recording, notes)
    source = _propose(source, recording, spec)
    try:
        fitted = open_trajectories(source, spec)
    except DeepZeroError as error:
        notes.append(f"train_data in train.yaml is to be completed by hand, as the data do not fit: {error}")
        return KnownData(source, spec, recording, notes)
    shape = tuple(fitted.frames.shape)
    said = [str(note) for note in fitted.attributes.get("notes", ())]
    notes += [*said, f"for {spec.name} they are {shape[0]} simulations of {shape[1]} frames"]
    return KnownData(source, spec, recording, notes)


def _choose(spec: SolverSpec, source: DataSource) -> SolverSpec:
    """Leave the channels that are taken from the file, under the solver's names; names are held against the file's later."""
    taken = source.channels
    if not taken:
        return spec
    rows = [spec.channels.index(name) for name in taken if name in spec.channels]
    return replace(
        spec,
        state_shape=(len(rows), *spec.state_shape[1:]),
        channels=tuple(taken.values()) if isinstance(taken, dict) else tuple(taken),
        channel_units=tuple(spec.channel_units[row] for row in rows) if spec.channel_units else (),
        offsets=tuple(spec.offsets[row] for row in rows) if spec.offsets else (),
        mask=None if spec.mask is None else spec.mask[rows],
    )


def _summary(recording: Recording) -> str:
    simulations, frames, channels, *grid = recording.frames.shape
    axes = " x ".join(f"{name} {length}" for name, length in zip(recording.axes, grid, strict=True))
    times = "no times" if recording.times is None else f"times {recording.times[0]:g} to {recording.times[-1]:g}"
    parameters = ", ".join(recording.parameters) or "none"
    return (
        f"{recording.name}: {simulations} simulations, {frames} frames ({times}), {channels} channels "
        f"({', '.join(recording.channels)}), {axes}, parameters: {parameters}"
    )


def _propose(source: DataSource, recording: Recording, spec: SolverSpec) -> DataSource:
    """Fill in what the user has left open: channels, restriction and step, where names, grid and times tell them."""
    changes: dict[str, object] = {}
    if not source.channels and spec.channels and tuple(recording.channels) != tuple(spec.channels):
        changes["channels"] = _channels(recording, spec)
    if source.restrict is None and tuple(recording.frames.shape[3:]) != tuple(spec.state_shape[1:]):
        changes["restrict"] = _restriction(source, recording, spec)
    if source.dt is None and recording.times is None:
        changes["dt"] = float(spec.dt)
    if source.every is None:
        changes |= _every(frame_spacing(recording) or source.dt, spec)
    return replace(source, **{key: value for key, value in changes.items() if value})  # type: ignore[arg-type]


def _channels(recording: Recording, spec: SolverSpec) -> list[str] | dict[str, str]:
    """Take channels by name where the file has the solver's names, else in their order."""
    if set(spec.channels) <= set(recording.channels):
        return list(spec.channels)
    if len(spec.channels) == len(recording.channels):
        return dict(zip(recording.channels, spec.channels, strict=True))
    return []


def _restriction(source: DataSource, recording: Recording, spec: SolverSpec) -> str | None:
    """Name the first restriction that suits both grids; if none does, the one that the numbers of points speak for."""
    for name in SUITABLE:
        with suppress(DeepZeroError):
            open_trajectories(replace(source, restrict=name), spec)
            return name
    fine, coarse = recording.frames.shape[3:], spec.state_shape[1:]
    if len(fine) != len(coarse) or any(f < c for f, c in zip(fine, coarse, strict=True)):
        return None
    return "block_mean" if all(f % c == 0 for f, c in zip(fine, coarse, strict=True)) else "interpolation"


def _every(distance: float | None, spec: SolverSpec) -> dict[str, int]:
    if distance is None:
        return {}
    every = round(spec.dt / distance)
    fits = every > 1 and abs(every * distance - spec.dt) <= ROUNDING * spec.dt
    return {"every": every} if fits else {}


def untouched_solver(known: KnownData) -> dict[str, str | bytes]:
    """Write a solver whose step keeps every state as it is, for its user to fill in, and its mask if it has one.

    Args:
        known: Data whose states are the solver's.

    Returns:
        Content of files by name.
    """
    spec, files = known.spec, dict[str, str | bytes]()
    values = {key: value for key, value in entries_but_mask(spec).items() if key in WRITTEN and value}
    lines = [f"{key}={_short(value)!r}," for key, value in values.items()]
    if spec.mask is not None:
        content = io.BytesIO()
        np.save(content, spec.mask)
        files["mask.npy"] = content.getvalue()
        lines.append('mask=np.load(Path(__file__).with_name("mask.npy")),  # True where the file has values')
    facts = [f"        # {line}" for fact in _facts(known) for line in textwrap.wrap(fact, 110)]
    spec_lines = "\n".join(
        [*facts, "        self.spec = dz.SolverSpec(", *(f"            {line}" for line in lines), "        )"]
    )
    imports = "" if spec.mask is None else "from pathlib import Path\n\nimport numpy as np\n\n"
    return {"my_solver.py": SOLVER.format(spec=spec_lines, imports=imports), **files}


#: Entries of a spec that a file may tell.
WRITTEN = (
    *("name", "state_shape", "dt", "time_unit", "dtype", "channels", "channel_units", "parameters", "parameter_units"),
    *("axes", "spacing", "offsets"),
)


def _short(value: Any) -> Any:
    """Round numbers to digits that a person can read, and as exact as float32."""
    if isinstance(value, tuple):
        return tuple(_short(item) for item in value)
    return float(f"{value:.9g}") if isinstance(value, float) else value


def _facts(known: KnownData) -> list[str]:
    """List what the file says besides what a spec has a place for, in sentences."""
    recording, spec = known.recording, known.spec
    unit = f" {recording.time_unit}" if recording.time_unit else ""
    facts = ["dt is the distance of the file's frames: a step of the solver goes from one to the next."]
    if recording.times is not None:
        facts.append(f"Times of the file: {recording.times[0]:g} to {recording.times[-1]:g}{unit}.")
    for axis, wraps, points, of in zip(
        recording.axes, recording.periodic, recording.coordinates, recording.axis_units, strict=True
    ):
        around = {True: "wraps around", False: "does not wrap around", None: "may wrap around or not, the file does not say"}
        where = (
            "no positions in the file" if points is None else f"from {points[0]:g} to {points[-1]:g}{f' {of}' if of else ''}"
        )
        facts.append(f"Axis {axis}: {where}; it {around[wraps]}.")
    if not spec.spacing:
        facts.append("Points lie at uneven or unknown distances, so that the spec has no spacing and offsets.")
    return facts


#: A solver that a newcomer fills in.
SOLVER = '''"""A solver to fill in: what it must do is on the page docs/wrap/contract.md."""

{imports}import deepzero_sim as dz


class MySolver(dz.Solver):
    """Solver whose states are those of the data."""

    def __init__(self):
{spec}

    def step(self, states, params=None):
        """Advance states (B, C, *N) by one step, for parameters (B, K) or None, and leave them unchanged.

        So far nothing changes, so that a network would learn all of the physics: call your solver here.
        """
        return states.copy()
'''
