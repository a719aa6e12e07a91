"""The parts of a training that settings name: network, optimiser, scheduler, estimator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from deepzero_sim.components import Component, build, call, load
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimator import Estimator
from deepzero_sim.vjp import VectorJacobianProduct


def build_network(component: Component, short: Mapping[str, Callable[..., nn.Module]], what_for: Any, seed: int) -> nn.Module:
    """A network with weights drawn from a seed.

    Args:
        component: a short name, an import path or file.py:Name, called with what it is for and the component's args.
        short: the networks that have a short name.
        what_for: a solver's spec, or the number of classes.
        seed: of the weights.

    Raises:
        ConfigError: it is no network, has layers without weights, or cannot be made.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = call(short.get(component.name) or load(component.name), component, what_for)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"network {component.name!r} must make a torch.nn.Module, not {type(network).__name__}.")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in network.parameters()):
        raise ConfigError(
            f"network {component.name!r} has lazy layers without weights: give them their sizes, or call it once."
        )
    return network


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


def build_product(component: Component) -> VectorJacobianProduct:
    """A solver's vector-Jacobian product.

    Raises:
        ConfigError: it is none, or cannot be made.
    """
    product = build(component)
    if not isinstance(product, VectorJacobianProduct):
        raise ConfigError(f"vjp {component.name!r} must make a dz.vjp.VectorJacobianProduct, not {type(product).__name__}.")
    return product
