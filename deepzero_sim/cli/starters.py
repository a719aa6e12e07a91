"""Knowledge of a newcomer's program, Python solver or data, for the settings files that `deepzero-sim init` writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deepzero_sim.cli.settings.generate import merge
from deepzero_sim.cli.settings.init import InitSettings
from deepzero_sim.cli.starter_data import read_data, untouched_solver
from deepzero_sim.cli.starter_files import Start, starter_files
from deepzero_sim.cli.starter_program import OFFERS, SPEC_OFFERS, program_of, reference_args
from deepzero_sim.common.components import Component, load
from deepzero_sim.common.requirements import require_that
from deepzero_sim.common.settings import descriptions
from deepzero_sim.connectors.programs.executable import ExecutableSolver
from deepzero_sim.datasets.generation.ensembles import takes_seed
from deepzero_sim.datasets.generation.restrictions import SUITABLE, restriction_of
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.spec import SolverSpec

#: Offsets of points by the restriction that suits their grid: centres of cells, or nodes.
OFFSETS = {"block_mean": 0.5, "injection": 0.0}


@dataclass(frozen=True)
class _Known:
    """Knowledge of a solver and its data, files besides settings files, and sentences for the user."""

    start: Start
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def files_of(settings: InitSettings) -> tuple[Start, dict[str, str | bytes], tuple[str, ...]]:
    """Return what is known of the solver, the content of the files to write, and sentences for the user.

    Raises:
        DeepZeroError: The program, solver or data cannot be used.
    """
    kinds = {"program": _of_program, "python": _of_python, "data": _of_data}
    known = kinds[settings.kind or "program"](settings)
    return known.start, {**known.files, **starter_files(known.start)}, known.notes


def _of_program(settings: InitSettings) -> _Known:
    """Describe a program as a solver, which is made to see whether all that it names is there."""
    solver, changes = program_of(settings), reference_args(settings)
    spec = build_solver(solver).spec
    _require_params(spec, settings)
    start = Start(settings.folder, solver, spec, params=settings.params, periodic=settings.periodic, in_processes=False)
    start, notes = _with_offsets(_with_reference(_with_initial(start, settings.initial), changes))
    comments = descriptions(ExecutableSolver)
    return _Known(replace(start, comments=comments, offers=OFFERS, spec_offers=SPEC_OFFERS), notes=notes)


def _with_initial(start: Start, initial: str | None) -> Start:
    """Take the user's function of initial states, if there is one."""
    if initial is None:
        return start
    require_that(callable(load(initial)), f"initial must name a function, such as states.py:initial, not {initial}.")
    return replace(start, initial=initial, takes_seed=takes_seed(initial))


def _with_reference(start: Start, changes: Mapping[str, Any] | None) -> Start:
    """Add the reference, the same solver but for some arguments, and the restriction of its states."""
    if changes is None:
        return start
    solver = start.solver
    fine = build_solver(Component(solver.name, merge(solver.args, changes))).spec
    same = fine.dt == start.spec.dt
    require_that(same, f"reference and solver must take the same step, not {fine.dt:g} and {start.spec.dt:g}.")
    name = start.restrict or _restriction_between(fine, start.spec)
    restriction_of(name, fine, start.spec)(np.ones((1, *fine.state_shape), fine.dtype))  # a function of the user's may not fit
    return replace(start, reference_args=changes, restrict=name)


def _with_offsets(start: Start) -> tuple[Start, tuple[str, ...]]:
    """Say in the spec where the first points lie, if it says how far apart points lie; returns a sentence on it, too."""
    spec = start.spec
    if not spec.spacing or spec.offsets:
        return start, ()
    offset = OFFSETS.get(start.restrict or "")
    example = [[0.5] * len(spec.spacing)] * spec.state_shape[0]
    if offset is None:
        return start, (f"positions begin at 0, as nobody says where the first points lie: --offsets '{example}' if in cells",)
    told = {"offsets": [[offset] * len(spec.spacing)] * spec.state_shape[0]}
    solver = replace(start.solver, args=merge(start.solver.args, {"spec": told}))
    said = f"offsets of {offset:g} are written, as {start.restrict} suits the grid of the reference: --offsets says otherwise"
    return replace(start, solver=solver, spec=build_solver(solver).spec), (said,)


def _of_python(settings: InitSettings) -> _Known:
    """Make the solver that is named, and its reference, if there is to be one."""
    assert settings.solver is not None
    solver = Component(settings.solver, settings.args)
    spec = build_solver(solver).spec
    _require_params(spec, settings)
    initial, restrict = (_function_beside(settings.solver, name) for name in ("initial", "restrict"))
    start = Start(settings.folder, solver, spec, params=settings.params, periodic=settings.periodic, restrict=restrict)
    start = _with_initial(start, settings.initial or initial)
    return _Known(_with_reference(start, settings.reference_args or None))


def _function_beside(solver: str, name: str) -> str | None:
    """Name the function of that name that lies in the solver's file, if there is one."""
    path, mark, _ = solver.rpartition(":" if ".py:" in solver else ".")
    try:
        return f"{path}{mark}{name}" if callable(load(f"{path}{mark}{name}")) else None
    except ConfigError:
        return None


def _of_data(settings: InitSettings) -> _Known:
    """Read what the data say of themselves; without a solver for them, one that keeps every state as it is is written."""
    assert settings.data is not None
    theirs = None if settings.solver is None else build_solver(Component(settings.solver, settings.args)).spec
    known = read_data(settings.data, theirs)
    solver = Component(settings.solver or f"{settings.folder / 'my_solver.py'}:MySolver", settings.args)
    extra = untouched_solver(known) if settings.solver is None else {}
    periodic = settings.periodic or known.is_periodic
    return _Known(Start(settings.folder, solver, known.spec, source=known.source, periodic=periodic), extra, tuple(known.notes))


def _restriction_between(fine: SolverSpec, spec: SolverSpec) -> str:
    """Name the restriction of the reference's states that suits the two grids.

    Raises:
        ConfigError: None does, or the reference is none of the solver's.
    """
    grids = f"{tuple(fine.state_shape)} and {tuple(spec.state_shape)}"
    require_that(
        fine.state_shape[0] == spec.state_shape[0] and len(fine.state_shape) == len(spec.state_shape),
        f"reference and solver must have the same channels and axes, not states of {grids}.",
    )
    require_that(
        all(points >= ours for points, ours in zip(fine.state_shape[1:], spec.state_shape[1:], strict=True)),
        f"the reference's grid must be finer than the solver's, but states are {grids}: exchange the two.",
    )
    for name in SUITABLE:
        with suppress(ConfigError):
            restriction_of(name, fine, spec)
            return name
    raise ConfigError(
        "the reference's grid must be a whole multiple of the solver's along every axis, in cells (n and k n) or between nodes "
        f"(n + 1 and k n + 1), but states are {grids}: choose such a grid, or write data.yaml and restrict yourself "
        "(docs/training/data.md)."
    )


def _require_params(spec: SolverSpec, settings: InitSettings) -> None:
    """Refuse rows that are no values of the solver's parameters, and none where it has some."""
    count, names = len(spec.parameters), ", ".join(spec.parameters)
    require_that(
        count > 0 or not settings.params, f"params are values of parameters, but {spec.name} has none: leave them out."
    )
    for row in settings.params:
        require_that(all(map(math.isfinite, row)), f"params must be finite numbers, not {row}.")
    came = settings.params or "nothing"
    require_that(
        bool(settings.params) == bool(count) and all(len(row) == count for row in settings.params),
        f"params must have a row for each simulation with {count} numbers ({names}), not {came}: give --params, such as "
        f"'{[[float(row)] * count for row in (1, 2, 3)]}'.",
    )
