"""Runs that `bench wake` compares, and their differences from the demo's.

All start from the network of one seed's NON, with the same data, loss and batches. Those that take gradients have the same
optimiser and schedule too, except for RGE's rate.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import torch

from deepzero_sim.benchmarks.black_box import BLACK_BOXES, usual_population
from deepzero_sim.benchmarks.black_box_training import BlackBoxSettings
from deepzero_sim.benchmarks.seed_folders import Folders
from deepzero_sim.cli import demo
from deepzero_sim.cli.settings.bench import BenchWakeSettings, WakeMethod
from deepzero_sim.common.components import Component
from deepzero_sim.estimators.sparsity import RandomMask
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.solver.build import build_solver
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.trained_run import build_corrector

#: Settings of any run.
Run: TypeAlias = TrainSettings | BlackBoxSettings

#: Methods with a gradient past the solver, and their differences from the demo's run of the method that they name.
PAST_THE_SOLVER: dict[WakeMethod, dict[str, Any]] = {
    "Detached": {"method": "DETACHED"},
    "StraightThrough": {"method": "STRAIGHT-THROUGH"},
    "Coloured": {"method": "SolverLayer", "vjp": Component("deepzero_sim.vjp.Coloured", {"radius": 2})},
    "ReferenceJacobian": {"method": "SolverLayer"},
    "FO-SOL": {"method": "FO-SOL"},
}

#: Forward differences cost half of central ones. Near NON's minimum the loss curves so much that they need a small step:
#: there the cosine to the true gradient is 0.92 at 1e-3, 0.999 at 1e-4, 0.9998 at 1e-5 (benchmarks/step_size.py).
CGE = Component("deepzero_sim.CGE", {"step_size": 1e-5, "scheme": "forward"})

#: Share of the weights that CGE leaves out of a gradient.
SPARSITY = 0.9

#: Share of a slope that CoCD keeps from update to update: the best of those tried from seed 0's NON, errors of 0.075 with 0.5,
#: 0.17 with 0.93, and 0.078 and 0.079 with these at a rate of 5e-4.
STALE = 0.5

#: Ratios from gradients by coordinates: the manual says why.
ZO_GRASP = Component("zo-grasp", {"gradient": "cge", "step_size": 1e-3})

#: Length of RGE's steps. Of forward differences along 20 directions from NON's network, those at 1e-4 were the nearest to the
#: exact slopes (relative error 0.84 at 1e-2, 0.08 at 1e-3, 0.008 at 1e-4, 0.04 at 1e-5).
RGE_STEP = 1e-4

#: RGE's learning rate: its gradients are so noisy that with the others' rate, 2e-3, it reached an error of 0.084 from seed 0's
#: NON after 40,000 solver steps, with this one 0.072.
RGE_RATE = 5e-4

#: Arguments of RGE in place of the usual ones: directions of all parameters, of rank one in a layer, and with FZOO's step size.
RGE: dict[WakeMethod, dict[str, Any]] = {
    "RGE": {},
    "RGE-rows": {"directions": "rows"},
    "FZOO": {"directions": "rows", "normalise": True},
}

#: Length of an update of FZOO, at first.
FZOO_LENGTH = 0.01

#: Estimators that give steps, for `torch.optim.SGD`.
STEPS: dict[WakeMethod, Component] = {
    "GaussNewton": Component("deepzero_sim.GaussNewton"),
    "EKI": Component("deepzero_sim.EKI"),
    "ESMDA": Component("deepzero_sim.benchmarks.esmda.ESMDA"),
}

#: Members of the smoother, and the spread of its first ones, in root mean squares of the start's parameters.
MEMBERS, ESMDA_SPREAD = 100, 0.02

#: Standard deviation of a coordinate of the first candidates, in root mean squares of the start's parameters. Each is the best
#: of those tried from seed 0's NON (error 0.087): CMA-ES reached 0.123, 0.073 and 0.073 with 0.1, 0.02 and 0.005 after 40,000
#: solver steps, 0.071 and 0.083 with the last two after 20,000; ES 0.135 and 0.081 with 0.1 and 0.02 after 40,000 (at a rate
#: of 2e-3); Nevergrad 0.24 and 0.21 with 0.1 and 0.02 after 40,000, and 0.089 with 0.004 after 20,000.
SPREADS: dict[WakeMethod, float] = {"CMA-ES": 0.02, "Nevergrad": 0.004, "ES": 0.02}


def start_run(settings: BenchWakeSettings, folders: Folders) -> TrainSettings:
    """Make the settings of NON, from whose network all others start."""
    return _as_in_the_demo(settings, folders, "NON", {"method": "NON"})


def run_of(method: WakeMethod, settings: BenchWakeSettings, folders: Folders) -> Run:
    """Make the settings of a method's run."""
    if method in PAST_THE_SOLVER:
        run = _as_in_the_demo(settings, folders, method, PAST_THE_SOLVER[method])
        return replace(run, updates=settings.updates)
    if method in BLACK_BOXES:
        return _black_box(method, settings, folders)
    return _loss_based(method, settings, folders)


def updates_of(run: Run) -> int:
    """Number of updates of the network, or of generations."""
    return run.generations if isinstance(run, BlackBoxSettings) else run.updates


def _as_in_the_demo(settings: BenchWakeSettings, folders: Folders, name: str, changes: dict[str, Any]) -> TrainSettings:
    run = demo.training_settings(folders.runs, folders.train_data, changes["method"], settings.workers)
    run = replace(run, run=folders.runs / name, network=settings.network, seed=folders.seed, tensorboard=False, **changes)
    return run if name == "NON" else replace(run, batch_size=settings.batch_size, unroll=settings.unroll)


def _loss_based(method: WakeMethod, settings: BenchWakeSettings, folders: Folders) -> TrainSettings:
    """Make a run with as many updates as the solver steps suffice for; RGE asks for as many losses an update as CGE."""
    if method in STEPS:
        return _by_steps(method, settings, folders)
    like_cge = {"method": "ZO-SOL", "sparsity": SPARSITY, "estimator": CGE, "optimiser": demo.LAZY}
    run = _as_in_the_demo(settings, folders, method, like_cge)
    network = _network(run)
    mask = RandomMask(SPARSITY)(network, 0)
    assert mask is not None
    queries = sum(int(active.sum()) for active in mask.values())
    left = settings.query_steps
    if method == "CGE-ZO-GraSP":
        weights = sum(p.numel() for p in trainable(network).values() if p.dim() > 1)
        left -= 2 * (weights + 1) * _steps_of_a_loss(settings)  # the cost of the ratios
        run = replace(run, layer_ratios=ZO_GRASP)
    if method == "CoCD":
        turns = Component("deepzero_sim.CoCD", {**CGE.args, "budget": queries, "decay": STALE})
        run = replace(run, sparsity=0.0, estimator=turns)
    if method in RGE:
        args = {"step_size": RGE_STEP, "num_directions": queries, "scheme": "forward", **RGE[method]}
        run = replace(run, sparsity=0.0, estimator=Component("deepzero_sim.RGE", args), optimiser=_optimiser_of(method))
    return replace(run, updates=_updates(settings, left, queries))


def _by_steps(method: WakeMethod, settings: BenchWakeSettings, folders: Folders) -> TrainSettings:
    """Make a run of an estimator that gives steps, which the optimiser takes as they are."""
    run = _as_in_the_demo(settings, folders, method, {"method": "ZO-SOL"})
    coordinates = sum(p.numel() for p in trainable(_network(run)).values())
    queries = {"GaussNewton": coordinates, "EKI": coordinates + 1}.get(method, MEMBERS)
    updates = _updates(settings, settings.query_steps, queries)
    args = {"members": MEMBERS, "spread": ESMDA_SPREAD, "assimilations": updates} if method == "ESMDA" else STEPS[method].args
    return replace(run, estimator=replace(STEPS[method], args=args), updates=updates)


def _optimiser_of(method: WakeMethod) -> Component:
    """Return the optimiser of random gradients: slower than the others', or of a given length if they are normalised."""
    if method == "FZOO":
        return Component("torch.optim.SGD", {"lr": FZOO_LENGTH})
    return Component(demo.LAZY.name, {**demo.LAZY.args, "lr": RGE_RATE})


def _updates(settings: BenchWakeSettings, steps: int, queries: int) -> int:
    """Count the updates of so many queries, and one loss more, that so many solver steps suffice for."""
    return max(1, steps // ((queries + 1) * _steps_of_a_loss(settings)))


def _black_box(method: WakeMethod, settings: BenchWakeSettings, folders: Folders) -> BlackBoxSettings:
    start = start_run(settings, folders)
    population = usual_population(sum(p.numel() for p in trainable(_network(start)).values()))
    # one loss more a generation: the start's, which candidates are compared with
    generations = _updates(settings, settings.query_steps, population)
    return BlackBoxSettings(
        run=folders.runs / method,
        train_data=folders.train_data,
        method=method,
        start=start.run,
        solver=start.solver,
        network=settings.network,
        generations=generations,
        population=population,
        spread=SPREADS[method],
        batch_size=settings.batch_size,
        unroll=settings.unroll,
        workers=settings.workers,
        seed=folders.seed,
    )


def _network(run: TrainSettings) -> torch.nn.Module:
    return build_corrector(run.network, build_solver(run.solver).spec, run.seed)


def _steps_of_a_loss(settings: BenchWakeSettings) -> int:
    """Number of solver steps of a loss: the first of a rollout is known."""
    return settings.batch_size * (settings.unroll - 1)
