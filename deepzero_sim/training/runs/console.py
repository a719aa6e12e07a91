"""Training of runs in sight of a person: a bar for each, and sentences on what was chosen and what came of it."""

from __future__ import annotations

import warnings

from deepzero_sim.common.bars import console, training_bar
from deepzero_sim.errors import TrainingWarning
from deepzero_sim.training.checkpoints import load_checkpoint
from deepzero_sim.training.preparation import PREPARATION, Preparation
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.run_folder import FAILURES
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.training import train
from deepzero_sim.training.validation import Findings, findings_of


def train_with_bar(settings: TrainSettings) -> Progress:
    """Train one run under a progress bar, whose solver steps are all that the run asked for."""
    prepared: list[int] = []  # known at the first update

    def spent(now: Progress) -> int:
        if not prepared:
            prepared.append(Preparation(settings.run / PREPARATION).solver_steps)
        return prepared[0] + now.solver_steps + now.validation_steps

    with training_bar(f"training {settings.method}", settings.updates, spent) as report:
        return train(settings, report, say=lambda sentence: console.print(f"warning: {sentence}"))


def say_what_came_of(settings: TrainSettings, progress: Progress) -> None:
    """Say which network of a run is used, what failed, and what training made worse."""
    if progress.failures:
        listed = ", ".join(f"{kind} {count} times" for kind, count in progress.failures.items())
        console.print(f"failures: {listed}; see {settings.run / FAILURES}")
    found = _findings(settings)
    for sentence in (*filter(None, [found.choice]), *(f"warning: {one}" for one in found.warnings)):
        console.print(sentence)


def train_in_silence(settings: TrainSettings) -> Progress:
    """Train one run without a word but for warnings, as Python has them, of what training made worse."""
    progress = train(settings)
    for sentence in _findings(settings).warnings:
        warnings.warn(sentence, TrainingWarning, stacklevel=2)
    return progress


def _findings(settings: TrainSettings) -> Findings:
    return Findings() if settings.method == "SRC" else findings_of(load_checkpoint(settings.run), settings.run)
