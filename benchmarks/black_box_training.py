"""Training of a corrector by an optimiser that only sees losses, in a run folder from which an interrupted run resumes.

The losses are those of :class:`LoopOracle`, as CGE asks for them: same loss, same batches, a fresh one a generation, on which
all its candidates are judged. A run stores the losses of every generation; to resume, the optimiser gets them again, which
takes no solver steps and leads it the same way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepzero_sim.benchmarks.black_box import BLACK_BOXES, BlackBox, Numbers, Search
from deepzero_sim.cli.settings.bench import WakeMethod
from deepzero_sim.common.components import Component
from deepzero_sim.common.module_state import preserve_state, write
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.batches import UnrolledBatches
from deepzero_sim.errors import NonFiniteError
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.oracle.queries import Displacements
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.training.checkpoints import Checkpoint, storable_copies
from deepzero_sim.training.progress import Progress, progress_of
from deepzero_sim.training.run_folder import RunFolder
from deepzero_sim.training.runs.first_steps import FirstSteps, other_runs
from deepzero_sim.training.runs.settings import Workers
from deepzero_sim.training.runs.trained_run import rollout_loss, starting_network


@dataclass
class BlackBoxSettings:
    """Settings of one training run.

    Args:
        run: Run folder.
        train_data: HDF5 trajectories.
        method: Optimiser.
        start: Run folder whose network this one starts from.
        solver: Coarse solver.
        network: Network of the start.
        generations: Number of generations.
        population: Number of candidates of a generation.
        spread: Standard deviation of a coordinate of the first candidates, in root mean squares of the start's parameters: the
            distance of a candidate from the start counts relative to the start itself.
        batch_size: Number of rollouts that a loss is averaged over.
        unroll: Number of solver steps of a rollout.
        workers: Workers that compute losses.
        seed: Seed of everything that is drawn.
    """

    run: Path
    train_data: Path
    method: WakeMethod
    start: Path
    solver: Component
    network: Component
    generations: int
    population: int
    spread: float
    batch_size: int = 2
    unroll: int = 8
    workers: Workers = field(default_factory=Workers)
    seed: int = 0


def train_black_box(
    settings: BlackBoxSettings, report: Callable[[Progress], None] = lambda progress: None, keep: Collection[int] = ()
) -> Progress:
    """Train a corrector, or go on with the run of that folder.

    Args:
        settings: Settings of the run.
        report: Function that is called after every generation.
        keep: Numbers of generations after which a snapshot of the network is saved.

    Raises:
        DeepZeroError: The settings, data, start or run folder cannot be used.
    """
    solver = build_solver(settings.solver)
    data = trajectories.load(settings.train_data, solver.spec)
    corrector = starting_network(settings.network, settings.start, solver.spec, data, settings.seed)
    start = flat(corrector)
    sigma = settings.spread * float(np.sqrt(np.mean(start**2)))
    search = Search(start, sigma, settings.population, settings.generations, settings.seed)
    black_box = BLACK_BOXES[settings.method](search)
    run = RunFolder(settings.run, settings_to_dict(settings), free=("workers",))
    done = run.load()
    if done is not None:
        return progress_of(done, run.path)
    steps = FirstSteps(solver, settings.solver, data, FailurePolicy())
    first_steps = steps.collect(settings.run, lambda: run, other_runs(settings.run, settings.start))
    batches = UnrolledBatches(data, first_steps, settings.batch_size, settings.unroll, settings.seed)
    with open_executor(settings.workers.backend, settings.workers.count) as executor, run.in_use(), single_threaded():
        oracle = LoopOracle(SolverLoop(solver, corrector, settings.unroll), rollout_loss(solver.spec, data), executor)
        progress = _replay(black_box, run)
        for generation in range(progress.step, settings.generations):
            progress, losses = _generation(black_box, oracle, batches(generation), progress)
            if progress.step in keep:
                run.save_snapshot(_checkpoint(oracle, black_box, progress), progress.step)
            run.append_metrics({**asdict(progress), "losses": [x if math.isfinite(x) else None for x in losses.tolist()]})
            report(progress)
        run.save(_checkpoint(oracle, black_box, progress))
    return progress


def _replay(black_box: BlackBox, run: RunFolder) -> Progress:
    """Pass an optimiser the losses from before the run was interrupted."""
    progress = Progress()
    for line in run.metrics():
        losses = line.pop("losses")
        black_box.ask()
        black_box.tell(np.array([math.inf if loss is None else loss for loss in losses]))
        progress = Progress(**line)
    run.drop_metrics_after(progress.step)  # a line that a kill cut off
    return progress


def _generation(black_box: BlackBox, oracle: LoopOracle, batch: Any, before: Progress) -> tuple[Progress, Numbers]:
    started = time.perf_counter()
    losses, solver_steps = compute_losses(oracle, batch, black_box.ask())
    black_box.tell(losses)
    progress = Progress(
        step=before.step + 1,
        loss=float(np.median(losses)),
        queries=before.queries + len(losses) + 1,
        solver_steps=before.solver_steps + solver_steps,
        seconds=before.seconds + time.perf_counter() - started,
    )
    return progress, losses


def compute_losses(oracle: LoopOracle, batch: Any, candidates: Numbers) -> tuple[Numbers, int]:
    """Compute the losses of candidates on a batch, infinite where a rollout diverges, and the solver steps they took.

    Args:
        oracle: Oracle of the start.
        batch: Batch that it takes.
        candidates: Parameters `(P, d)`.
    """
    per_candidate = oracle.preparation_steps(batch)
    with torch.no_grad():
        prepared = oracle.prepare(batch)
    displacements = torch.from_numpy(candidates - flat(oracle.model))

    def ask(some: torch.Tensor) -> tuple[list[float], int]:
        try:
            answers = oracle.ask(prepared, [Displacements(some)])
        except NonFiniteError:  # one rollout ended the whole batch: find out which
            if len(some) == 1:
                return [math.inf], per_candidate
            halves = [ask(half) for half in some.tensor_split(2)]
            return halves[0][0] + halves[1][0], halves[0][1] + halves[1][1]
        return answers.losses.tolist(), answers.solver_steps

    losses, solver_steps = ask(displacements)
    return np.where(np.isfinite(losses), losses, math.inf), per_candidate + solver_steps


def flat(model: torch.nn.Module) -> Numbers:
    """Concatenate the trained parameters to one vector, `(d,)`, in the order of `named_parameters()`."""
    return torch.cat([p.detach().double().flatten() for p in trainable(model).values()]).numpy()


def _checkpoint(oracle: LoopOracle, black_box: BlackBox, progress: Progress) -> Checkpoint:
    """Make a checkpoint of the network at the optimiser's estimate of the minimum."""
    parameters = trainable(oracle.model)
    parts = torch.split(torch.from_numpy(black_box.best), [p.numel() for p in parameters.values()])
    with preserve_state(oracle.model):
        write(oracle.model, {name: part.view(p.shape) for (name, p), part in zip(parameters.items(), parts, strict=True)})
        tensors = storable_copies({f"network.{name}": tensor for name, tensor in oracle.model.state_dict().items()})
    return Checkpoint(tensors, {"progress": asdict(progress)})
