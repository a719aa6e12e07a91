"""The active coordinates of a run: layer ratios found once and kept in its folder, and the masks drawn from them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch

from deepzero_sim.common.components import Component, Wanted, call, load_factory
from deepzero_sim.errors import ConfigError, RunError
from deepzero_sim.estimators.sparsity import Densities, ErdosRenyi, GraSP, LayerRatios, RandomMask, Uniform, ZOGraSP
from deepzero_sim.execution.executors import single_threaded
from deepzero_sim.solver.failure_policy import FailureLog, counted
from deepzero_sim.training.checkpoint_file import CHECKPOINT
from deepzero_sim.training.preparation import PREPARATION, RATIOS_FOUND, Entry, Preparation
from deepzero_sim.training.ratios_file import RatiosRecord, load_ratios, record_of, require_ratios_of, save_ratios
from deepzero_sim.training.run_folder import RunFolder
from deepzero_sim.training.trainer import Progress

#: The layer ratios that have a short name.
LAYER_RATIOS: dict[str, Callable[..., LayerRatios]] = {
    "uniform": Uniform,
    "erdos-renyi": ErdosRenyi,
    "zo-grasp": ZOGraSP,
    "grasp": GraSP,
}

#: What the settings of layer ratios may name.
RATIOS = Wanted.of(LayerRatios, "a deepzero_sim.LayerRatios")


class ActiveSet(NamedTuple):
    """The masks of a run, None if every coordinate is active, and what it took to find its layer ratios."""

    mask: RandomMask | None = None
    spent: Progress = Progress()


def build_ratios(component: Component) -> LayerRatios:
    """The layer ratios that settings name.

    Raises:
        ConfigError: there are none of that name, or they cannot be made.
    """
    ratios = call(LAYER_RATIOS.get(component.name) or load_factory(component.name, RATIOS), component)
    if not isinstance(ratios, LayerRatios):
        raise ConfigError(f"layer_ratios {component.name!r} must make a deepzero_sim.LayerRatios, not {type(ratios).__name__}.")
    return ratios


class RunRatios(NamedTuple):
    """Where the layer ratios of a run are kept, and what is asked of them.

    Args:
        run: the folder.
        name: what they come from.
        sparsity: share of the scored coordinates that is not active.
    """

    run: RunFolder
    name: str
    sparsity: float


def active_set(
    kept: RunRatios,
    find: Callable[[], Densities],
    model: torch.nn.Module,
    refresh: int = 1,
    seed: int = 0,
    log: FailureLog | None = None,
) -> ActiveSet:
    """Find the layer ratios of a run, or read those that it found before: resumed, it goes on with the same bits.

    Args:
        kept: the run.
        find: finds them, for the network as the run starts with it.
        model: the network.
        refresh: training steps that one mask serves.
        seed: of everything that is drawn.
        log: where it is noted what fails while they are found; None if nothing does.

    Raises:
        RunError: the run's ratios are damaged, gone, or of another network, or another process trains in its folder.
    """
    if kept.sparsity == 0:
        return ActiveSet()
    with kept.run.in_use():
        record = load_ratios(kept.run.path) or _found(kept, find, model, seed, log or FailureLog())
    require_ratios_of(record, model, kept.run.path)
    found = record.densities
    mask = RandomMask(refresh=refresh, seed=seed, densities=found.by_layer)
    spent = Progress(queries=found.queries, solver_steps=found.solver_steps, seconds=record.seconds, failures=record.failures)
    return ActiveSet(mask, spent)


def _found(kept: RunRatios, find: Callable[[], Densities], model: torch.nn.Module, seed: int, log: FailureLog) -> RatiosRecord:
    folder = kept.run.path
    if (folder / CHECKPOINT).exists():
        raise RunError(
            f"{folder} holds a checkpoint but no ratios.json that says how much of each layer it trained: restore that, or "
            "delete the folder to start afresh."
        )
    noted = log.take()
    started = time.perf_counter()
    with single_threaded(), torch.random.fork_rng(devices=[]):  # what a network draws itself depends on the seed only
        torch.manual_seed(seed)
        densities = find()
    record = record_of(model, kept.name, kept.sparsity, densities, time.perf_counter() - started)
    happened = log.take()
    log.add(noted)
    kept.run.drop_metrics_after(-1)  # of a search that was killed here
    kept.run.append_failures(0, happened.incidents)
    steps = densities.solver_steps + happened.extra_steps
    densities = replace(densities, solver_steps=steps)
    record = replace(record, densities=densities, failures=counted(happened.incidents))
    content = save_ratios(folder, record)
    Preparation(folder / PREPARATION, kept.run.name).add(Entry(RATIOS_FOUND, content=content))
    return record
