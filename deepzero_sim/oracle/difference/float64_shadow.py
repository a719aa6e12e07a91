"""A forward pass in float64 next to the one in the network's own dtype, operation by operation.

The network works on values of its own dtype, each rounded once from what float64 gives, so that rounding errors do not add up
from layer to layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch.utils import _pytree as pytree

_ROUNDED = (torch.float32, torch.float16, torch.bfloat16)


class Float64Shadow:
    """Values in float64, by the slots that hold them rounded."""

    #: Bytes of a value in float64, as a multiple of those in float32.
    RATIO: ClassVar[int] = 2

    def __init__(self) -> None:
        self._values: dict[int, torch.Tensor] = {}

    def call(
        self,
        function: Callable[..., Any],
        leaves: Sequence[Any],
        form: pytree.TreeSpec,
        slots: Sequence[int | None],
        target: torch.Tensor | None,
    ) -> list[torch.Tensor] | None:
        """Call a function in float64.

        Args:
            function: Function of torch.
            leaves: Arguments, flat.
            form: Structure of the arguments.
            slots: Slot of each leaf that is a value of the network.
            target: Argument that the function writes into, if any.

        Returns:
            Tensors that it returns; None if it fails in float64.
        """
        try:
            arguments = [self._double(leaf, slot, leaf is target) for leaf, slot in zip(leaves, slots, strict=True)]
            args, kwargs = pytree.tree_unflatten(arguments, form)
            result = function(*args, **kwargs)
        except Exception:  # not every function, nor every device, takes float64
            return None
        return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]

    def _double(self, leaf: Any, slot: int | None, overwritten: bool) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        known = None if slot is None else self._values.get(slot)
        value = known if known is not None else leaf.double() if leaf.dtype in _ROUNDED else leaf
        return value.clone() if overwritten else value

    def store(self, values: Mapping[int, torch.Tensor]) -> None:
        """Store results of functions by their slots."""
        self._values.update((slot, value) for slot, value in values.items() if value.dtype == torch.float64)


def write_rounded(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Write values in float64, the first of each pair, over those that were computed in another dtype."""
    for value, result in pairs:
        if result.dtype in _ROUNDED and value.dtype == torch.float64 and value.shape == result.shape:
            result.copy_(value)
