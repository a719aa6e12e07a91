"""Builders of a training's parts that settings name: optimiser, scheduler, estimator, vector-Jacobian product.

Each raises a ConfigError if the component is none of that kind, or cannot be made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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

build_estimator: Callable[[Component], Estimator] = partial(build, kind=ESTIMATOR, setting="estimator")
build_vjp: Callable[[Component], VectorJacobianProduct] = partial(build, kind=VJP, setting="vjp")


def build_optimiser(component: Component, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimiser of a network's parameters."""
    optimiser: torch.optim.Optimizer = build(component, model.parameters(), kind=OPTIMISER, setting="optimiser")
    return optimiser


def build_scheduler(
    component: Component | None, optimiser: torch.optim.Optimizer, updates: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """Build the scheduler of an optimiser's learning rate; None for no scheduler.

    Args:
        component: Scheduler, whose argument "updates" stands for their number.
        optimiser: Optimiser.
        updates: Number of updates.
    """
    if component is None:
        return None
    args = {key: updates if value == "updates" else value for key, value in component.args.items()}
    named = Component(component.name, args)
    scheduler: torch.optim.lr_scheduler.LRScheduler = build(named, optimiser, kind=SCHEDULER, setting="scheduler")
    return scheduler
