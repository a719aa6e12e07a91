"""`deepzero-sim train`: correctors, trained by any method or gone on with, every method by one switch."""

from __future__ import annotations

from deepzero_sim.training.runs.console import train_stages
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.stages import plan


def run(settings: TrainSettings) -> None:
    """Train a run or its stages, and say where they are, which network is used, and what failed."""
    train_stages(plan(settings), name_folders=True)
