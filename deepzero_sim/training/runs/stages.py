"""Stages: trainings one after the other, each from the network of the one before, in folders of their own within one.

`RUN/1-NON`, `RUN/2-SolverLayer` and so on are runs like all others: each goes on where it was, and one that has ended is not
trained again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import assign, read, require_settings
from deepzero_sim.coupling.layer import require_repeatable_steps
from deepzero_sim.datasets.batches import require_long_enough
from deepzero_sim.datasets.opening import open_trajectories
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DataError, RunError
from deepzero_sim.solver.build import build_solver
from deepzero_sim.training.build import build_estimator, build_optimiser, build_scheduler, build_vjp
from deepzero_sim.training.checkpoints import CONFIG, read_settings
from deepzero_sim.training.runs.defaults import Resolved, choose_method, count_held_back, resolve, steps_of_rollout
from deepzero_sim.training.runs.folders import stage_folders, within
from deepzero_sim.training.runs.held_back import divide, suitable_count
from deepzero_sim.training.runs.origin import in_words_of_run, with_whole_paths
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.unrolls import Unrolls
from deepzero_sim.training.runs.validation import ROLLOUTS, TRAINING_ROLLOUTS, require_steps, suitable_steps

#: Settings that no stage has for itself, and why.
_SHARED = {
    "run": "stages lie in folders of their own below the run's",
    "start": "every stage but the first starts from the one before, and the first from a start that is given outside stages",
    "stages": "a stage has none itself",
    **dict.fromkeys(
        ("solver", "differentiable_solver", "network", "train_data", "data_may_differ"),
        "all stages have one solver, one network and the same data: give it outside stages",
    ),
    **dict.fromkeys(
        ("validation_data", "held_back", "held_back_simulations", "validate_steps"),
        "all stages are measured on the same rollouts, so that their errors compare: give it outside stages",
    ),
}


def plan(settings: TrainSettings) -> list[Resolved]:
    """Resolve settings to those of each training, one after the other: of its stages, or of the one that it is.

    Raises:
        DeepZeroError: A stage contradicts the others, or has something that cannot be used.
    """
    if not settings.stages:
        begun = in_words_of_run(settings)
        with within(begun.origin):
            return [resolve(begun.settings)]
    if (settings.run / CONFIG).exists():
        raise RunError(f"{settings.run} holds a run without stages: name another folder with --run, or leave out stages.")
    known = stage_folders(settings.run)
    begun = in_words_of_run(settings, known[0] if known else None)
    with within(begun.origin):
        planned = _plan_stages(begun.settings, read_settings(known[0]) if known else {})
    if begun.origin is None:
        return planned
    return [_as_begun(stage, begun.origin) for stage in planned]


def _as_begun(stage: Resolved, origin: Path) -> Resolved:
    """Return a stage of a run that was begun in another folder: one that was not begun itself has whole paths."""
    if (stage.settings.run / CONFIG).exists():
        return stage
    return stage._replace(settings=with_whole_paths(stage.settings, origin))


def _plan_stages(settings: TrainSettings, recorded: Mapping[str, Any]) -> list[Resolved]:
    """Resolve settings with stages to those of each; the folder of the first has recorded settings, or there is none."""
    spec = build_solver(settings.solver).spec
    data = open_trajectories(settings.train_data, spec, settings.data_may_differ)
    settings, said = _hold_back(settings, data, recorded)
    division = divide(data, settings, recorded)
    length = settings.validate_steps
    settings = replace(settings, held_back_simulations=list(division.numbers) or None, validate_steps=None)
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
        # an open rate is chosen when the stage begins: it depends on what the one before it has come to
        resolved = resolved if number == 1 else replace(resolved, optimiser=named.optimiser)
        planned.append(Resolved(resolved, (*(said if number == 1 else ()), *choices)))
    _require_same_folders(settings, planned)
    _require_long_enough(planned, division.trained)
    measured = division.held_back
    if settings.validation_data is not None:
        measured = open_trajectories(settings.validation_data, spec, settings.data_may_differ)
    seen = measured is None
    return _choose_steps(planned, division.trained if measured is None else measured, length, recorded, seen=seen)


def _hold_back(
    settings: TrainSettings, data: Trajectories, recorded: Mapping[str, Any]
) -> tuple[TrainSettings, tuple[str, ...]]:
    """Choose how many simulations are held back, where the settings do not say; a run goes on with as many as it began with."""
    settings = count_held_back(settings)
    if settings.held_back is not None or settings.validation_data is not None:
        return settings, ()
    simulations = data.frames.shape[0]
    count = int(recorded.get("held_back", 0)) if recorded else suitable_count(data)
    too_few = (
        f"{simulations} {'simulation is' if simulations == 1 else 'simulations are'} too few to hold one back: stages are "
        "measured on the training data, and hand on their last network; give validation_data to have the best one."
    )
    return replace(settings, held_back=count), () if count else (too_few,)


def _require_long_enough(planned: list[Resolved], data: Trajectories) -> None:
    """Refuse a stage whose rollouts are longer than the data, before the first stage is trained."""
    for number, stage in enumerate(planned, start=1):
        try:
            require_long_enough(data, steps_of_rollout(stage.settings))
        except DataError as error:
            raise DataError(f"stage {number}: {error}") from error


def _choose_steps(
    planned: list[Resolved], data: Trajectories, given: int | None, recorded: Mapping[str, Any], *, seen: bool
) -> list[Resolved]:
    """Choose how far all stages roll out what they are measured on, where the settings do not say.

    Args:
        planned: Settings of the stages.
        data: Trajectories that they are measured on.
        given: Number of steps that the settings say; None if they do not.
        recorded: Settings that the folder of the first stage has recorded; empty if there is none.
        seen: True if these are the training data.
    """

    def keeps(settings: TrainSettings) -> bool:  # measured on nothing, or as its run began
        return (seen and settings.start is None) or (given is None and (settings.run / CONFIG).exists())

    longest = max(Unrolls.of(stage.settings.unroll).longest for stage in planned)
    length = given or recorded.get("validate_steps") or suitable_steps(data, longest, TRAINING_ROLLOUTS if seen else ROLLOUTS)
    require_steps(data, length)
    return [stage if keeps(stage.settings) else _with_steps(stage, length) for stage in planned]


def _with_steps(stage: Resolved, length: int) -> Resolved:
    return stage._replace(settings=replace(stage.settings, validate_steps=length))


def _stage(settings: TrainSettings, given: Mapping[str, Any], number: int, before: Any) -> TrainSettings:
    """Return the settings of one stage: those of all, and its own."""
    for key in given:
        name = str(key).partition(".")[0]
        if name in _SHARED:
            raise ConfigError(f"a stage cannot have {name}: {_SHARED[name]}.")
    require_settings([str(key).partition(".")[0] for key in given], TrainSettings, "settings")
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
        require_repeatable_steps(build_solver(stage.solver).spec, build_vjp(_without_file(stage.vjp)))
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
