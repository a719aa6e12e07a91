"""A network's parameters and buffers, such as running statistics, are not ours to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from deepzero_sim.types import NamedTensors


@contextmanager
def state_put_back(model: torch.nn.Module) -> Iterator[None]:
    """Undo whatever a network does to its parameters and buffers inside, in place (running statistics) or by assignment."""
    kept: list[tuple[dict[str, Any], str, torch.Tensor, torch.Tensor]] = [
        (tensors, name, tensor, tensor.detach().clone())
        for module in model.modules()
        for tensors in (module._parameters, module._buffers)
        for name, tensor in tensors.items()
        if tensor is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensors, name, tensor, values in kept:
                tensors[name] = tensor
                if not torch.equal(tensor, values):  # batch norm writes its statistics without raising their version
                    tensor.copy_(values)


def called_with(model: torch.nn.Module, tensors: NamedTensors, inputs: Sequence[Any]) -> Any:
    """What a network gives with other tensors for some of its parameters, wherever in it they are used.

    `torch.func.functional_call` loses the weights of a module that stands in two places: it puts the other tensors back.

    Args:
        model: the network.
        tensors: by the names of `named_parameters()`.
        inputs: that it is called with.
    """
    given = {id(model.get_parameter(name)): tensor for name, tensor in tensors.items()}
    places = [
        (module._parameters, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if id(parameter) in given
    ]
    try:
        for parameters, name, parameter in places:
            parameters[name] = given[id(parameter)]  # type: ignore[assignment]
        return model(*inputs)
    finally:
        for parameters, name, parameter in places:
            parameters[name] = parameter
