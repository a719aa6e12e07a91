"""Settings of `deepzero-sim compare`: trained runs side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deepzero_sim.cli.options import Command
from deepzero_sim.common.settings import Settings
from deepzero_sim.datasets.metadata_keys import MetadataKey
from deepzero_sim.datasets.source import Source
from deepzero_sim.errors import ConfigError
from deepzero_sim.training.file_names import CONFIG


@dataclass
class CompareSettings(Settings):
    """A comparison of trained runs: of correctors with the solver alone, on unseen data, or of classifiers.

    Args:
        runs: Run folders; correctors are all of one solver.
        data: Trajectories that corrected solvers are rolled out on; none for classifiers.
        steps: Steps of the rollouts; all that the data have if none are given.
        output: Folder of the comparison's report.md and figures.
        data_may_differ: Things that the data may say otherwise than the solver: name, dt, channels, mask and so on.
    """

    runs: list[Path]
    data: Source | None = None
    steps: int | None = None
    output: Path = Path("runs/comparison")
    data_may_differ: list[MetadataKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.data is None:
            raise ConfigError("steps are those of rollouts, which need data: give data, or leave out steps for classifiers.")
        if (self.output / CONFIG).exists():
            raise ConfigError(f"output {self.output} is the folder of a run, whose report would be lost: name another.")


COMMANDS = {
    "compare": Command(CompareSettings, "compare.run", "runs", lambda settings: [] if settings.data is None else settings.runs),
}
