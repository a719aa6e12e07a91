"""Runs compared with the solver alone on the same data, and what their training cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from deepzero_sim.common.types import Array
from deepzero_sim.common.words import count_of
from deepzero_sim.coupling.evaluation import Evaluation, measure_errors, read_first_frames
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.fitting.spacing import spacing_warning
from deepzero_sim.datasets.opening import metadata_of, open_trajectories
from deepzero_sim.datasets.source import DataSource, as_source
from deepzero_sim.datasets.trajectories import Trajectories, require_agreement
from deepzero_sim.datasets.units import with_amount
from deepzero_sim.errors import ConfigError, RunError
from deepzero_sim.models.corrector import NoCorrection
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.checkpoints import Checkpoint, CheckpointReader, load_checkpoint
from deepzero_sim.training.preparation import PREPARATION, Preparation
from deepzero_sim.training.progress import progress_of, require_within
from deepzero_sim.training.ratios_file import RatiosRecord, load_ratios
from deepzero_sim.training.runs.compared_starts import Start, find_starts, loops_of_others, name_starts
from deepzero_sim.training.runs.ensemble_spread import MEMBERS, EnsembleSpread, ensemble_of, measure_spread
from deepzero_sim.training.runs.folders import last_stage, stage_folders
from deepzero_sim.training.runs.measure import Measure, measure_of
from deepzero_sim.training.runs.remainder import Remainder, remainder_of
from deepzero_sim.training.runs.speed import Speed, measure_speed
from deepzero_sim.training.runs.trained_run import differences_accepted_by, run_settings, trained_loop
from deepzero_sim.training.runs.warnings import code_warnings, data_warnings
from deepzero_sim.training.validation import network_digest
from deepzero_sim.training.validation_record import findings_of, record_of


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


def cost(path: Path, *later: Path, load: Callable[[Path], Checkpoint] = load_checkpoint) -> Cost:
    """Add up the cost of a run and of the runs it started from.

    Every run counts what it asked the solver itself: the first steps from all frames and what it took to prepare and to go on,
    whenever it asked, and the training steps. First steps that it found in another run are counted there.

    Args:
        path: Run folder.
        later: Runs that started from this one.
        load: Function that reads the checkpoint of a folder.

    Raises:
        RunError: The folder holds no trained run, or the run started from itself: folders were renamed.
    """
    if path.resolve() in later:
        raise RunError(f"{path} is said to have started from itself: a folder was renamed; give it back its name.")
    settings = run_settings(path)
    if settings.method == "SRC":
        return Cost()
    checkpoint = load(path)
    progress = progress_of(checkpoint, path)
    require_within(progress, settings.updates, path)
    preparation = Preparation(path / PREPARATION, checkpoint.run)
    if not preparation.entries:
        raise RunError(f"{path} has no {PREPARATION}, which says what the run asked of its solver: restore it, or train anew.")
    before = Cost() if settings.start is None else _cost_before(path, settings.start, checkpoint, later, load)
    steps = before.solver_steps + preparation.solver_steps + progress.solver_steps + progress.validation_steps
    failures = dict(Counter(before.failures) + Counter(progress.failures))
    return Cost(steps, before.seconds + progress.seconds, failures, before.found + preparation.steps_of_others)


def _cost_before(
    path: Path, start: Path, checkpoint: Checkpoint, later: tuple[Path, ...], load: Callable[[Path], Checkpoint]
) -> Cost:
    """Add up the cost of the run that a run started from, as long as its network is the one that it had then."""
    start, record = last_stage(start), record_of(checkpoint, path)
    total = cost(start, path.resolve(), *later, load=load)
    began_with = "" if record is None else record.rollouts.start
    if began_with and network_digest(load(start)) != began_with:
        raise RunError(
            f"{start} was trained on since {path} started from it, so what its first part cost is not known: restore it, or "
            "train anew."
        )
    return total


@dataclass(frozen=True, eq=False)
class MethodResult:
    """One method's evaluation, the cost of its training, and its layer ratios if not all coordinates were active.

    Args:
        evaluation: Rollouts and their errors.
        cost: Cost of the training.
        ratios: Layer ratios; None if all coordinates were active.
        spread: Spread of the ensemble that training ended with; None if it had none.
    """

    evaluation: Evaluation
    cost: Cost
    ratios: RatiosRecord | None = None
    spread: EnsembleSpread | None = None


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
        starts: Networks that methods started from, by the method's name.
        speed: Times of steps; None if they were not measured.
        warnings: Sentences on what may make the results say something else than they seem to.
        solver_steps: Number of solver steps of the comparison itself, by what they were taken for.
        choices: Sentences on which network is used of runs that kept the best one.
        unfinished: Rest of each method's training that is not done, by the method's name.
        initial: First frames, from which the rollouts begin, `(S, C, *N)`; None where they are not known.
        numbers: Numbers of the simulations in their file; 0, 1, 2 and so on if None.
        times: Times of the first frame and of every step, `(T + 1,)`; multiples of the solver's step if None.
        time_unit: Unit of these times, empty if nobody said.
    """

    methods: Mapping[str, MethodResult]
    references: torch.Tensor
    spec: SolverSpec
    data: dict[str, Any] = field(default_factory=dict)
    params: Array | None = None
    runs: Mapping[str, Path] = field(default_factory=dict)
    starts: Mapping[str, Start] = field(default_factory=dict)
    speed: Speed | None = None
    warnings: Sequence[str] = ()
    solver_steps: Mapping[str, int] = field(default_factory=dict)
    choices: Sequence[str] = ()
    unfinished: Mapping[str, Remainder] = field(default_factory=dict)
    initial: torch.Tensor | None = None
    numbers: Sequence[int] | None = None
    times: NDArray[np.float64] | None = None
    time_unit: str = ""

    def number(self, simulation: int) -> int:
        """Return the number in its file of a simulation that was evaluated."""
        return simulation if self.numbers is None else self.numbers[simulation]

    def time(self, step: int) -> float:
        """Return the time after so many steps."""
        return self.spec.dt * step if self.times is None else float(self.times[step])

    @property
    def horizon(self) -> str:
        """Length of the rollouts in steps and time."""
        steps = self.references.shape[1]
        return f"{count_of(steps, 'step')} to t = {with_amount(f'{self.time(steps):.6g}', self.time_unit)}"

    @property
    def measure(self) -> Measure:
        """Error that the methods are compared by."""
        return measure_of(self.spec)


def by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """Name runs by their methods, and where two have the same by as much of their paths as tells them apart.

    Raises:
        RunError: A folder holds no run of `deepzero-sim train`.
    """
    folders = list(dict.fromkeys(folder for path in paths for folder in stage_folders(path) or [path]))
    methods: dict[Path, str] = {path: run_settings(path).method for path in folders}
    return {_name_among(path, methods): path for path in folders}


def _name_among(path: Path, methods: Mapping[Path, str]) -> str:
    """Name a run by its method, and by the shortest end of its path that no other run of this method has."""
    method = methods[path]
    others = [other for other, theirs in methods.items() if theirs == method and other != path]
    if not others or (path.name == method and all(other.name != method for other in others)):
        return method
    ours, theirs = _without_stage(path, method), [_without_stage(other, method) for other in others]
    if len({ours, *theirs}) <= len(others):  # several stages of one method in one run
        ours, theirs = path, others
    lengths = range(1, len(ours.parts) + 1)
    unlike = (count for count in lengths if all(other.parts[-count:] != ours.parts[-count:] for other in theirs))
    return f"{method}, {Path(*ours.parts[-next(unlike, len(ours.parts)) :])}"


def _without_stage(path: Path, method: str) -> Path:
    """Return the folder of all stages of that of one, by which runs are told apart; the path itself if it is of no stage."""
    number = path.name.removesuffix(f"-{method}")
    return path.parent if number != path.name and number.isdecimal() and len(path.parts) > 1 else path


#: Function that shows the progress of so many things to do under a title, and yields what to call after each.
Bar: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[str], None]]]


def _no_bar(title: str, total: int) -> AbstractContextManager[Callable[[str], None]]:
    return nullcontext(lambda words: None)


def compare(
    runs: Mapping[str, Path],
    source: str | Path | DataSource | Trajectories,
    steps: int | None = None,
    data_may_differ: Collection[str] = (),
    bar: Bar = _no_bar,
) -> Comparison:
    """Roll out the solver alone (SRC) and every run's corrected solver on the same data, from its first frames.

    Args:
        runs: Run folders by method, all of the same solver.
        source: Trajectories, or where they come from.
        steps: Steps of the rollouts; all that the data have if None.
        data_may_differ: Things that the data may say otherwise than the solver and the data of training, besides what the
            runs accept.
        bar: Function that shows the progress of so many things to do under a title.

    Raises:
        ConfigError: The runs are of different solvers.
        DataError: The data do not fit the solver, or the data that a run was trained on.
    """
    _require_one_solver(runs)
    load = CheckpointReader()
    loops = {name: trained_loop(path, load) for name, path in runs.items()}
    first = next(iter(loops.values()))
    for loop in loops.values():
        loop.require_known_params()
    loops = {"SRC": SolverLoop(first.solver, NoCorrection(), on_failure=first.on_failure)} | {
        name: loop for name, loop in loops.items() if name != "SRC"
    }
    trained = {name: runs[name] for name in loops if name != "SRC"}
    spec = first.solver.spec
    data = open_trajectories(source, spec, {*data_may_differ, *differences_accepted_by(*runs.values())})
    for path in trained.values():
        _require_same_kind(data, source, spec, path)
    spacing, scales = spacing_warning(first.solver, data, first.on_failure), data.scales()[0]
    data = read_first_frames(data, steps)
    origins, unknown = find_starts(trained)
    others = loops_of_others(origins, loops, trained, load)
    ensembles = {name: one for name, path in trained.items() if (one := ensemble_of(path, load)) is not None}
    rollouts = len(loops) + len(others) + MEMBERS * len(ensembles)
    with bar("rolling out", (data.frames.shape[1] - 1) * rollouts) as report:
        evaluations = {name: measure_errors(loop, data, scales, lambda: report("")) for name, loop in loops.items()}
        of_others = {start: measure_errors(loop, data, scales, lambda: report("")) for start, loop in others.items()}
        spreads = {name: measure_spread(one, loops[name], data, scales, lambda: report("")) for name, one in ensembles.items()}
    starts = name_starts(origins, trained, evaluations, of_others)
    speed = measure_speed(loops, evaluations, data, _folders_of(runs))
    left = {name: remainder for name, path in trained.items() if (remainder := remainder_of(path, load)) is not None}
    found = {
        name: findings_of(load(last_stage(path)), path, left[name].planned if name in left else None)
        for name, path in trained.items()
    }
    solver_steps = {
        "rollouts": sum(one.solver_steps for one in evaluations.values()),
        "rollouts of what runs started from": sum(s.evaluation.solver_steps for s in starts.values() if s.name not in trained),
        "rollouts of ensembles": sum(one.solver_steps for one in spreads.values()),
        "distance of frames": spacing.account.steps,
        "timing": speed.solver_steps.get("solver", 0),
        "timing of the reference": speed.solver_steps.get("reference", 0),
    }
    return Comparison(
        {name: _result(one, trained.get(name), load, spreads.get(name)) for name, one in evaluations.items()},
        torch.from_numpy(data.frames[:, 1:]),
        spec,
        trajectories.describe(data),
        data.params if data.params.shape[1] else None,
        trained,
        starts,
        speed,
        [
            *([spacing.warning] if spacing.warning else []),
            *data_warnings(data, source, trained),
            *(f"{name}: {sentence}" for name, one in found.items() for sentence in one.warnings),
            *code_warnings(trained),
            *unknown,
        ],
        {what: count for what, count in solver_steps.items() if count},
        [f"{name}: {one.choice}" for name, one in found.items() if one.choice],
        left,
        torch.from_numpy(data.frames[:, 0]),
        data.numbers,
        None if data.times is None else data.times[: data.frames.shape[1]],
        data.time_unit or spec.time_unit,
    )


def _folders_of(runs: Mapping[str, Path]) -> list[Path]:
    """List the folders that runs were begun in, where these are not the current one."""
    return list(dict.fromkeys(origin for path in runs.values() if (origin := run_settings(path).origin) is not None))


def _require_one_solver(runs: Mapping[str, Path]) -> None:
    solvers = {name: run_settings(path).located_solver for name, path in runs.items()}
    for name, solver_settings in solvers.items():
        if solver_settings != next(iter(solvers.values())):
            raise ConfigError(
                f"runs to be compared must have the same solver, but {name} has another solver, {asdict(solver_settings)}: "
                "evaluate it by itself."
            )


def _result(
    evaluation: Evaluation, path: Path | None, load: Callable[[Path], Checkpoint], spread: EnsembleSpread | None
) -> MethodResult:
    if path is None:
        return MethodResult(evaluation, Cost())
    return MethodResult(evaluation, cost(path, load=load), load_ratios(path), spread)


def _require_same_kind(
    data: Trajectories, source: str | Path | DataSource | Trajectories, spec: SolverSpec, path: Path
) -> None:
    """Hold data to what a run was trained on: a solver says less of itself than two files may say of each other."""
    trained_on = run_settings(path).train_data
    whose = f"{as_source(trained_on).path}, which {path} was trained on"
    what = "the data" if isinstance(source, Trajectories) else str(as_source(source).path)
    require_agreement(data, metadata_of(trained_on, spec, data.may_differ), what, whose, data.may_differ)


def evaluate_on(loop: SolverLoop, data: Trajectories, steps: int) -> Evaluation:
    """Roll a loop out from the first frames of the data."""
    return measure_errors(loop, read_first_frames(data, steps), data.scales()[0])
