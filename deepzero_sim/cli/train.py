"""`deepzero-sim train`: correctors, trained by any method or gone on with, every method by one switch."""

from __future__ import annotations

from deepzero_sim.cli.console import console, training_bar
from deepzero_sim.training.checkpoints import load_checkpoint
from deepzero_sim.training.preparation import PREPARATION, Preparation
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.run_folder import FAILURES
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.stages import plan
from deepzero_sim.training.runs.training import train
from deepzero_sim.training.validation import record_of


def train_with_bar(settings: TrainSettings) -> Progress:
    """Train one run under a progress bar, whose solver steps are all that the run asked for."""
    prepared: list[int] = []  # known at the first update

    def spent(now: Progress) -> int:
        if not prepared:
            prepared.append(Preparation(settings.run / PREPARATION).solver_steps)
        return prepared[0] + now.solver_steps + now.validation_steps

    with training_bar(f"training {settings.method}", settings.updates, spent) as report:
        return train(settings, report, say=lambda sentence: console.print(f"warning: {sentence}"))


def run(settings: TrainSettings) -> None:
    """Train a run or its stages, and say where they are, which network is used, and what failed."""
    for stage in plan(settings):
        for sentence in stage.choices:
            console.print(sentence)
        progress = train_with_bar(stage.settings)
        console.print(f"trained: {stage.settings.run}")
        _say_what_came_of(stage.settings, progress)


def _say_what_came_of(settings: TrainSettings, progress: Progress) -> None:
    if progress.failures:
        listed = ", ".join(f"{kind} {count} times" for kind, count in progress.failures.items())
        console.print(f"failures: {listed}; see {settings.run / FAILURES}")
    record = None if settings.method == "SRC" else record_of(load_checkpoint(settings.run), settings.run)
    if record is None:
        return
    if chosen := record.choice(progress.step):
        console.print(chosen)
    for sentence in record.warnings(progress.step):
        console.print(f"warning: {sentence}")
