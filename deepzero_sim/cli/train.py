"""`deepzero-sim train`: correctors, trained by any method or gone on with, every method by one switch."""

from __future__ import annotations

from deepzero_sim.cli.console import console
from deepzero_sim.training.runs.console import say_what_came_of, train_with_bar
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.stages import plan


def run(settings: TrainSettings) -> None:
    """Train a run or its stages, and say where they are, which network is used, and what failed."""
    for stage in plan(settings):
        for sentence in stage.choices:
            console.print(sentence)
        progress = train_with_bar(stage.settings)
        console.print(f"trained: {stage.settings.run}")
        say_what_came_of(stage.settings, progress)
