"""Networks that settings name, built with weights drawn from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from deepzero_sim.common.components import Component, Kind, call, load_factory
from deepzero_sim.common.machine import free_memory
from deepzero_sim.common.requirements import require_type
from deepzero_sim.errors import ConfigError

#: Kind of object that a setting for a network must name.
NETWORK = Kind.of(nn.Module, "a torch.nn.Module")

#: Largest number of tensors in a network.
MOST_TENSORS = 20_000

#: Arrays of the weights' size that training holds: weights, gradients, and an optimiser's two moments.
COPIES = 4


class _MemoryLimit(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context that refuses a network while its tensors are being created, if this machine has no room to train it.

    Args:
        component: Component that makes the network, for messages.
    """

    def __init__(self, component: Component) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._component, self._free, self._numbers, self._tensors = component, free_memory(), 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sizes = args[0] if args and isinstance(args[0], list | tuple) else ()
        if sizes and all(isinstance(size, int) for size in sizes):  # a new tensor
            self._numbers, self._tensors = self._numbers + math.prod(sizes), self._tensors + 1
            self._require_room()
        return func(*args, **(kwargs or {}))

    def _require_room(self) -> None:
        needed = 4 * COPIES * self._numbers
        if needed <= self._free and self._tensors <= MOST_TENSORS:
            return
        what = f"{needed / 2**30:,.0f} GiB or more to be trained, and {self._free / 2**30:,.0f} are free here"
        if self._tensors > MOST_TENSORS:
            what = f"more than the {MOST_TENSORS:,} tensors that a network may have"
        args = ", ".join(f"{key}={value!r}" for key, value in self._component.args.items()) or "its own sizes"
        raise ConfigError(f"network {self._component.name!r} with {args} needs {what}: make it smaller.")


def build_network(component: Component, built_in: Mapping[str, Callable[..., nn.Module]], task: Any, seed: int) -> nn.Module:
    """Build a network with weights drawn from a seed.

    Args:
        component: Short name, import path or file.py:Name of a factory, with its keyword arguments.
        built_in: Factories by short name.
        task: First argument of the factory: a solver's spec, or the number of classes.
        seed: Seed of the weights.

    Raises:
        ConfigError: The factory does not make a network, leaves layers without weights, or fails.
    """
    with torch.random.fork_rng(), _MemoryLimit(component):
        torch.manual_seed(seed)
        network: nn.Module = call(built_in.get(component.name) or load_factory(component.name, NETWORK), component, task)
    require_type(network, nn.Module, f"network {component.name!r} must make a torch.nn.Module")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in network.parameters()):
        raise ConfigError(
            f"network {component.name!r} has lazy layers without weights: give them their sizes, or call it once."
        )
    return network
