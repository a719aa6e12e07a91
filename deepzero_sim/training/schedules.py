"""Schedules of the learning rate, and their state after some training steps of a training of another length."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from deepzero_sim.errors import ConfigError


def fast_forward(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[dict[str, Any]]:
    """Take a new scheduler to where it is after some training steps, and return the settings of its optimiser's groups then.

    Raises:
        ConfigError: It depends on the losses of those steps.
    """
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ConfigError(
            "a ReduceLROnPlateau whose arguments depend on the number of updates cannot be made for more of them afterwards: "
            "give it numbers, or name another folder with --run."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")  # the optimiser's steps were taken
        for _ in range(steps):
            scheduler.step()
    return [{key: value for key, value in group.items() if key != "params"} for group in scheduler.optimizer.param_groups]
