"""Knowledge of a newcomer's program, Python solver or data, for the settings files that `deepzero-sim init` writes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepzero_sim.cli.settings.init import InitSettings
from deepzero_sim.cli.starter_data import source_and_spec, untouched_solver
from deepzero_sim.cli.starter_files import Start, starter_files
from deepzero_sim.common.components import Component, load
from deepzero_sim.common.requirements import require_that
from deepzero_sim.common.settings import descriptions
from deepzero_sim.connectors.programs.executable import ExecutableSolver
from deepzero_sim.connectors.programs.namelists.deck import groups_of
from deepzero_sim.datasets.generation.ensembles import takes_seed
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.spec import SolverSpec

#: Seconds that one run of a program may take.
TIMEOUT = 300


@dataclass(frozen=True)
class _Known:
    """Knowledge of a solver and its data, files besides settings files, and sentences for the user."""

    start: Start
    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def files_of(settings: InitSettings) -> tuple[Start, dict[str, str], tuple[str, ...]]:
    """Return what is known of the solver, the content of the files to write, and sentences for the user.

    Raises:
        DeepZeroError: The program, solver or data cannot be used.
    """
    kinds = {"program": _of_program, "python": _of_python, "data": _of_data}
    known = kinds[settings.kind or "program"](settings)
    return known.start, {**known.files, **starter_files(known.start)}, known.notes


def _of_program(settings: InitSettings) -> _Known:
    """Describe a program as a solver, which is made to see whether all that it names is there."""
    assert settings.command is not None and settings.state_shape is not None
    fine = settings.reference_shape
    solver = _program(settings, settings.command, settings.state_shape)
    spec = build_solver(solver).spec
    _require_reached(settings)
    _require_params(spec, settings)
    reference = None
    if fine is not None:
        reference = _program(settings, settings.reference_command or settings.command, fine)
        _require_reference(build_solver(reference).spec, spec)
    start = Start(settings.folder, solver, spec, reference, settings.params, periodic=settings.periodic)
    return _Known(replace(start, in_processes=False, comments=descriptions(ExecutableSolver)))


def _program(settings: InitSettings, command: str, shape: list[int]) -> Component:
    words = _words(command)
    spec: dict[str, Any] = {"name": Path(words[0]).stem, "state_shape": shape, "dt": settings.dt, "dtype": "float64"}
    spec |= {key: getattr(settings, key) for key in ("channels", "channel_units", "parameters") if getattr(settings, key)}
    files = {key: [{"path": getattr(settings, name), "format": settings.format}] for key, name in _FILES}
    args: dict[str, Any] = {"spec": spec, "command": words, **files}
    if settings.template is not None:
        args["templates"] = {settings.template.name.removesuffix(".j2"): str(settings.template)}
    if settings.namelist is not None:
        args["namelists"] = {settings.namelist.name: {"file": str(settings.namelist), "values": _namelist_values(settings)}}
    return Component("deepzero_sim.ExecutableSolver", {**args, "timeout": TIMEOUT})


_FILES = (("inputs", "input"), ("outputs", "output"))


def _words(command: str) -> list[str]:
    """Split a command as a shell does; a placeholder is one word."""
    try:
        words = shlex.split(re.sub(r"\{\{\s*(.*?)\s*\}\}", lambda found: f"'{{{{ {found[1]} }}}}'", command))
    except ValueError as error:
        raise ConfigError(f"command {command!r} cannot be split into words ({error}): check its quotes.") from error
    require_that(bool(words), "command must name a program, not nothing.")
    return words


def _namelist_values(settings: InitSettings) -> dict[str, dict[str, str]]:
    """Fill in the entries of a namelist that have parameters' names."""
    assert settings.namelist is not None
    values: dict[str, dict[str, str]] = {}
    groups = groups_of(settings.namelist, settings.parameters)
    for name, group in groups.items():
        values.setdefault(group, {})[name] = f"{{{{ params.{name} }}}}"
    return values


def _require_reached(settings: InitSettings) -> None:
    """Refuse parameters that nothing hands to the program."""
    deck = "" if settings.template is None else settings.template.read_text(encoding="utf-8")
    inserted = set() if settings.namelist is None else set(groups_of(settings.namelist, settings.parameters))
    for name in settings.parameters:
        there = re.compile(rf"\{{\{{.*\bparams\.{re.escape(name)}\b")
        reached = name in inserted or there.search(settings.command or "") or there.search(deck) or "params[" in deck
        require_that(
            bool(reached),
            f"the parameter {name} does not reach the program: put {{{{ params.{name} }}}} into command or template, or give "
            "namelist one that has an entry of that name.",
        )


def _of_python(settings: InitSettings) -> _Known:
    """Make the solver that is named, and its reference, if there is to be one."""
    assert settings.solver is not None
    solver = Component(settings.solver, settings.args)
    spec, reference = build_solver(solver).spec, None
    _require_params(spec, settings)
    if settings.reference_args:
        reference = Component(settings.solver, {**settings.args, **settings.reference_args})
        _require_reference(build_solver(reference).spec, spec)
    initial, restrict = (_function_beside(settings.solver, name) for name in ("initial", "restrict"))
    start = Start(settings.folder, solver, spec, reference, settings.params, periodic=settings.periodic)
    seeded = initial is None or takes_seed(initial)
    return _Known(replace(start, initial=initial, takes_seed=seeded, restrict=restrict))


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
    known = None if settings.solver is None else build_solver(Component(settings.solver, settings.args)).spec
    source, spec, notes = source_and_spec(settings.data, known)
    extra: dict[str, str] = {}
    solver = Component(settings.solver or f"{settings.folder / 'my_solver.py'}:MySolver", settings.args)
    if settings.solver is None:
        extra["my_solver.py"] = untouched_solver(spec)
    return _Known(Start(settings.folder, solver, spec, source=source, periodic=settings.periodic), extra, tuple(notes))


def _require_reference(fine: SolverSpec, spec: SolverSpec) -> None:
    """Refuse a reference whose states are not restricted to the solver's grid by means of blocks."""
    grids = f"{tuple(fine.state_shape)} and {tuple(spec.state_shape)}"
    require_that(
        fine.state_shape[0] == spec.state_shape[0] and len(fine.state_shape) == len(spec.state_shape),
        f"reference and solver must have the same channels and axes, not states of {grids}.",
    )
    ratios = np.array(fine.state_shape[1:]) % np.array(spec.state_shape[1:])
    require_that(
        not ratios.any(),
        f"the reference's grid must be a whole multiple of the solver's along every axis, but states are {grids}: choose such "
        "a grid, or write data.yaml and restrict yourself (docs/training/data.md).",
    )
    require_that(fine.dt == spec.dt, f"reference and solver must take the same step, not {fine.dt:g} and {spec.dt:g}.")


def _require_params(spec: SolverSpec, settings: InitSettings) -> None:
    """Refuse rows that are no values of the solver's parameters, and none where it has some."""
    count, names = len(spec.parameters), ", ".join(spec.parameters)
    require_that(
        count > 0 or not settings.params, f"params are values of parameters, but {spec.name} has none: leave them out."
    )
    came = settings.params or "nothing"
    require_that(
        bool(settings.params) == bool(count) and all(len(row) == count for row in settings.params),
        f"params must have a row for each simulation with {count} numbers ({names}), not {came}: give --params, such as "
        f"'{[[float(row)] * count for row in (1, 2, 3)]}'.",
    )
