"""Costs and gains of training through the wake: error on unseen Reynolds numbers against solver steps spent.

Run: deepzero-sim bench wake
Prints a table and writes results.json, report.md and wake.png, after an hour or two with the default settings on 2 cores. Each
run has a folder of its own: an interrupted benchmark resumes, and one that has ended is only evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from deepzero_sim.benchmarks.black_box_training import BlackBoxSettings, train_black_box
from deepzero_sim.benchmarks.seed_folders import Folders
from deepzero_sim.benchmarks.wake_methods import Run, run_of, start_run, updates_of
from deepzero_sim.benchmarks.wake_report import FILES, Comparison, Point, Training, publish, rows
from deepzero_sim.cli import demo
from deepzero_sim.cli.console import console, training_bar
from deepzero_sim.cli.generate import make_data
from deepzero_sim.cli.reports.ownership import require_own_folder
from deepzero_sim.cli.settings.bench import BenchWakeSettings
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DivergedError, MissingExtraError, NonFiniteError
from deepzero_sim.models.corrector import NoCorrection
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.contract import Solver
from deepzero_sim.training.checkpoints import load_checkpoint, snapshot
from deepzero_sim.training.progress import progress_of, restore_network
from deepzero_sim.training.runs.comparison import cost, evaluate_on
from deepzero_sim.training.runs.trained_run import build_corrector
from deepzero_sim.training.runs.training import train

#: Number of snapshots whose error is evaluated, each after twice as many updates as the one before.
POINTS = 7


def bench_wake(settings: BenchWakeSettings) -> Sequence[tuple[str, ...]]:
    """Train, evaluate and report; see the module. Returns the table.

    Raises:
        ConfigError: The settings cannot be used.
        MissingExtraError: A package that is needed is not installed; raised before hours are spent.
    """
    _require_extras(settings)
    require_own_folder(settings.output, FILES, "--output")
    build_corrector(settings.network, build_solver(demo.WAKE).spec, 0)  # raises now if it cannot be built
    data = demo.data_settings(settings.output / "data", settings.workers)
    if settings.steps > data.simulations.steps - data.simulations.discard - 1:
        raise ConfigError(
            f"steps must be below the {data.simulations.steps - data.simulations.discard} frames of the test data."
        )
    make_data(data)
    train_path, test_path = (file.output for file in data.files)
    trainings: list[Training] = []
    for seed in range(settings.seeds):
        folders = Folders(settings.output / f"seed{seed}", train_path, seed)
        trainings += _train_seed(settings, folders, test_path)
    solver = build_solver(demo.WAKE if not trainings else start_run(settings, folders).solver)
    source = evaluate_on(SolverLoop(solver, NoCorrection()), trajectories.load(test_path, solver.spec), settings.steps)
    comparison = Comparison(source.mae, trainings)
    publish(settings, comparison)
    return rows(comparison)


def _require_extras(settings: BenchWakeSettings) -> None:
    needed = [
        ("FO-SOL", "phi", "phiflow"),
        ("CMA-ES", "cma", "bench"),
        ("Nevergrad", "nevergrad", "bench"),
        ("ESMDA", "iterative_ensemble_smoother", "bench"),
    ]
    if find_spec("matplotlib") is None:
        raise MissingExtraError("bench wake", "matplotlib", "report")
    for method, module, extra in needed:
        if method in settings.methods and find_spec(module) is None:
            raise MissingExtraError(f"{method} in bench wake", module, extra)


@dataclass(frozen=True)
class _Start:
    """Error of NON's network, and its cost.

    Args:
        mae: Mean absolute error of its rollouts.
        solver_steps: Number of states advanced by one step.
        seconds: Seconds of training.
    """

    mae: float
    solver_steps: int
    seconds: float


def _train_seed(settings: BenchWakeSettings, folders: Folders, test_path: Path) -> list[Training]:
    """Train all methods from one start."""
    non = start_run(settings, folders)
    with training_bar(f"seed {folders.seed}: NON", non.updates) as report:
        train(non, report)
    solver = build_solver(non.solver)
    tests = _Tests(solver, trajectories.load(test_path, solver.spec), settings.steps)
    spent = cost(non.run)
    start = _Start(tests.mae(non, non.run), spent.solver_steps, spent.seconds)
    trainings = [Training("NON", folders.seed, [Point(non.updates, start.solver_steps, start.seconds, start.mae)])]
    for method in settings.methods:
        run = run_of(method, settings, folders)
        trainings.append(_train_method(method, folders.seed, run, start, tests))
    return trainings


@dataclass(frozen=True, eq=False)
class _Tests:
    """Test on unseen Reynolds numbers."""

    solver: Solver
    data: Trajectories
    steps: int

    def mae(self, run: Run, checkpoint: Path) -> float:
        """Evaluate the error of a checkpoint's network."""
        corrector = build_corrector(run.network, self.solver.spec, run.seed)
        restore_network(corrector, load_checkpoint(checkpoint), checkpoint)
        return evaluate_on(SolverLoop(self.solver, corrector), self.data, self.steps).mae


def _train_method(method: str, seed: int, run: Run, start: _Start, tests: _Tests) -> Training:
    """Train a method, or resume, and evaluate its snapshots. A training that diverges is a result too."""
    snapshots, why = points_of(updates_of(run)), ""
    with training_bar(f"seed {seed}: {method}", updates_of(run)) as report:
        try:
            if isinstance(run, BlackBoxSettings):
                train_black_box(run, report, snapshots)
            else:
                train(run, report, snapshots)
        except (DivergedError, NonFiniteError) as error:
            why = str(error)
            console.print(f"{method} diverged: {why}")
    # every method is charged the first step from all frames, even if it was copied from NON, whose steps are no others
    before = 2 * start.solver_steps
    points = [Point(0, before, start.seconds, start.mae)]
    for update in snapshots:
        folder = snapshot(run.run, update)
        if folder.exists():
            progress = progress_of(load_checkpoint(folder), folder)
            solver_steps, seconds = before + progress.solver_steps, start.seconds + progress.seconds
            points.append(Point(update, solver_steps, seconds, tests.mae(run, folder)))
    return Training(method, seed, points, why)


def points_of(updates: int) -> list[int]:
    """List numbers of updates, each about twice the one before, up to the last one."""
    return sorted({max(1, round(x)) for x in np.geomspace(updates / 2 ** (POINTS - 1), updates, POINTS)})
