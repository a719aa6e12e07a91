"""Settings of `deepzero-sim evaluate`: a trained corrector, rolled out on unseen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deepzero_sim.cli.options import Command
from deepzero_sim.common.settings import Settings
from deepzero_sim.datasets.metadata_keys import MetadataKey
from deepzero_sim.datasets.source import Source


@dataclass
class EvaluateSettings(Settings):
    """An evaluation of a trained run on unseen data.

    Args:
        run: Run folder.
        data: Trajectories: a path, or a path with keys that say more of it.
        steps: Steps of the rollout; all that the data have if none are given.
        output: Folder of results.json, report.md and figures; none for the run folder, where one on other data is replaced,
            and that is said.
        data_may_differ: Things that the data may say otherwise than the solver: name, dt, channels, mask and so on.
    """

    run: Path
    data: Source
    steps: int | None = None
    output: Path | None = None
    data_may_differ: list[MetadataKey] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Folder of the report."""
        return self.run if self.output is None else self.output


COMMANDS = {"evaluate": Command(EvaluateSettings, "evaluate.run", runs=lambda settings: [settings.run])}
