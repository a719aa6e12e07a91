"""From settings to a check of a solver: what it is, and at which sample states it is looked at."""

from __future__ import annotations

import functools

import numpy as np

from deepzero_sim.checks.solver import SolverCheck, Subject, Training, check_made_solver, subject_of
from deepzero_sim.cli.experiment import build_corrector
from deepzero_sim.cli.settings import CheckSolverSettings
from deepzero_sim.common.components import call_function
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import trajectories
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import SolverSpec, build_solver, check_states


def check_named_solver(settings: CheckSolverSettings) -> SolverCheck:
    """Check the solver that settings name.

    Raises:
        DeepZeroError: it, its sample states or the network cannot be made, or it raises an error on its first step.
        CheckInterruptedError: Ctrl-C; it has what was found before.
    """
    return check_made_solver(functools.partial(_subject, settings), settings.seconds)


def _subject(settings: CheckSolverSettings) -> Subject:
    """The solver that settings name, its sample states, and the training whose cost is asked."""
    solver = build_solver(settings.component)
    states, params = _samples(settings, solver.spec)
    network = build_corrector(settings.network, solver.spec, settings.seed)
    return subject_of(solver, states, params, Training(network, settings.unroll, settings.batch_size, settings.seed))


def _samples(settings: CheckSolverSettings, spec: SolverSpec) -> tuple[Array | None, Array | None]:
    """Sample states, `(B, C, *N)`, and their parameters, `(B, K)`; None for none."""
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
    """What a function named in settings makes of parameters, one row at a time, as it is asked when data are made."""
    rows = [call_function(name, spec, row[None]) for row in params]
    for row in rows:
        check_states(spec, row, f"what {name} returned", "check it on the params given", batch=1)
    return np.concatenate(rows)
