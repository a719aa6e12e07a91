"""`deepzero-sim compare`: trained runs side by side, correctors on unseen data or classifiers as they ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from deepzero_sim.cli.console import console, print_table
from deepzero_sim.cli.options import Command
from deepzero_sim.cli.reports import classification, rollouts
from deepzero_sim.cli.runs import Comparison, Cost, MethodResult, cost, differences_accepted_by, run_settings, trained_loop
from deepzero_sim.common.settings import Settings, settings_to_dict
from deepzero_sim.coupling.evaluation import Evaluation, evaluate
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.metadata import MetadataKey
from deepzero_sim.datasets.trajectories import Trajectories, require_agreement
from deepzero_sim.errors import ConfigError
from deepzero_sim.models.corrector import NoCorrection
from deepzero_sim.training.checkpoints import CONFIG
from deepzero_sim.training.ratios_file import load_ratios


@dataclass
class CompareSettings(Settings):
    """A comparison of trained runs: of correctors with the solver alone, on unseen data, or of classifiers.

    Args:
        runs: Run folders; correctors are all of one solver.
        data: HDF5 trajectories that corrected solvers are rolled out on; none for classifiers.
        steps: Steps of the rollouts; all that the data have if none are given.
        output: Folder of the comparison's report.md and figures.
        data_may_differ: Things that the data may say otherwise than the solver: name, dt, channels, mask and so on.
    """

    runs: list[Path]
    data: Path | None = None
    steps: int | None = None
    output: Path = Path("runs/comparison")
    data_may_differ: list[MetadataKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.data is None:
            raise ConfigError("steps are those of rollouts, which need data: give data, or leave out steps for classifiers.")
        if (self.output / CONFIG).exists():
            raise ConfigError(f"output {self.output} is the folder of a run, whose report would be lost: name another.")


def _run(settings: CompareSettings) -> None:
    if settings.data is None:
        classification.report(settings.output, "Classifiers compared", settings.runs)
        return
    comparison = compare(by_name(settings.runs), settings.data, settings.steps, settings.data_may_differ)
    report(settings.output, "Correctors compared", comparison, settings_to_dict(settings))


COMMANDS = {
    "compare": Command(CompareSettings, _run, "runs", lambda settings: [] if settings.data is None else settings.runs),
}


def report(folder: Path, title: str, comparison: Comparison, settings: Mapping[str, object]) -> None:
    """Write a comparison's report into a folder, and show its table."""
    rollouts.publish(folder, title, comparison, settings)
    print_table(rollouts.rows(comparison.methods))
    for sentence in rollouts.failure_sentences(comparison.methods):
        console.print(sentence)
    console.print(f"report: {folder / 'report.md'}")


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
    steps = data.frames.shape[1] - 1 if steps is None else steps
    alone = SolverLoop(solver, NoCorrection(), on_failure=first.on_failure)
    methods = {"SRC": MethodResult(evaluate_on(alone, data, steps), Cost())}
    for name, loop in loops.items():
        if name != "SRC":
            methods[name] = MethodResult(evaluate_on(loop, data, steps), cost(runs[name]), load_ratios(runs[name]))
    return Comparison(methods, torch.from_numpy(data.frames[:, 1 : steps + 1]), solver.spec, trajectories.describe(data))


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
    params = torch.from_numpy(data.params) if data.params.shape[1] else None
    return evaluate(loop, torch.from_numpy(data.frames), params, torch.from_numpy(data.mask), steps)
