"""Differences carried through a recorded network, from what queries change to its result."""

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from deepzero_sim.oracle.difference.delta import Delta, Dense, OneChannel, OneCoordinate
from deepzero_sim.oracle.difference.fusion import Fused, grouped, through
from deepzero_sim.oracle.difference.kernels.image_convolution import ImageConvolution
from deepzero_sim.oracle.difference.propagation_state import Carried, Memos

# the modules of rules enter them into the table
from deepzero_sim.oracle.difference.rules import activations, arithmetic, layers, losses, norms  # noqa: F401
from deepzero_sim.oracle.difference.rules.recompute import recompute
from deepzero_sim.oracle.difference.rules.table import RULES, Rule
from deepzero_sim.oracle.difference.trace import Operation, Recording, Slot, address, size_of


@dataclass
class Meter:
    """How much memory differences take.

    Args:
        peak: bytes that were kept at once, at most.
    """

    peak: int = 0

    def read(self, deltas: Iterable[Delta]) -> None:
        """Take notice of what is kept now."""
        kept = [delta.values for delta in deltas if not isinstance(delta, OneCoordinate)]
        self.peak = max(self.peak, sum(x.numel() * x.element_size() for x in kept))


@dataclass(frozen=True)
class _Step:
    """An operation or some that go together, and the slots whose differences nobody reads after them."""

    what: Operation | Fused
    done: frozenset[Slot]


class Differences:
    """What queries change of a recorded network.

    Args:
        recording: of the network as it is.
        dtype: of the differences between operations; that of the values if None.
    """

    def __init__(self, recording: Recording, dtype: torch.dtype | None = None) -> None:
        self._recording = recording
        self._dtype = dtype
        self._plans: dict[frozenset[Slot], list[_Step]] = {}
        self._memos: Memos = defaultdict(dict)

    @property
    def size(self) -> int:
        """Bytes of what was computed of the network as it is, beside its values."""
        known = {address(x) for x in self._recording.values}
        kept = [x for memo in self._memos.values() for x in _tensors(memo)]
        sizes = {address(x): size_of(x) for x in kept}
        return sum(size for where, size in sizes.items() if where not in known)

    def of(self, changes: Mapping[Slot, Delta], meter: Meter | None = None) -> Delta | None:
        """What queries change of the result; None if nothing.

        Args:
            changes: what they change of inputs and parameters.
            meter: is told how much memory the differences take.
        """
        carried = Carried(self._recording, self._memos, dict(changes))
        for step in self._plan(frozenset(changes)):
            self._through(step.what, step.done, carried)
            if meter is not None:
                meter.read(carried.deltas.values())
            for slot in step.done:
                carried.deltas.pop(slot, None)
        return carried.deltas.get(self._recording.output)

    def _plan(self, starts: frozenset[Slot]) -> list[_Step]:
        if starts not in self._plans:
            groups = grouped(self._recording, self._recording.behind(list(starts)))
            last = {slot: group for group in groups for slot in _reads(group)}
            last.pop(self._recording.output, None)
            done: dict[Operation | Fused, list[Slot]] = {}
            for slot, group in last.items():
                done.setdefault(group, []).append(slot)
            self._plans[starts] = [_Step(group, frozenset(done.get(group, ()))) for group in groups]
        return self._plans[starts]

    def _through(self, what: Operation | Fused, done: Collection[Slot], carried: Carried) -> None:
        """Enter the differences of what an operation computes, or some that go together."""
        if isinstance(what, Fused):
            for left in through(what, done, carried):
                self._through(left, done, carried)
        elif carried.changed(what):
            self._alone(what, carried)

    def _alone(self, operation: Operation, carried: Carried) -> None:
        carried.owned.difference_update(operation.reads)  # its rule may return what it is given
        args, kwargs = carried.arguments(operation)
        first = next(slot for slot in operation.outputs if slot is not None)
        result = _ruled(operation.function, self._recording.values[first], args, kwargs)
        if result is None:
            return
        for slot, delta in zip(operation.outputs, pytree.tree_leaves(result), strict=True):
            if slot is not None and delta is not None:
                carried.deltas[slot] = _in_dtype(delta, self._dtype or _wide(self._recording.values[slot].dtype))


def _reads(group: Operation | Fused) -> list[Slot]:
    operations = group.operations if isinstance(group, Fused) else (group,)
    return [slot for operation in operations for slot in operation.reads]


def _tensors(memo: Mapping[str, Any]) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves(list(memo.values()))
    inside = [x for leaf in leaves if isinstance(leaf, ImageConvolution) for x in vars(leaf).values()]
    return [x for x in (*leaves, *inside) if isinstance(x, torch.Tensor)]


def _ruled(function: Callable[..., Any], out: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """By its rule, or recomputed from values if there is none for such arguments."""
    rule = RULES.get(function)
    known = rule is not None and _takes(rule, len(args), tuple(kwargs))
    delta = rule(out, *args, **kwargs) if rule is not None and known else NotImplemented
    return recompute(function, args, kwargs) if delta is NotImplemented else delta


@functools.cache
def _takes(rule: Rule, count: int, names: tuple[str, ...]) -> bool:
    """Whether a rule takes so many arguments by place and these by name: those of torch have several names for some."""
    try:
        inspect.signature(rule).bind(None, *[None] * count, **dict.fromkeys(names))
    except TypeError:
        return False
    return True


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What differences of values are carried in: in half precision those of small steps would be zero."""
    return torch.promote_types(dtype, torch.float32)


def _in_dtype(delta: Delta, dtype: torch.dtype) -> Delta:
    """Differences in another dtype; those of single numbers, such as losses, stay as they are."""
    if isinstance(delta, Dense):
        return delta if delta.values.dim() == 1 else Dense(delta.values.to(dtype))
    return delta.with_values(delta.values.to(dtype)) if isinstance(delta, OneChannel) else delta
