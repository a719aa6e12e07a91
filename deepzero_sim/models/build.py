"""Networks that settings name, made with weights drawn from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from deepzero_sim.common.components import Component, Wanted, call, load_factory
from deepzero_sim.errors import ConfigError

#: What a setting may name as a network.
NETWORK = Wanted.of(nn.Module, "a torch.nn.Module")

#: Tensors that a network may be made of, and copies of its weights that training keeps: gradients and an optimiser's moments.
MOST_TENSORS, COPIES = 20_000, 4


class _WithinMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses a network before it is made, if this machine has no room to train it.

    Args:
        component: the network, for messages.
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
        made = f"{needed / 2**30:,.0f} GiB or more to be trained, and {self._free / 2**30:,.0f} are free here"
        if self._tensors > MOST_TENSORS:
            made = f"more than the {MOST_TENSORS:,} tensors that a network may have"
        args = ", ".join(f"{key}={value!r}" for key, value in self._component.args.items()) or "its own sizes"
        raise ConfigError(f"network {self._component.name!r} with {args} needs {made}: make it smaller.")


def free_memory() -> int:
    """Bytes of main memory that programs can still have; many where the system does not tell."""
    try:
        told = Path("/proc/meminfo").read_text(encoding="ascii")
        return 1024 * int(told.partition("MemAvailable:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        return 2**62


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
    with torch.random.fork_rng(), _WithinMemory(component):
        torch.manual_seed(seed)
        network = call(short.get(component.name) or load_factory(component.name, NETWORK), component, what_for)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"network {component.name!r} must make a torch.nn.Module, not {type(network).__name__}.")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in network.parameters()):
        raise ConfigError(
            f"network {component.name!r} has lazy layers without weights: give them their sizes, or call it once."
        )
    return network
