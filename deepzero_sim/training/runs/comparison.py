"""Runs compared with the solver alone on the same data, and what their training cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.evaluation import Evaluation, measure_errors, read_first_frames
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.trajectories import Trajectories, require_agreement
from deepzero_sim.errors import ConfigError, RunError
from deepzero_sim.models.corrector import NoCorrection
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.checkpoints import load_checkpoint
from deepzero_sim.training.preparation import PREPARATION, Preparation
from deepzero_sim.training.progress import progress_of, require_within
from deepzero_sim.training.ratios_file import RatiosRecord, load_ratios
from deepzero_sim.training.runs.measure import Measure, measure_of
from deepzero_sim.training.runs.trained_run import differences_accepted_by, run_settings, trained_loop


@dataclass(frozen=True)
class Cost:
    """Cost of a trained network, the run it started from included.

    Args:
        solver_steps: Number of states advanced by one step.
        seconds: Seconds of training.
        failures: Number of failures of solver steps, by kind and what was done.
        found: Number of first steps that other runs had taken, which are not counted here.
    """

    solver_steps: int = 0
    seconds: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)
    found: int = 0


def cost(path: Path, *later: Path) -> Cost:
    """Add up the cost of a run and of the runs it started from.

    Every run counts what it asked the solver itself: the first steps from all frames and what it took to prepare and to go on,
    whenever it asked, and the training steps. First steps that it found in another run are counted there.

    Args:
        path: Run folder.
        later: Runs that started from this one.

    Raises:
        RunError: The folder holds no trained run, or the run started from itself: folders were renamed.
    """
    if path.resolve() in later:
        raise RunError(f"{path} is said to have started from itself: a folder was renamed; give it back its name.")
    settings = run_settings(path)
    if settings.method == "SRC":
        return Cost()
    checkpoint = load_checkpoint(path)
    progress = progress_of(checkpoint, path)
    require_within(progress, settings.updates, path)
    preparation = Preparation(path / PREPARATION, checkpoint.run)
    if not preparation.entries:
        raise RunError(f"{path} has no {PREPARATION}, which says what the run asked of its solver: restore it, or train anew.")
    before = Cost() if settings.start is None else cost(settings.start, path.resolve(), *later)
    steps = before.solver_steps + preparation.solver_steps + progress.solver_steps + progress.validation_steps
    failures = dict(Counter(before.failures) + Counter(progress.failures))
    return Cost(steps, before.seconds + progress.seconds, failures, before.found + preparation.steps_of_others)


@dataclass(frozen=True, eq=False)
class MethodResult:
    """One method's evaluation, the cost of its training, and its layer ratios if not all coordinates were active."""

    evaluation: Evaluation
    cost: Cost
    ratios: RatiosRecord | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods evaluated on the same data.

    Args:
        methods: Results by name, SRC first.
        references: Frames that the rollouts should have given, `(S, T, C, *N)`.
        spec: Spec of the solver.
        data: Description of the file, where it was made and how.
        params: Scenario parameters of the simulations, `(S, K)`; None if there are none.
        runs: Run folder of each method that was trained, by the method's name.
    """

    methods: Mapping[str, MethodResult]
    references: torch.Tensor
    spec: SolverSpec
    data: dict[str, Any] = field(default_factory=dict)
    params: Array | None = None
    runs: Mapping[str, Path] = field(default_factory=dict)

    @property
    def measure(self) -> Measure:
        """Error that the methods are compared by."""
        return measure_of(self.spec)


def by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """Name runs by their methods, with their folders' names where two have the same, and by their paths at last.

    Raises:
        RunError: A folder holds no run of `deepzero-sim train`.
    """
    methods: dict[Path, str] = {path: run_settings(path).method for path in paths}
    counts = Counter(methods.values())
    names = {
        path: method if counts[method] == 1 or path.name == method else f"{method}, {path.name}"
        for path, method in methods.items()
    }
    counts = Counter(names.values())
    return {name if counts[name] == 1 else f"{methods[path]}, {path}": path for path, name in names.items()}


def compare(
    runs: Mapping[str, Path], data_path: Path, steps: int | None = None, data_may_differ: Collection[str] = ()
) -> Comparison:
    """Roll out the solver alone (SRC) and every run's corrected solver on the same data, from its first frames.

    Args:
        runs: Run folders by method, all of the same solver.
        data_path: HDF5 trajectories.
        steps: Steps of the rollouts; all that the data have if None.
        data_may_differ: Things that the data may say otherwise than the solver and the data of training, besides what the
            runs accept.

    Raises:
        ConfigError: The runs are of different solvers.
        DataError: The data do not fit the solver, or the data that a run was trained on.
    """
    solvers = {name: run_settings(path).solver for name, path in runs.items()}
    for name, solver_settings in solvers.items():
        if solver_settings != next(iter(solvers.values())):
            raise ConfigError(
                f"runs to be compared must have the same solver, but {name} has another solver, {asdict(solver_settings)}: "
                "evaluate it by itself."
            )
    loops = {name: trained_loop(path) for name, path in runs.items()}
    first = next(iter(loops.values()))
    solver = first.solver
    data = trajectories.load(data_path, solver.spec, {*data_may_differ, *differences_accepted_by(*runs.values())})
    for path in runs.values():
        _require_same_kind(data, data_path, path)
    scales, data = data.scales()[0], read_first_frames(data, steps)
    alone = SolverLoop(solver, NoCorrection(), on_failure=first.on_failure)
    methods = {"SRC": MethodResult(measure_errors(alone, data, scales), Cost())}
    for name, loop in loops.items():
        if name != "SRC":
            methods[name] = MethodResult(measure_errors(loop, data, scales), cost(runs[name]), load_ratios(runs[name]))
    references = torch.from_numpy(data.frames[:, 1:])
    params, trained = data.params if data.params.shape[1] else None, {name: runs[name] for name in methods if name in runs}
    return Comparison(methods, references, solver.spec, trajectories.describe(data), params, trained)


def _require_same_kind(data: Trajectories, data_path: Path, path: Path) -> None:
    """Hold data to what a run was trained on: a solver says less of itself than two files may say of each other."""
    settings = run_settings(path)
    if settings.method != "SRC":
        metadata, whose = (
            trajectories.summarise(settings.train_data).metadata,
            f"{settings.train_data}, which {path} was trained on",
        )
        require_agreement(data, metadata, str(data_path), whose, data.may_differ)


def evaluate_on(loop: SolverLoop, data: Trajectories, steps: int) -> Evaluation:
    """Roll a loop out from the first frames of the data."""
    return measure_errors(loop, read_first_frames(data, steps), data.scales()[0])
