"""State of a network: parameters, buffers and attributes, which a query may not change, nor the network while it is queried."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree


class _Saved(NamedTuple):
    """Tensor, another view of its memory as it lies now, its values, and whether it is trained."""

    tensor: torch.Tensor
    view: torch.Tensor
    values: torch.Tensor
    trained: bool


@contextmanager
def preserve_state(model: torch.nn.Module) -> Iterator[None]:
    """Restore a network afterwards, whatever is done to it inside: its parameters and buffers bit for bit.

    A network itself may write into them (running statistics), resize or replace them; register others, count its calls, store
    what it computed, exchange its modules.
    """
    attributes = [(vars(module), dict(vars(module))) for module in model.modules()]
    for _, named in list(attributes):
        registers = (named[name] for name in ("_parameters", "_buffers", "_modules"))
        attributes += [(entries, dict(entries)) for entries in registers]
    saved = [
        _Saved(tensor, tensor.data, tensor.data.clone(), tensor.requires_grad)
        for tensor in dict.fromkeys((*model.parameters(), *model.buffers()))
        if tensor.layout == torch.strided
    ]
    try:
        yield
    finally:
        for now, before in attributes:
            now.clear()
            now.update(before)
        for tensor, view, values, trained in saved:
            if not _lies_as(tensor, view):
                tensor.data = view
            if not torch.equal(view, values):  # batch norm writes its statistics without raising their version
                view.copy_(values)
            if tensor.requires_grad != trained:
                tensor.requires_grad_(trained)


def _lies_as(tensor: torch.Tensor, view: torch.Tensor) -> bool:
    """Tell a tensor that is the same piece of memory, seen in the same way."""
    ours, theirs = ((t.dtype, t.device, t.shape, t.stride(), t.data_ptr()) for t in (tensor, view))
    return ours == theirs


def force_eager() -> AbstractContextManager[Any]:
    """Run compiled networks inside as the modules they were made from.

    The compiler would otherwise compile what watches their operations along with them: seconds a pass, and warnings.
    """
    if "torch._dynamo" not in sys.modules:  # nothing was compiled, and the import takes seconds
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def precision_of(model: torch.nn.Module) -> torch.dtype | None:
    """Find the real dtype that a network computes in, by its first parameter of real or complex numbers; None if it has none.

    Parameters of whole numbers or truth values, such as tables of indices, do not count.
    """
    numbers = (p.dtype.to_real() for p in model.parameters() if p.is_floating_point() or p.is_complex())
    return next(numbers, None)


def as_input(model: torch.nn.Module, tensor: torch.Tensor) -> torch.Tensor:
    """Copy real numbers to a network's precision and device: the network may write into the copy."""
    device = next((p.device for p in model.parameters()), tensor.device)
    return tensor.to(device=device, dtype=precision_of(model) or tensor.dtype, copy=True)


def copy_tensors(inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Copy the tensors in a call's arguments: the code that is called may write into the copies."""
    copies: tuple[Any, ...] = pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, tuple(inputs))
    return copies


def cast(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Convert a network's real parameters and buffers to a precision, in place, and complex ones to the complex type of that.

    `Module.to(dtype)` would throw imaginary parts away.
    """

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_complex():
            return tensor.to(dtype.to_complex())
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    model._apply(convert)  # type: ignore[no-untyped-call] # as Module.to does, for every parameter and buffer in place
    return model


def write(model: torch.nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    """Write values into a network's parameters by name, in place, so that all that holds or shares their memory sees them.

    Replacing the tensors would not: lists and views that the network stores would stay with the old ones.
    """
    for name, tensor in values.items():
        model.get_parameter(name).data.copy_(tensor)
