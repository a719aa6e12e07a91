"""The parts of a training that settings name: optimiser, scheduler, estimator."""

from __future__ import annotations

import torch
from torch import nn

from deepzero_sim.components import Component, build, call, load
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimator import Estimator


def build_optimiser(component: Component, model: nn.Module) -> torch.optim.Optimizer:
    """Of a network's parameters.

    Raises:
        ConfigError: it is no optimiser, or cannot be made.
    """
    optimiser = call(load(component.name), component, model.parameters())
    if not isinstance(optimiser, torch.optim.Optimizer):
        raise ConfigError(f"optimiser {component.name!r} must make a torch optimiser, not {type(optimiser).__name__}.")
    return optimiser


def build_scheduler(
    component: Component | None, optimiser: torch.optim.Optimizer, updates: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """Of an optimiser's learning rate.

    Args:
        component: whose argument "updates" stands for their number; None for no scheduler.
        optimiser: whose.
        updates: training steps.

    Raises:
        ConfigError: it is no scheduler, or cannot be made.
    """
    if component is None:
        return None
    args = {key: updates if value == "updates" else value for key, value in component.args.items()}
    scheduler = call(load(component.name), Component(component.name, args), optimiser)
    if not isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler):
        raise ConfigError(f"scheduler {component.name!r} must make a torch scheduler, not {type(scheduler).__name__}.")
    return scheduler


def build_estimator(component: Component) -> Estimator:
    """Of a gradient.

    Raises:
        ConfigError: it is no estimator, or cannot be made.
    """
    estimator = build(component)
    if not isinstance(estimator, Estimator):
        raise ConfigError(f"{component.name} must make an Estimator such as deepzero_sim.CGE.")
    return estimator
