"""Training of runs in sight of a person: a bar for each, and sentences on what was chosen and what came of it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from deepzero_sim.common.bars import console, training_bar
from deepzero_sim.errors import TrainingWarning
from deepzero_sim.training.checkpoints import load_checkpoint
from deepzero_sim.training.preparation import PREPARATION, Preparation
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.run_folder import FAILURES
from deepzero_sim.training.runs.defaults import Resolved
from deepzero_sim.training.runs.remainder import note_stages
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.training import train
from deepzero_sim.training.validation_record import Findings, findings_of


class Speaker:
    """Sentences for a person, each said once although several stages come upon it."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def note(self, sentence: str) -> None:
        """Say what was chosen or found."""
        if sentence not in self._said:
            self._said.add(sentence)
            console.print(sentence)

    def warn(self, sentence: str) -> None:
        """Say what may be wrong."""
        self.note(f"warning: {sentence}")


def train_stages(stages: Sequence[Resolved], *, name_folders: bool) -> None:
    """Train stages, and say what was chosen, which network is used, and what failed.

    Args:
        stages: Settings of each, with sentences on what was chosen.
        name_folders: True to say where each one is.
    """
    speaker = Speaker()
    note_stages(stages)
    for stage in stages:
        for sentence in stage.choices:
            speaker.note(sentence)
        progress = train_with_bar(stage.settings, speaker)
        if name_folders:
            console.print(f"trained: {stage.settings.run}")
        _say_what_came_of(stage.settings, progress, speaker)


def train_with_bar(settings: TrainSettings, speaker: Speaker | None = None) -> Progress:
    """Train one run under a progress bar, whose solver steps are all that the run asked for."""
    prepared: list[int] = []  # known at the first update
    preparation = (settings.run / PREPARATION).absolute()  # a run may go on in the folder that it was begun in
    speaker = speaker or Speaker()

    def spent(now: Progress) -> int:
        if not prepared:
            prepared.append(Preparation(preparation).solver_steps)
        return prepared[0] + now.solver_steps + now.validation_steps

    with training_bar(f"training {settings.method}", settings.updates, spent) as report:
        return train(settings, report, say=speaker.warn, note=speaker.note)


def _say_what_came_of(settings: TrainSettings, progress: Progress, speaker: Speaker) -> None:
    """Say which network of a run is used, what failed, and what training made worse."""
    if progress.failures:
        listed = ", ".join(f"{kind} {count} times" for kind, count in progress.failures.items())
        console.print(f"failures: {listed}; see {settings.run / FAILURES}")
    found = _findings(settings)
    if found.choice:
        console.print(found.choice)
    for sentence in found.warnings:
        speaker.warn(sentence)


def train_in_silence(stages: Sequence[Resolved]) -> None:
    """Train stages without a word but for warnings, as Python has them, each once."""
    said: set[str] = set()

    def warn(sentence: str) -> None:
        if sentence not in said:
            said.add(sentence)
            warnings.warn(sentence, TrainingWarning, stacklevel=2)

    note_stages(stages)
    for stage in stages:
        train(stage.settings, say=warn)
        for sentence in _findings(stage.settings).warnings:
            warn(sentence)


def _findings(settings: TrainSettings) -> Findings:
    return Findings() if settings.method == "SRC" else findings_of(load_checkpoint(settings.run), settings.run)
