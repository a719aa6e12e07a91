"""Trainings of correctors on a flow, coarse against fine: from one start by every method, evaluated on unseen simulations.

Every run has a folder of its own, from which an interrupted one resumes, and its result is kept beside it, so that the report
can be made of what is there.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deepzero_sim.benchmarks.flows.catalogue import Flow
from deepzero_sim.benchmarks.flows.measurements import read_sealed, write_sealed
from deepzero_sim.benchmarks.flows.methods import START, collect_warnings, missing, run_of, start_run
from deepzero_sim.benchmarks.seed_folders import Folders
from deepzero_sim.cli.console import console, training_bar
from deepzero_sim.cli.settings.bench import BenchFlowsSettings, FlowName
from deepzero_sim.coupling.evaluation import Evaluation
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DivergedError, NonFiniteError
from deepzero_sim.models.corrector import NoCorrection
from deepzero_sim.solver.contract import Solver
from deepzero_sim.training.runs.comparison import cost, evaluate_on
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.trained_run import trained_loop
from deepzero_sim.training.runs.training import train

#: The solver alone, which is not trained.
ALONE = "SRC"

#: Sentence on a method that a flow leaves out.
TOO_SLOW = "its products take so much longer than steps of the solver that it was not trained with."


@dataclass(frozen=True)
class Outcome:
    """Outcome of a training, or of the solver alone.

    Args:
        method: Name of the method.
        seed: Seed of weights and batches.
        errors: Mean absolute error after each step of the rollouts, over unseen simulations, in standard deviations of the
            reference; None from where a rollout diverged.
        solver_steps: Solver steps of training, those of the start and the first step from every frame included.
        seconds: Seconds of training, likewise.
        why: Sentence on why there is no result; empty if there is one.
        warnings: Sentences that training warned with.
        at: Step whose error counts, from 1 on; all of them if None.
    """

    method: str
    seed: int
    errors: list[float | None]
    solver_steps: int = 0
    seconds: float = 0.0
    why: str = ""
    warnings: list[str] = field(default_factory=list)
    at: int | None = None

    @property
    def error(self) -> float:
        """Error at the step that counts, or mean over the steps; infinite if a rollout or the training diverged."""
        if self.at is not None:
            reached = self.errors[self.at - 1] if self.errors else None
            return math.inf if reached is None else reached
        known = [error for error in self.errors if error is not None]
        return sum(known) / len(known) if len(known) == len(self.errors) > 0 else math.inf


@dataclass(frozen=True, eq=False)
class Task:
    """Trainings on a flow.

    Args:
        name: Name of the flow.
        flow: The flow.
        solver: Its coarse solver.
        train_data: File of the training data.
        test: Unseen simulations.
    """

    name: FlowName
    flow: Flow
    solver: Solver
    train_data: Path
    test: Trajectories


def train_all(task: Task, settings: BenchFlowsSettings) -> None:
    """Train and evaluate by every method from every seed, but what is there already."""
    folder = outcomes_folder(settings.output, task.name)
    if not (folder / f"{ALONE}.json").exists():
        evaluation = evaluate_on(SolverLoop(task.solver, NoCorrection()), task.test, settings.steps)
        _keep(folder / f"{ALONE}.json", Outcome(ALONE, 0, _errors(evaluation), at=_counted(settings)))
    for seed in range(settings.seeds):
        folders = Folders(settings.output / "runs" / task.name / f"seed{seed}", task.train_data, seed)
        _train(task, settings, START, start_run(task.flow, folders))
        for method in settings.methods:
            if method in task.flow.untrained:
                _keep(_path(settings, task, method, seed), Outcome(method, seed, [], why=TOO_SLOW))
            elif method != "Coloured" and not missing(method):
                _train(task, settings, method, run_of(method, task.flow, folders, settings))


def _path(settings: BenchFlowsSettings, task: Task, method: str, seed: int) -> Path:
    return outcomes_folder(settings.output, task.name) / f"seed{seed}-{method}.json"


def outcomes_folder(output: Path, flow: str) -> Path:
    """Return the folder of a flow's outcomes."""
    return output / "outcomes" / flow


def _train(task: Task, settings: BenchFlowsSettings, method: str, run: TrainSettings) -> None:
    """Train by one method from one seed, and keep the outcome. A training that diverges, or cannot begin, is one too."""
    path = _path(settings, task, method, run.seed)
    if path.exists():
        return
    why, title = "", f"{task.name}, seed {run.seed}: {method}"
    with collect_warnings(title) as sentences, training_bar(title, run.updates) as report:
        try:
            train(run, report, say=sentences.append)
        except (DivergedError, NonFiniteError, ConfigError) as error:  # a method may refuse a solver
            why = str(error)
            console.print(f"{title}: {why}")
    if why:
        _keep(path, Outcome(method, run.seed, [], why=why, warnings=sentences))
        return
    spent = cost(run.run)
    evaluation = evaluate_on(trained_loop(run.run), task.test, settings.steps)
    # every method is charged the first step from all frames, even if it was copied from NON, whose steps are no others
    steps = spent.solver_steps + spent.found
    found = Outcome(method, run.seed, _errors(evaluation), steps, spent.seconds, warnings=sentences, at=_counted(settings))
    _keep(path, found)


def _counted(settings: BenchFlowsSettings) -> int | None:
    """Return the step whose error counts, None for all."""
    return settings.unroll if settings.loss == "terminal" else None


def _errors(evaluation: Evaluation) -> list[float | None]:
    by_step = evaluation.relative_errors.mean(dim=0).tolist()
    return [error if math.isfinite(error) else None for error in by_step]


def _keep(path: Path, outcome: Outcome) -> None:
    write_sealed(path, asdict(outcome))


def read_outcomes(output: Path, flow: str) -> list[Outcome]:
    """Read what is kept of a flow, in the order of seeds.

    Raises:
        ConfigError: A file was changed.
    """
    paths = sorted(outcomes_folder(output, flow).glob("*.json"))
    found = [Outcome(**read_sealed(path, "its training is evaluated again")) for path in paths]
    return sorted(found, key=lambda outcome: outcome.seed)
