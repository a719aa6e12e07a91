"""`deepzero-sim train`: correctors, trained by any method or gone on with, every method by one switch."""

from __future__ import annotations

from deepzero_sim.cli.console import console, training_bar
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.run_folder import FAILURES
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.training import train


def train_with_bar(settings: TrainSettings) -> Progress:
    """Train one run under a progress bar."""
    with training_bar(f"training {settings.method}", settings.updates) as report:
        return train(settings, report)


def run(settings: TrainSettings) -> None:
    """Train one run, and say where it is and what failed."""
    progress = train_with_bar(settings)
    console.print(f"trained: {settings.run}")
    if progress.failures:
        listed = ", ".join(f"{kind} {count} times" for kind, count in progress.failures.items())
        console.print(f"failures: {listed}; see {settings.run / FAILURES}")
