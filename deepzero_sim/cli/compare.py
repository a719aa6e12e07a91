"""`deepzero-sim compare`: trained runs side by side, correctors on unseen data or classifiers as they ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deepzero_sim.cli.console import console, print_table
from deepzero_sim.cli.options import Command
from deepzero_sim.cli.reports import classification, rollouts
from deepzero_sim.common.settings import Settings, settings_to_dict
from deepzero_sim.datasets.metadata import MetadataKey
from deepzero_sim.errors import ConfigError
from deepzero_sim.training.checkpoints import CONFIG
from deepzero_sim.training.runs.comparison import Comparison, by_name, compare


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
