"""Settings of `deepzero-sim train`, which lie with the training."""

from __future__ import annotations

from deepzero_sim.cli.options import SEE_COMPONENTS, Command
from deepzero_sim.training.runs.settings import TrainSettings

COMMANDS = {"train": Command(TrainSettings, "train.run", see=SEE_COMPONENTS)}
