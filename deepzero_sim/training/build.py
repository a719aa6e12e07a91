"""Building of a training's parts that settings name: optimiser, scheduler, estimator, vector-Jacobian product."""

from __future__ import annotations

import torch
from torch import nn

from deepzero_sim.common.components import Component, Kind, build
from deepzero_sim.coupling.vjp.base import VectorJacobianProduct
from deepzero_sim.estimators.base import Estimator

#: Kinds of objects that the settings of these parts may name.
OPTIMISER = Kind.of(torch.optim.Optimizer, "a torch optimiser")
SCHEDULER = Kind.of(torch.optim.lr_scheduler.LRScheduler, "a torch scheduler")
ESTIMATOR = Kind.of(Estimator, "an Estimator such as deepzero_sim.CGE")
VJP = Kind.of(VectorJacobianProduct, "a dz.vjp.VectorJacobianProduct")


def build_optimiser(component: Component, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimiser of a network's parameters.

    Raises:
        ConfigError: The component is no optimiser, or cannot be made.
    """
    optimiser: torch.optim.Optimizer = build(component, model.parameters(), kind=OPTIMISER, setting="optimiser")
    return optimiser


def build_scheduler(
    component: Component | None, optimiser: torch.optim.Optimizer, updates: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """Build the scheduler of an optimiser's learning rate.

    Args:
        component: Scheduler, whose argument "updates" stands for their number; None for no scheduler.
        optimiser: Optimiser.
        updates: Number of updates.

    Raises:
        ConfigError: The component is no scheduler, or cannot be made.
    """
    if component is None:
        return None
    args = {key: updates if value == "updates" else value for key, value in component.args.items()}
    named = Component(component.name, args)
    scheduler: torch.optim.lr_scheduler.LRScheduler = build(named, optimiser, kind=SCHEDULER, setting="scheduler")
    return scheduler


def build_estimator(component: Component) -> Estimator:
    """Build the estimator of a gradient.

    Raises:
        ConfigError: The component is no estimator, or cannot be made.
    """
    estimator: Estimator = build(component, kind=ESTIMATOR, setting="estimator")
    return estimator


def build_vjp(component: Component) -> VectorJacobianProduct:
    """Build a solver's vector-Jacobian product.

    Raises:
        ConfigError: The component is none, or cannot be made.
    """
    vjp: VectorJacobianProduct = build(component, kind=VJP, setting="vjp")
    return vjp
