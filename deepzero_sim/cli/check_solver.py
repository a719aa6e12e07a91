"""`deepzero-sim check`: a check of a solver's contract, and of what training through it will cost."""

from __future__ import annotations

import functools

import numpy as np

from deepzero_sim.checks.solver.results import CheckInterruptedError, SolverCheck
from deepzero_sim.checks.solver.solver_check import check_made_solver
from deepzero_sim.checks.solver.subject import Subject, Training, subject_of
from deepzero_sim.checks.solver.trial import SAMPLES
from deepzero_sim.cli.console import console, print_table
from deepzero_sim.cli.reports import solver_check
from deepzero_sim.cli.reports.ownership import require_own_files
from deepzero_sim.cli.settings.check_solver import CheckSolverSettings
from deepzero_sim.cli.start import began
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.generation.ensembles import ensemble, initial_state, takes_seed
from deepzero_sim.datasets.opening import open_trajectories
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.runs.trained_run import build_corrector, sample_states


def run(settings: CheckSolverSettings) -> int:
    """Check a solver, and show and write what was found; returns the exit status."""
    if settings.output is not None:
        require_own_files(settings.output, solver_check.FILES, "--output")
    try:
        with console.status(f"checking {settings.component.name}"):
            result = check_named_solver(settings)
    except CheckInterruptedError as interrupted:
        _show(interrupted.found, settings)
        raise
    _show(result, settings)
    return 0 if result.holds else 1


def _show(check: SolverCheck, settings: CheckSolverSettings) -> None:
    console.print(solver_check.verdict(check))
    for title, sentences in (("What to do", solver_check.failures(check)), ("Worth knowing", solver_check.hints(check))):
        if sentences:
            console.print(f"\n{title}")
        for sentence in sentences:
            console.print(f"- {sentence}")
    console.print()
    for sentence in solver_check.others(check):
        console.print(sentence)
    if check.gradients is not None:
        print_table(*solver_check.gradients(check.gradients))
        console.print(solver_check.training_of(check.gradients))
    if settings.output is not None:
        solver_check.publish(settings.output, check, settings_to_dict(settings))
        console.print(f"report: {settings.output / solver_check.PAGE}")
    else:
        console.print("All details: --output FOLDER writes them.")


def check_named_solver(settings: CheckSolverSettings) -> SolverCheck:
    """Check the solver that settings name.

    Raises:
        DeepZeroError: Solver, sample states or network cannot be made, or the first step raises an error.
        CheckInterruptedError: The user pressed Ctrl-C; the error has what was found before.
    """
    return check_made_solver(functools.partial(_subject, settings), settings.seconds, began())


def _subject(settings: CheckSolverSettings) -> Subject:
    """Make the solver that settings name, its sample states, and the training whose cost is asked."""
    solver = build_solver(settings.component)
    may_differ = settings.data_may_differ
    data = None if settings.data is None else open_trajectories(settings.data, solver.spec, may_differ)
    states, params = _samples(settings, solver.spec) if data is None else _frames_of(data)
    network = build_corrector(settings.network, solver.spec, settings.seed)
    training = Training(network, settings.unroll, settings.batch_size, settings.seed)
    return subject_of(solver, states, params, training, data)


def _frames_of(data: Trajectories) -> tuple[Array, Array | None]:
    """Return frames as sample states, all that are in memory, and their parameters."""
    return sample_states(data) if data.on_disk else trajectories.as_batch(data.frames[:], data.params)


def _samples(settings: CheckSolverSettings, spec: SolverSpec) -> tuple[Array | None, Array | None]:
    """Make sample states, `(B, C, *N)`, and their parameters, `(B, K)`; None for none."""
    rows = _rows(settings, spec)
    params = rows if rows is not None and rows.shape[1] else None
    if rows is None and spec.parameters:
        example = ", ".join(["1.0"] * len(spec.parameters))
        raise ConfigError(
            f"sample states of solver {spec.name!r} need its parameters ({', '.join(spec.parameters)}): give params, one row "
            f"for each sample state, such as --params '[[{example}]]', or data that have them."
        )
    if settings.initial is None:
        return None, params
    given = [()] if rows is None else rows.tolist()
    starts = SAMPLES if rows is None and takes_seed(settings.initial) else None
    members = ensemble(given, starts, settings.seed, spec, settings.initial)
    return np.concatenate([initial_state(settings.initial, spec, member)[0] for member in members]), params


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
