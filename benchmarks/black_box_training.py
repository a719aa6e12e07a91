"""Training a corrector by an optimiser that only sees losses, in a run folder that an interrupted run goes on in.

The losses are those of :class:`LoopOracle`, as CGE asks for them: same loss, same batches, a fresh one a generation, on which
all its candidates are judged. A run keeps the losses of every generation; to go on, the optimiser is told them again, which
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
from deepzero_sim.cli.first_steps import FirstSteps, other_runs
from deepzero_sim.cli.runs import rollout_loss, starting_network
from deepzero_sim.cli.settings import WakeMethod, Workers
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
from deepzero_sim.training.checkpoint_file import Checkpoint, storable_copies
from deepzero_sim.training.progress import Progress, progress_of
from deepzero_sim.training.run_folder import RunFolder


@dataclass
class BlackBoxSettings:
    """One training run.

    Args:
        run: the run folder.
        train_data: HDF5 trajectories.
        method: the optimiser.
        start: a run folder whose network this one starts from.
        solver: the coarse solver.
        network: of the start.
        generations: how many.
        population: candidates of a generation.
        spread: standard deviation of a coordinate of the first candidates, in root mean squares of the start's parameters: what
            counts is how far a candidate is from the start compared with the start itself.
        batch_size: rollouts a loss is averaged over.
        unroll: solver steps of a rollout.
        workers: where losses are found.
        seed: fixes everything that is drawn.
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
        settings: the run.
        report: called after every generation.
        keep: numbers of generations after which the network is kept, as one of the run's snapshots.

    Raises:
        DeepZeroError: in words.
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
    kept = FirstSteps(solver, settings.solver, data, FailurePolicy())
    first_steps = kept.collect(settings.run, lambda: run, other_runs(settings.run, settings.start))
    batches = UnrolledBatches(data, first_steps, settings.batch_size, settings.unroll, settings.seed)
    with open_executor(settings.workers.backend, settings.workers.count) as executor, run.in_use(), single_threaded():
        oracle = LoopOracle(SolverLoop(solver, corrector, settings.unroll), rollout_loss(data), executor)
        progress = _replayed(black_box, run)
        for generation in range(progress.step, settings.generations):
            progress, losses = _generation(black_box, oracle, batches(generation), progress)
            if progress.step in keep:
                run.save_snapshot(_checkpoint(oracle, black_box, progress), progress.step)
            run.append_metrics({**asdict(progress), "losses": [x if math.isfinite(x) else None for x in losses.tolist()]})
            report(progress)
        run.save(_checkpoint(oracle, black_box, progress))
    return progress


def _replayed(black_box: BlackBox, run: RunFolder) -> Progress:
    """Tell an optimiser what was found out before the run was interrupted."""
    progress = Progress()
    for line in run.metrics():
        losses = line.pop("losses")
        black_box.ask()
        black_box.tell(np.array([math.inf if loss is None else loss for loss in losses]))
        progress = Progress(**line)
    run.drop_metrics_after(progress.step)  # what was cut off by a kill
    return progress


def _generation(black_box: BlackBox, oracle: LoopOracle, batch: Any, before: Progress) -> tuple[Progress, Numbers]:
    started = time.perf_counter()
    losses, solver_steps = losses_of(oracle, batch, black_box.ask())
    black_box.tell(losses)
    progress = Progress(
        step=before.step + 1,
        loss=float(np.median(losses)),
        queries=before.queries + len(losses) + 1,
        solver_steps=before.solver_steps + solver_steps,
        seconds=before.seconds + time.perf_counter() - started,
    )
    return progress, losses


def losses_of(oracle: LoopOracle, batch: Any, candidates: Numbers) -> tuple[Numbers, int]:
    """The losses of candidates on a batch, infinite where a rollout leaves the finite numbers, and the solver steps they took.

    Args:
        oracle: of the start.
        batch: what it takes.
        candidates: `(P, d)`.
    """
    per_candidate = oracle.preparation_steps(batch)
    with torch.no_grad():
        prepared = oracle.prepare(batch)
    moves = torch.from_numpy(candidates - flat(oracle.model))

    def asked(some: torch.Tensor) -> tuple[list[float], int]:
        try:
            answers = oracle.ask(prepared, [Displacements(some)])
        except NonFiniteError:  # one rollout ends the whole batch: look which one it was
            if len(some) == 1:
                return [math.inf], per_candidate
            halves = [asked(half) for half in some.tensor_split(2)]
            return halves[0][0] + halves[1][0], halves[0][1] + halves[1][1]
        return answers.losses.tolist(), answers.solver_steps

    losses, solver_steps = asked(moves)
    return np.where(np.isfinite(losses), losses, math.inf), per_candidate + solver_steps


def flat(model: torch.nn.Module) -> Numbers:
    """The trained parameters as one vector, `(d,)`, in the order of `named_parameters()`."""
    return torch.cat([p.detach().double().flatten() for p in trainable(model).values()]).numpy()


def _checkpoint(oracle: LoopOracle, black_box: BlackBox, progress: Progress) -> Checkpoint:
    """Of the network where the optimiser takes the minimum to lie."""
    parameters = trainable(oracle.model)
    parts = torch.split(torch.from_numpy(black_box.best), [p.numel() for p in parameters.values()])
    with preserve_state(oracle.model):
        write(oracle.model, {name: part.view(p.shape) for (name, p), part in zip(parameters.items(), parts, strict=True)})
        tensors = storable_copies({f"network.{name}": tensor for name, tensor in oracle.model.state_dict().items()})
    return Checkpoint(tensors, {"progress": asdict(progress)})
