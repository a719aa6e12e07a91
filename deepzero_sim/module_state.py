"""A network's parameters and buffers, such as running statistics, are not ours to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from deepzero_sim.types import NamedTensors


class _Kept(NamedTuple):
    """A tensor, another view of its memory as it lies now, and its values."""

    tensor: torch.Tensor
    view: torch.Tensor
    values: torch.Tensor


@contextmanager
def state_put_back(model: torch.nn.Module) -> Iterator[None]:
    """Whatever is done to a network's parameters and buffers inside, afterwards they are what they were, bit for bit.

    A network itself may write into them (running statistics), assign others, resize, register or delete them.
    """
    places = [(tensors, dict(tensors)) for m in model.modules() for tensors in (m._parameters, m._buffers)]
    tensors = {id(t): t for _, entries in places for t in entries.values() if t is not None}
    kept = [_Kept(t, t.detach(), t.detach().clone()) for t in tensors.values()]
    try:
        yield
    finally:
        for tensors_now, entries in places:
            tensors_now.clear()
            tensors_now.update(entries)  # type: ignore[arg-type]
        with torch.no_grad():
            for tensor, view, values in kept:
                if not _lies_as(tensor, view):
                    tensor.data = view
                if not torch.equal(tensor, values):  # batch norm writes its statistics without raising their version
                    tensor.copy_(values)


def _lies_as(tensor: torch.Tensor, view: torch.Tensor) -> bool:
    """Whether a tensor is the same piece of memory, seen in the same way."""
    ours, theirs = ((t.dtype, t.device, t.shape, t.stride(), t.data_ptr()) for t in (tensor, view))
    return ours == theirs


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
