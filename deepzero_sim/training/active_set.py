"""Active set of a run: layer ratios found once and stored in its folder, and the masks drawn from them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch

from deepzero_sim.common.components import Component, Kind, call, load_factory
from deepzero_sim.common.requirements import require_that, require_type
from deepzero_sim.errors import RunError
from deepzero_sim.estimators.sparsity.base import Densities, LayerRatios
from deepzero_sim.estimators.sparsity.grasp import GraSP
from deepzero_sim.estimators.sparsity.random_mask import RandomMask
from deepzero_sim.estimators.sparsity.shape_ratios import ErdosRenyi, Uniform
from deepzero_sim.estimators.sparsity.zo_grasp import ZOGraSP
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.solver.failure_policy import count_failures
from deepzero_sim.training.checkpoints import CHECKPOINT
from deepzero_sim.training.preparation import PREPARATION, RATIOS_FOUND, Entry, Preparation
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.ratios_file import RatiosRecord, load_ratios, record_of, require_ratios_of, save_ratios
from deepzero_sim.training.run_folder import RunFolder

#: Layer ratios that have a short name.
LAYER_RATIOS: dict[str, Callable[..., LayerRatios]] = {
    "uniform": Uniform,
    "erdos-renyi": ErdosRenyi,
    "zo-grasp": ZOGraSP,
    "grasp": GraSP,
}

#: Classes that the settings of layer ratios may name.
RATIOS = Kind.of(LayerRatios, "a deepzero_sim.LayerRatios")


class ActiveSet(NamedTuple):
    """Masks of a run, None if every coordinate is active, and what it took to find its layer ratios."""

    mask: RandomMask | None = None
    spent: Progress = Progress()


def build_ratios(component: Component) -> LayerRatios:
    """Build the layer ratios that settings name, by a short name or another."""
    ratios: LayerRatios = call(LAYER_RATIOS.get(component.name) or load_factory(component.name, RATIOS), component)
    require_type(ratios, LayerRatios, f"layer_ratios {component.name!r} must make a deepzero_sim.LayerRatios")
    return ratios


class RunRatios(NamedTuple):
    """Folder of a run's layer ratios, and what is asked of them.

    Args:
        run: Folder of the run.
        name: Name of the method that finds them.
        sparsity: Share of the scored coordinates that is not active.
    """

    run: RunFolder
    name: str
    sparsity: float


def active_set(
    ratios: RunRatios, find: Callable[[], Densities], model: torch.nn.Module, refresh: int = 1, seed: int = 0
) -> ActiveSet:
    """Find the layer ratios of a run, or read those that it found before: resumed, it goes on with the same bits.

    Args:
        ratios: Run, and the ratios that it asks for.
        find: Function that finds them, for the network as the run starts with it.
        model: Network of the run.
        refresh: Number of training steps that one mask serves.
        seed: Seed of everything that is drawn.

    Raises:
        RunError: The run's ratios are damaged, gone, or of another network, or another process trains in its folder.
    """
    if ratios.sparsity == 0:
        return ActiveSet()
    with ratios.run.in_use():
        record = load_ratios(ratios.run.path) or _find_and_save(ratios, find, model, seed)
    require_ratios_of(record, model, ratios.run.path)
    found = record.densities
    mask = RandomMask(refresh=refresh, seed=seed, densities=found.by_layer)
    spent = Progress(queries=found.queries, solver_steps=found.solver_steps, seconds=record.seconds, failures=record.failures)
    return ActiveSet(mask, spent)


def _find_and_save(ratios: RunRatios, find: Callable[[], Densities], model: torch.nn.Module, seed: int) -> RatiosRecord:
    folder = ratios.run.path
    require_that(
        not (folder / CHECKPOINT).exists(),
        f"{folder} holds a checkpoint but no ratios.json that says how much of each layer it trained: restore that, or "
        "delete the folder to start afresh.",
        RunError,
    )
    started = time.perf_counter()
    with single_threaded(), torch.random.fork_rng(devices=[]):  # what a network draws itself depends on the seed only
        torch.manual_seed(seed)
        densities = find()
    record = record_of(model, ratios.name, ratios.sparsity, densities, time.perf_counter() - started)
    ratios.run.drop_metrics_after(-1)  # of a search that was killed here
    ratios.run.append_failures(0, densities.incidents)
    record = replace(record, failures=count_failures(densities.incidents))
    content = save_ratios(folder, record)
    Preparation(folder / PREPARATION, ratios.run.name).add(Entry(RATIOS_FOUND, content=content))
    return record
