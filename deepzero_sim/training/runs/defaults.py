"""Choices that a training makes where its settings leave them open: method, learning rate, interval of validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from deepzero_sim.common.components import Component
from deepzero_sim.common.module_state import preserve_state
from deepzero_sim.common.types import is_number
from deepzero_sim.errors import ConfigError
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.build import build_estimator
from deepzero_sim.training.checkpoints import CHECKPOINT, CONFIG, load_checkpoint, read_settings
from deepzero_sim.training.runs.folders import last_stage
from deepzero_sim.training.runs.settings import SUITABLE, MethodName, TrainSettings
from deepzero_sim.training.runs.trained_run import build_corrector, run_settings
from deepzero_sim.training.runs.unrolls import Unrolls
from deepzero_sim.training.validation_record import record_of

#: Learning rates of Adam, as docs/training/stages.md measures them: of single steps, of rollouts from an untrained network, and
#: of a network that goes on from another run, which a larger rate throws off in its first updates.
SINGLE_STEP_RATE, COLD_RATE, WARM_RATE = 3e-3, 1e-3, 3e-4


class Resolved(NamedTuple):
    """Settings without open choices, and sentences on what was chosen."""

    settings: TrainSettings
    choices: tuple[str, ...] = ()


def resolve(settings: TrainSettings) -> Resolved:
    """Choose what the settings of one training leave open.

    Raises:
        DeepZeroError: The solver or the network cannot be built, or settings contradict each other.
    """
    settings = count_held_back(settings)
    if settings.validation_data is not None and settings.held_back:
        raise ConfigError("held_back and validation_data both say what the network is validated on: leave out one of them.")
    validated = settings.validation_data is not None or bool(settings.held_back)
    if settings.validate_every is not None and not validated and not settings.stages:
        raise ConfigError("validate_every needs something to validate on: give held_back or validation_data, or leave it out.")
    if settings.validate_steps is not None and not validated and not settings.stages and settings.start is None:
        raise ConfigError("validate_steps needs something to validate on: give held_back or validation_data, or leave it out.")
    method, choices = choose_method(settings)
    settings = replace(settings, method=method, held_back=settings.held_back or 0)
    optimiser, said = _with_rate(settings, method)
    every = _validate_every(settings) if validated else None
    return Resolved(replace(settings, optimiser=optimiser, validate_every=every), (*choices, *said))


def count_held_back(settings: TrainSettings) -> TrainSettings:
    """Return settings that say how many simulations are held back where they say which, or where none can be.

    Raises:
        ConfigError: They say another number.
    """
    chosen = settings.held_back_simulations
    if any(one.per_simulation for one in settings.train_params.values()):
        if settings.held_back or chosen or settings.validation_data is not None:
            raise ConfigError(
                "train_params with a value per simulation say nothing of simulations that are held back: leave out held_back, "
                "held_back_simulations and validation_data."
            )
        return replace(settings, held_back=0)
    if chosen is None:
        return settings
    if settings.held_back not in (None, len(chosen)):
        raise ConfigError(
            f"held_back says {settings.held_back}, but held_back_simulations names {len(chosen)} simulations: leave out "
            "held_back."
        )
    return replace(settings, held_back=len(chosen))


def unrolls_of(settings: TrainSettings) -> Unrolls:
    """Return the solver steps of rollouts in training: NON always takes one."""
    return Unrolls.of(1 if settings.method == "NON" else settings.unroll)


def steps_of_rollout(settings: TrainSettings) -> int:
    """Return the solver steps of the longest rollouts in training."""
    return unrolls_of(settings).longest


def suitable_rate(method: MethodName, *, started: bool) -> float:
    """Return the learning rate of Adam that suits a method.

    Args:
        method: Way to train.
        started: True if the network comes from another run, and is a trained one.
    """
    if started:
        return WARM_RATE
    return SINGLE_STEP_RATE if method == "NON" else COLD_RATE


def _with_rate(settings: TrainSettings, method: MethodName) -> tuple[Component, tuple[str, ...]]:
    """Return the optimiser with the suitable rate, and a sentence on that where the start is no trained network.

    A run goes on with the rate that it was begun with.
    """
    optimiser = settings.optimiser
    if SUITABLE not in [value for value in optimiser.args.values() if isinstance(value, str)]:
        return optimiser, ()
    if method == "ZO-SOL" and build_estimator(settings.estimator).gives_steps:
        said = f"{settings.estimator.name} gives steps, which torch.optim.SGD with lr 1 takes; --optimiser.name names another."
        return Component("torch.optim.SGD", {"lr": 1.0}), (said,)
    begun = _rates_in_record(settings)
    untrained = not begun and settings.start is not None and is_untrained(settings.start)
    rate = suitable_rate(method, started=settings.start is not None and not untrained)
    args = {key: begun.get(key, rate) if value == SUITABLE else value for key, value in optimiser.args.items()}
    said = f"the network of {settings.start} is an untrained one, and {method} begins with the rate of such, {rate:g}."
    return replace(optimiser, args=args), (said,) if untrained else ()


def _rates_in_record(settings: TrainSettings) -> dict[str, float]:
    """Return the numbers among the arguments of the optimiser that the run was begun with; none of a new run."""
    recorded = read_settings(settings.run).get("optimiser") if (settings.run / CONFIG).exists() else None
    args = recorded.get("args") if isinstance(recorded, Mapping) else None
    return {key: value for key, value in args.items() if is_number(value)} if isinstance(args, Mapping) else {}


def is_untrained(start: Path) -> bool:
    """Tell whether the network that a run hands on is untrained: its best one is that before the first update.

    Args:
        start: Run folder; one that is not there yet hands on a trained network.

    Raises:
        RunError: Its checkpoint is damaged.
    """
    folder, seen = last_stage(start), set[Path]()
    while (folder / CHECKPOINT).exists() and folder.resolve() not in seen:
        seen.add(folder.resolve())
        record = record_of(load_checkpoint(folder), folder)
        if record is None or record.best is None or record.best.step > 0:
            return False
        before = run_settings(folder).start
        if before is None:
            return True
        folder = last_stage(before)
    return False


def _validate_every(settings: TrainSettings) -> int:
    """Return the updates between measurements: as given, as the run began with, or a tenth of all."""
    if settings.validate_every is not None:
        return settings.validate_every
    recorded = read_settings(settings.run).get("validate_every") if (settings.run / CONFIG).exists() else None
    return recorded if isinstance(recorded, int) else max(1, settings.updates // 10)


def choose_method(settings: TrainSettings) -> tuple[MethodName, tuple[str, ...]]:
    """Return the method of a training, and a sentence on why if it is not named."""
    if settings.method != "suitable":
        return settings.method, ()
    spec = build_solver(settings.solver).spec
    differentiable = is_differentiable(build_corrector(settings.network, spec, settings.seed), spec)
    method, why = suitable_method(started=settings.start is not None, spec=spec, differentiable=differentiable)
    return method, (f"method {method}: {why}; --method names another.",)


def suitable_method(*, started: bool, spec: SolverSpec, differentiable: bool) -> tuple[MethodName, str]:
    """Return the cheapest method that suits, and why.

    Args:
        started: True if the network comes from another run.
        spec: Spec of the solver.
        differentiable: True if torch can differentiate the network.
    """
    if not differentiable:
        return "ZO-SOL", "torch cannot differentiate the network, so its gradient is taken from losses"
    if not started:
        return "NON", "single steps are the cheapest way to begin"
    if not spec.deterministic:
        return (
            "DETACHED",
            "through the loop; differences of a solver that is not deterministic would say nothing of it",
        )
    return "SolverLayer", "through the loop, from the network of start"


def is_differentiable(corrector: nn.Module, spec: SolverSpec) -> bool:
    """Tell whether torch gives a gradient of a corrector; one that raises an error is left to training, which reports it."""
    if not any(parameter.requires_grad for parameter in corrector.parameters()):  # trained_params may be trained alone
        return True
    dtype = getattr(torch, spec.dtype)
    states, params = torch.zeros(1, *spec.state_shape, dtype=dtype), torch.zeros(1, len(spec.parameters), dtype=dtype)
    try:
        with torch.enable_grad(), single_threaded(), preserve_state(corrector), torch.random.fork_rng(devices=[]):
            made = corrector(states, params if spec.parameters else None)
    except Exception:
        return True
    return bool(getattr(made, "requires_grad", True))
