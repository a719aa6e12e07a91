"""Builders of a training's parts that settings name: optimiser, learning-rate schedule, estimator, coupling and so on.

Each raises a ConfigError if the component is none of that kind, or cannot be made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import cos, pi

import torch
from torch import nn

from deepzero_sim.common.components import Component, Kind, build
from deepzero_sim.common.requirements import Words, require
from deepzero_sim.coupling.couplings import Coupling
from deepzero_sim.coupling.vjp.base import VectorJacobianProduct
from deepzero_sim.estimators.base import Estimator

#: Kinds of objects that the settings of these parts may name.
OPTIMISER = Kind.of(torch.optim.Optimizer, "a torch optimiser")
SCHEDULER = Kind.of(torch.optim.lr_scheduler.LRScheduler, "a torch scheduler")
ESTIMATOR = Kind.of(Estimator, "an Estimator such as deepzero_sim.CGE")
COUPLING = Kind.of(Coupling, "a dz.couplings.Coupling")
VJP = Kind.of(VectorJacobianProduct, "a dz.vjp.VectorJacobianProduct")

build_estimator: Callable[[Component], Estimator] = partial(build, kind=ESTIMATOR, setting="estimator")
build_coupling: Callable[[Component], Coupling] = partial(build, kind=COUPLING, setting="coupling")
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


def warm_up_cosine(optimiser: torch.optim.Optimizer, steps: int, warm_up: float = 0.06) -> torch.optim.lr_scheduler.LambdaLR:
    """Schedule a rate from 0 up in a line, then down to 0 along half a cosine: at step `t` of `T`, with `w` of them to warm up,
    the optimiser's rate times

        (t + 1) / w                              for t < w
        (1 + cos(pi (t - w) / (T - w))) / 2      from there on

    Args:
        optimiser: Optimiser whose learning rate is scheduled.
        steps: Number of training steps, `T`.
        warm_up: Share of them to warm up, `w / T`.

    Raises:
        ConfigError: The warm-up is not a share of the steps.
    """
    require(0 <= warm_up < 1, "warm_up must be a share of the steps, from 0 to below 1", Words(warm_up))
    return torch.optim.lr_scheduler.LambdaLR(optimiser, partial(_factor, steps, round(warm_up * steps)))


def _factor(steps: int, warm_up: int, step: int) -> float:
    if step < warm_up:
        return (step + 1) / warm_up
    return (1 + cos(pi * (step - warm_up) / max(1, steps - warm_up))) / 2
