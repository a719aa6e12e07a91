"""Settings of `deepzero-sim show`: first pictures of data or of a trained run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deepzero_sim.cli.options import Command
from deepzero_sim.common.settings import Settings
from deepzero_sim.datasets.source import Source
from deepzero_sim.training.file_names import CONFIG

#: Files of a run that tell what it is: the log of a classifier, and the network that a training has come to.
ACCURACY, CHECKPOINT = "accuracy.jsonl", "checkpoint.safetensors"


@dataclass
class ShowSettings(Settings):
    """First pictures of data of any known layout, or of a trained run.

    Args:
        path: File or folder of data, or run folder.
        output: Folder of the page and its pictures; none for a folder in runs/show named as the data or the run.
        format: Layout of the data, by name; none to find it out.
        axes: Role of each axis of arrays that do not say, in order: [simulation, time, channel, y, x].
        channels: Channels to show; all if none are given.
        data: Trajectories that a run is rolled out on: a path, or a path with keys that say more of it; none for those that
            it was trained on.
        steps: Steps of a run's rollouts; none for all that the data have, at most 100.
        animation: True for an animation, too.
    """

    path: Path
    output: Path | None = None
    format: str | None = None
    axes: list[str] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    data: Source | None = None
    steps: int | None = None
    animation: bool = True

    @property
    def folder(self) -> Path:
        """Folder of the page."""
        return self.output or Path("runs") / "show" / (self.path.resolve().stem or "data")

    @property
    def is_run(self) -> bool:
        """True if the path is a run folder, or one of stages."""
        return (self.path / CONFIG).exists() or any(self.path.glob(f"[0-9]*-*/{CONFIG}"))

    @property
    def is_corrector(self) -> bool:
        """True if the path is a run of a corrector that can be rolled out: one with a checkpoint."""
        if not self.is_run or (self.path / ACCURACY).exists():
            return False
        folders = [self.path, *self.path.glob("[0-9]*-*")]
        return any((folder / CHECKPOINT).exists() for folder in folders)


def _runs(settings: ShowSettings) -> Sequence[Path]:
    return [settings.path] if settings.is_corrector else []


COMMANDS = {"show": Command(ShowSettings, "show.run", "path", _runs)}
