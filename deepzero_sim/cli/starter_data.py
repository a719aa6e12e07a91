"""Data of a newcomer: how they fit a solver, or the solver that would fit them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from deepzero_sim.datasets.opening import open_trajectories, read_source
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import DataSource, Source, as_source
from deepzero_sim.errors import DeepZeroError
from deepzero_sim.solver.spec import SolverSpec

#: Largest relative difference of times that are the same number of steps.
ROUNDING = 1e-6


def source_and_spec(data: Source, spec: SolverSpec | None) -> tuple[DataSource, SolverSpec, list[str]]:
    """Propose how data are taken for a solver; returns that, the solver's spec, and sentences for the user.

    Args:
        data: Data, and what the user says of them.
        spec: Spec of the solver; None for the one that would fit them.

    Raises:
        DataError: They cannot be read.
    """
    source = as_source(data)
    recording = read_source(source)
    notes = [_summary(recording), *recording.notes]
    if spec is None:
        return source, spec_of(recording, source), notes
    source = _propose(source, recording, spec)
    try:
        fitted = open_trajectories(source, spec)
    except DeepZeroError as error:
        return source, spec, [*notes, f"train_data in train.yaml is to be completed by hand, as the data do not fit: {error}"]
    shape = tuple(fitted.frames.shape)
    said = [str(note) for note in fitted.attributes.get("notes", ())]
    return source, spec, [*notes, *said, f"for {spec.name} they are {shape[0]} simulations of {shape[1]} frames"]


def spec_of(recording: Recording, source: DataSource) -> SolverSpec:
    """Describe the solver whose states the recording would be."""
    dt = _frame_distance(recording, source) or 1.0
    shape = tuple(int(length) for length in recording.frames.shape[2:])
    units = tuple(recording.channel_units) if all(recording.channel_units) else ()
    return SolverSpec(
        name=re.sub(r"\W+", "_", Path(source.path).stem) or "solver",
        state_shape=shape,
        dt=dt,
        dtype="float64" if recording.frames.dtype == np.float64 else "float32",
        channels=tuple(recording.channels),
        channel_units=units,
        parameters=tuple(recording.parameters),
        axes=tuple(recording.axes),
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


def _frame_distance(recording: Recording, source: DataSource) -> float | None:
    if recording.times is None or len(recording.times) < 2:
        return source.dt
    return float(recording.times[1] - recording.times[0])


def _propose(source: DataSource, recording: Recording, spec: SolverSpec) -> DataSource:
    """Fill in what the user has left open: channels, restriction and step, where names, grid and times tell them."""
    changes: dict[str, object] = {}
    if not source.channels and spec.channels and tuple(recording.channels) != tuple(spec.channels):
        changes["channels"] = _channels(recording, spec)
    if source.restrict is None and tuple(recording.frames.shape[3:]) != tuple(spec.state_shape[1:]):
        changes["restrict"] = _restriction(recording.frames.shape[3:], spec.state_shape[1:])
    if source.dt is None and recording.times is None:
        changes["dt"] = float(spec.dt)
    if source.every is None:
        changes |= _every(_frame_distance(recording, source), spec)
    return replace(source, **{key: value for key, value in changes.items() if value})  # type: ignore[arg-type]


def _channels(recording: Recording, spec: SolverSpec) -> list[str] | dict[str, str]:
    """Take channels by name where the file has the solver's names, else in their order."""
    if set(spec.channels) <= set(recording.channels):
        return list(spec.channels)
    if len(spec.channels) == len(recording.channels):
        return dict(zip(recording.channels, spec.channels, strict=True))
    return []


def _restriction(fine: tuple[int, ...], coarse: tuple[int, ...]) -> str | None:
    if len(fine) != len(coarse) or any(f < c for f, c in zip(fine, coarse, strict=True)):
        return None
    whole = all(f % c == 0 for f, c in zip(fine, coarse, strict=True))
    return "block_mean" if whole else "interpolation"


def _every(distance: float | None, spec: SolverSpec) -> dict[str, int]:
    if distance is None:
        return {}
    every = round(spec.dt / distance)
    fits = every > 1 and abs(every * distance - spec.dt) <= ROUNDING * spec.dt
    return {"every": every} if fits else {}


def untouched_solver(spec: SolverSpec) -> str:
    """Write a solver of a spec whose step keeps every state as it is, for its user to fill in."""
    fields = {
        "name": spec.name,
        "state_shape": tuple(spec.state_shape),
        "dt": spec.dt,
        "dtype": spec.dtype,
        "channels": tuple(spec.channels),
        "channel_units": tuple(spec.channel_units),
        "parameters": tuple(spec.parameters),
        "axes": tuple(spec.axes),
    }
    lines = "\n".join(f"            {key}={value!r}," for key, value in fields.items() if value)
    return SOLVER.format(fields=lines)


#: A solver that a newcomer fills in.
SOLVER = '''"""A solver to fill in: what it must do is on the page docs/wrap/contract.md."""

import deepzero_sim as dz


class MySolver(dz.Solver):
    """Solver whose states are those of the data."""

    def __init__(self):
        self.spec = dz.SolverSpec(
{fields}
        )

    def step(self, states, params=None):
        """Advance states (B, C, *N) by one step, for parameters (B, K) or None, and leave them unchanged.

        So far nothing changes, so that a network would learn all of the physics: call your solver here.
        """
        return states.copy()
'''
