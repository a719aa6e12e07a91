"""The parts of a training that settings name: optimiser, scheduler, estimator, vector-Jacobian product."""

from __future__ import annotations

import torch
from torch import nn

from deepzero_sim.common.components import Component, Wanted, build
from deepzero_sim.coupling.vjp import VectorJacobianProduct
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators import Estimator

#: What the settings of a training's parts may name.
OPTIMISER = Wanted.of(torch.optim.Optimizer, "a torch optimiser")
SCHEDULER = Wanted.of(torch.optim.lr_scheduler.LRScheduler, "a torch scheduler")
ESTIMATOR = Wanted.of(Estimator, "an Estimator such as deepzero_sim.CGE")
PRODUCT = Wanted.of(VectorJacobianProduct, "a dz.vjp.VectorJacobianProduct")


def build_optimiser(component: Component, model: nn.Module) -> torch.optim.Optimizer:
    """Of a network's parameters.

    Raises:
        ConfigError: it is no optimiser, or cannot be made.
    """
    optimiser = build(component, model.parameters(), wanted=OPTIMISER)
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
    scheduler = build(Component(component.name, args), optimiser, wanted=SCHEDULER)
    if not isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler):
        raise ConfigError(f"scheduler {component.name!r} must make a torch scheduler, not {type(scheduler).__name__}.")
    return scheduler


def build_estimator(component: Component) -> Estimator:
    """Of a gradient.

    Raises:
        ConfigError: it is no estimator, or cannot be made.
    """
    estimator = build(component, wanted=ESTIMATOR)
    if not isinstance(estimator, Estimator):
        raise ConfigError(f"{component.name} must make an Estimator such as deepzero_sim.CGE.")
    return estimator


def build_product(component: Component) -> VectorJacobianProduct:
    """A solver's vector-Jacobian product.

    Raises:
        ConfigError: it is none, or cannot be made.
    """
    product = build(component, wanted=PRODUCT)
    if not isinstance(product, VectorJacobianProduct):
        raise ConfigError(f"vjp {component.name!r} must make a dz.vjp.VectorJacobianProduct, not {type(product).__name__}.")
    return product
