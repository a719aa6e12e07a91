"""A forward pass in float64 beside the one in the network's own dtype, operation by operation.

The network sees values of its own dtype, each of them rounded once from what float64 gives, so that rounding errors do not
add up from layer to layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch.utils import _pytree as pytree

_ROUNDED = (torch.float32, torch.float16, torch.bfloat16)


class Doubles:
    """Values in float64, by the slots that hold them rounded."""

    #: Bytes a float64 takes, over those that it takes in float32.
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
        """Call a function in float64: the tensors that it returns, or None if it does not go.

        Args:
            function: of torch.
            leaves: its arguments, flat.
            form: of the arguments.
            slots: of each leaf that is a value of the network.
            target: the argument that it writes into, if any.
        """
        try:
            given = [self._double(leaf, slot, leaf is target) for leaf, slot in zip(leaves, slots, strict=True)]
            args, kwargs = pytree.tree_unflatten(given, form)
            result = function(*args, **kwargs)
        except Exception:  # not every function, nor every device, takes float64
            return None
        return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]

    def _double(self, leaf: Any, slot: int | None, written: bool) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        known = None if slot is None else self._values.get(slot)
        value = known if known is not None else leaf.double() if leaf.dtype in _ROUNDED else leaf
        return value.clone() if written else value

    def keep(self, values: Mapping[int, torch.Tensor]) -> None:
        """Know what functions returned, by the slots of their results."""
        self._values.update((slot, value) for slot, value in values.items() if value.dtype == torch.float64)


def put_rounded(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Write values in float64, the first of each pair, over those that were computed in another dtype."""
    for value, result in pairs:
        if result.dtype in _ROUNDED and value.dtype == torch.float64 and value.shape == result.shape:
            result.copy_(value)
