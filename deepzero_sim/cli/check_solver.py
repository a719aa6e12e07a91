"""`deepzero-sim check`: a check of a solver's contract, and of what training through it will cost."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepzero_sim.checks.solver.results import CheckInterruptedError, SolverCheck
from deepzero_sim.checks.solver.solver_check import check_made_solver
from deepzero_sim.checks.solver.subject import Subject, Training, subject_of
from deepzero_sim.cli.console import console, print_table
from deepzero_sim.cli.options import Command
from deepzero_sim.cli.reports import solver_check
from deepzero_sim.common.components import Component, call_function
from deepzero_sim.common.settings import Settings, settings_to_dict
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.metadata import MetadataKey
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.validation import check_states
from deepzero_sim.training.runs.settings import Positive, Seconds, Seed, small_network
from deepzero_sim.training.runs.trained_run import build_corrector


@dataclass
class CheckSolverSettings(Settings):
    """A check of a solver's contract, and of what training through it will cost.

    Args:
        name: Solver, where it takes no arguments: an import path or file.py:Name.
        solver: Solver with its arguments, in place of name.
        data: HDF5 trajectories whose frames are the sample states; without data or initial, they are made up.
        initial: Import path or file.py:Name of initial(spec, params), which makes sample states.
        params: Scenario parameters, one row a sample state.
        output: Folder of the check's solver_check.json and solver_check.md; none to print it only.
        seconds: Seconds that the check may take, about; what does not fit is left out, and says so.
        network: Corrector whose gradients' cost is estimated: small, mercury, mars_moon, or an import path or file.py:Name.
        unroll: Solver steps of a rollout, for that.
        batch_size: Rollouts of a gradient, likewise.
        seed: Seed of everything that is drawn.
        data_may_differ: Things that the data may say otherwise than the solver: name, dt, channels, mask and so on.
    """

    name: str | None = None
    solver: Component | None = None
    data: Path | None = None
    initial: str | None = None
    params: list[list[float]] | None = None
    output: Path | None = None
    seconds: Seconds = 60.0
    network: Component = field(default_factory=small_network)
    unroll: Positive = 8
    batch_size: Positive = 2
    seed: Seed = 0
    data_may_differ: list[MetadataKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.name is None) == (self.solver is None):
            raise ConfigError("name one solver: as deepzero-sim check file.py:Name or, with arguments, by solver in --config.")
        if self.data is not None and (self.initial is not None or self.params is not None):
            raise ConfigError("sample states come from data, which hold their params, or from initial and params: not both.")

    @property
    def component(self) -> Component:
        """Solver, however it was named."""
        return self.solver if self.solver is not None else Component(str(self.name))


def _run(settings: CheckSolverSettings) -> int:
    try:
        with console.status(f"checking {settings.component.name}"):
            result = check_named_solver(settings)
    except CheckInterruptedError as interrupted:
        _show(interrupted.found, settings)
        raise
    _show(result, settings)
    return 0 if result.holds else 1


def _show(check: SolverCheck, settings: CheckSolverSettings) -> None:
    for table, word_columns in solver_check.tables(check):
        print_table(table, word_columns)
    for sentence in solver_check.sentences(check):
        console.print(sentence)
    if settings.output is not None:
        solver_check.publish(settings.output, check, settings_to_dict(settings))
        console.print(f"report: {settings.output / solver_check.PAGE}")


COMMANDS = {"check": Command(CheckSolverSettings, _run, positional="name")}


def check_named_solver(settings: CheckSolverSettings) -> SolverCheck:
    """Check the solver that settings name.

    Raises:
        DeepZeroError: Solver, sample states or network cannot be made, or the first step raises an error.
        CheckInterruptedError: The user pressed Ctrl-C; the error has what was found before.
    """
    return check_made_solver(functools.partial(_subject, settings), settings.seconds)


def _subject(settings: CheckSolverSettings) -> Subject:
    """Make the solver that settings name, its sample states, and the training whose cost is asked."""
    solver = build_solver(settings.component)
    states, params = _samples(settings, solver.spec)
    network = build_corrector(settings.network, solver.spec, settings.seed)
    return subject_of(solver, states, params, Training(network, settings.unroll, settings.batch_size, settings.seed))


def _samples(settings: CheckSolverSettings, spec: SolverSpec) -> tuple[Array | None, Array | None]:
    """Load or make sample states, `(B, C, *N)`, and their parameters, `(B, K)`; None for none."""
    if settings.data is not None:
        data = trajectories.load(settings.data, spec, settings.data_may_differ)
        return trajectories.as_batch(data.frames, data.params)
    rows = _rows(settings, spec)
    params = rows if rows is not None and rows.shape[1] else None
    if settings.initial is None:
        return None, params
    states = _initial(settings.initial, spec, np.zeros((1, 0), spec.dtype) if rows is None else rows)
    return states, params


def _rows(settings: CheckSolverSettings, spec: SolverSpec) -> Array | None:
    if settings.params is None:
        return None
    lengths = {len(row) for row in settings.params}
    if lengths != {len(spec.parameters)}:
        raise ConfigError(
            f"every row of params must have {len(spec.parameters)} numbers ({', '.join(spec.parameters) or 'none'}) for solver "
            f"{spec.name!r}, and there must be one row at least, not {settings.params}."
        )
    return np.array(settings.params, dtype=spec.dtype)


def _initial(name: str, spec: SolverSpec, params: Array) -> Array:
    """Call a function named in settings on parameters, one row at a time, as it is called when data are made."""
    rows = [call_function(name, spec, row[None]) for row in params]
    for row in rows:
        check_states(spec, row, f"what {name} returned", "check it on the params given", batch=1)
    return np.concatenate(rows)
