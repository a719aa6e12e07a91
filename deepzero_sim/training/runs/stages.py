"""Stages: trainings one after the other, each from the network of the one before, in folders of their own within one.

`RUN/1-NON`, `RUN/2-SolverLayer` and so on are runs like all others: each goes on where it was, and one that has ended is not
trained again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from deepzero_sim.common.components import Component
from deepzero_sim.common.requirements import require_known
from deepzero_sim.common.settings import assign, read
from deepzero_sim.coupling.layer import require_repeatable_steps
from deepzero_sim.datasets.opening import open_trajectories
from deepzero_sim.errors import ConfigError, RunError
from deepzero_sim.solver.build import build_solver
from deepzero_sim.training.build import build_estimator, build_optimiser, build_scheduler, build_vjp
from deepzero_sim.training.checkpoints import CONFIG
from deepzero_sim.training.runs.defaults import Resolved, choose_method, resolve
from deepzero_sim.training.runs.folders import stage_folders
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.validation import suitable_held_back

#: Settings that no stage has for itself, and why.
_SHARED = {
    "run": "stages lie in folders of their own below the run's",
    "start": "every stage but the first starts from the one before, and the first from a start that is given outside stages",
    "stages": "a stage has none itself",
    **dict.fromkeys(
        ("solver", "differentiable_solver", "network", "train_data", "validation_data", "held_back", "data_may_differ"),
        "all stages have one solver, one network and the same data: give it outside stages",
    ),
}


def plan(settings: TrainSettings) -> list[Resolved]:
    """Resolve settings to those of each training, one after the other: of its stages, or of the one that it is.

    Raises:
        DeepZeroError: A stage contradicts the others, or has something that cannot be used.
    """
    if not settings.stages:
        return [resolve(settings)]
    if (settings.run / CONFIG).exists():
        raise RunError(f"{settings.run} holds a run without stages: name another folder with --run, or leave out stages.")
    settings, said = _hold_back(settings)
    planned: list[Resolved] = []
    for number, given in enumerate(settings.stages, start=1):
        before = planned[-1].settings.run if planned else settings.start
        try:
            stage = _stage(settings, given, number, before)
            method, choices = choose_method(stage)
            named = replace(stage, method=method, run=settings.run / f"{number}-{method}")
            resolved = resolve(named).settings
            _require_parts(resolved)
        except ConfigError as error:
            raise ConfigError(f"stage {number}: {error}") from error
        planned.append(Resolved(resolved, (*(said if number == 1 else ()), *choices)))
    _require_same_folders(settings, planned)
    return planned


def _hold_back(settings: TrainSettings) -> tuple[TrainSettings, tuple[str, ...]]:
    """Choose how many simulations are held back, where the settings do not say."""
    if settings.held_back is not None or settings.validation_data is not None:
        return settings, ()
    data = open_trajectories(settings.train_data, build_solver(settings.solver).spec, settings.data_may_differ)
    simulations = data.frames.shape[0]
    count = suitable_held_back(simulations)
    said = (
        f"the last {count} of {simulations} simulations of the data {'is' if count == 1 else 'are'} held back from training: "
        "each stage hands on the network that is best there; --held_back says how many."
        if count
        else f"{simulations} simulations are too few to hold one back: stages are measured on the training data, and hand on "
        "their last network; give validation_data to have the best one."
    )
    return replace(settings, held_back=count), (said,)


def _stage(settings: TrainSettings, given: Mapping[str, Any], number: int, before: Any) -> TrainSettings:
    """Return the settings of one stage: those of all, and its own."""
    for key in given:
        name = str(key).partition(".")[0]
        if name in _SHARED:
            raise ConfigError(f"a stage cannot have {name}: {_SHARED[name]}.")
    require_known([str(key).partition(".")[0] for key in given], [one.name for one in fields(settings)], "settings")
    shared = {one.name: getattr(settings, one.name) for one in fields(settings)}
    joined = assign(TrainSettings, shared, (), dict(given))
    return _require_trained(read(TrainSettings, {**joined, "start": before, "stages": [], "run": settings.run / f"{number}"}))


def _require_trained(stage: TrainSettings) -> TrainSettings:
    if stage.method == "SRC":
        raise ConfigError("method SRC trains nothing: leave the stage out.")
    return stage


def _require_parts(stage: TrainSettings) -> None:
    """Build what a stage names for itself, so that a mistake in the last one is told before the first is trained."""
    optimiser = build_optimiser(stage.optimiser, torch.nn.Linear(1, 1))
    build_scheduler(stage.scheduler, optimiser, stage.updates)
    if stage.method == "ZO-SOL":
        build_estimator(stage.estimator)
    if stage.method == "SolverLayer":
        build_vjp(_without_file(stage.vjp))
        require_repeatable_steps(build_solver(stage.solver).spec)
    if stage.method == "FO-SOL" and stage.differentiable_solver is None:
        raise ConfigError("method FO-SOL needs a differentiable_solver: name one, or choose another method.")


def _without_file(vjp: Component) -> Component:
    return replace(vjp, args={key: value for key, value in vjp.args.items() if key != "file"})


def _require_same_folders(settings: TrainSettings, planned: list[Resolved]) -> None:
    """Refuse a folder whose stages are others than those of the settings."""
    names = [stage.settings.run.name for stage in planned]
    for number, folder in enumerate(stage_folders(settings.run)):
        if number >= len(names) or folder.name != names[number]:
            here = names[number] if number < len(names) else f"only {len(names)} of them"
            raise RunError(
                f"{settings.run} holds a run with other stages ({folder.name} is there, and the settings have {here}): name "
                "another folder with --run, or use the stages that it was made with."
            )
