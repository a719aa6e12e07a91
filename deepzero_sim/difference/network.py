"""Differences carried through a recorded network, from what queries change to its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch.utils import _pytree as pytree

# the modules of rules enter them into the table
from deepzero_sim.difference import activations, arithmetic, layers, losses, norms  # noqa: F401
from deepzero_sim.difference.delta import Changed, Delta, Dense, OneChannel, OneCoordinate
from deepzero_sim.difference.norms import normalised_and_activated
from deepzero_sim.difference.recompute import recompute
from deepzero_sim.difference.recording import Operation, Recording, Slot
from deepzero_sim.difference.rules import RULES


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
    """Operations of a plan that go together, and the slots whose differences nobody reads after them."""

    operations: tuple[Operation, ...]
    done: tuple[Slot, ...]


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
        self._memos: dict[Operation, dict[str, Any]] = {}

    def of(self, changes: Mapping[Slot, Delta], meter: Meter | None = None) -> Delta | None:
        """What queries change of the result; None if nothing.

        Args:
            changes: what they change of inputs and parameters.
            meter: is told how much memory the differences take.
        """
        deltas = dict(changes)
        for step in self._plan(frozenset(changes)):
            self._through_all(step.operations, deltas)
            if meter is not None:
                meter.read(deltas.values())
            for slot in step.done:
                deltas.pop(slot, None)
        return deltas.get(self._recording.output)

    def _plan(self, starts: frozenset[Slot]) -> list[_Step]:
        if starts not in self._plans:
            groups = fused(self._recording, self._recording.behind(list(starts)))
            last = {slot: group for group in groups for operation in group for slot in operation.reads}
            last.pop(self._recording.output, None)
            done: dict[tuple[Operation, ...], list[Slot]] = {}
            for slot, group in last.items():
                done.setdefault(group, []).append(slot)
            self._plans[starts] = [_Step(group, tuple(done.get(group, ()))) for group in groups]
        return self._plans[starts]

    def _through_all(self, operations: Sequence[Operation], deltas: dict[Slot, Delta]) -> None:
        """Enter the differences of what the operations compute; together where that is one pass over memory."""
        if len(operations) > 1 and any(slot in deltas for slot in operations[0].reads):
            delta = self._together(operations, deltas)
            if delta is not NotImplemented:
                (slot,) = operations[-1].outputs
                assert slot is not None
                deltas[slot] = delta
                return
        for operation in operations:
            for slot, delta in self._through(operation, deltas):
                deltas[slot] = delta

    def _together(self, operations: Sequence[Operation], deltas: Mapping[Slot, Delta]) -> Any:
        """Batch normalisation, perhaps a sum, and a ReLU."""
        norm, *add, relu = operations
        args = self._arguments(norm, deltas)[1]
        skips = [slot for operation in add for slot in operation.reads if slot not in norm.outputs]
        shapes = {self._recording.values[slot].shape for slot in (*norm.outputs, *skips, *relu.outputs) if slot is not None}
        if len(shapes) > 1:  # the sum spreads one of its terms
            return NotImplemented
        return normalised_and_activated(
            args["input"],
            tuple(args.get(name) for name in ("running_mean", "running_var", "weight", "bias")),
            (args.get("training", False), None, args.get("eps", 1e-5)),
            self._recording.values[relu.reads[0]],
            deltas.get(skips[0]) if skips else None,
        )

    def _arguments(self, operation: Operation, deltas: Mapping[Slot, Delta]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        values, memo = self._recording.values, self._memos.setdefault(operation, {})
        return operation.call_arguments(
            lambda slot: Changed(values[slot], deltas[slot], memo) if slot in deltas else values[slot]
        )

    def _through(self, operation: Operation, deltas: Mapping[Slot, Delta]) -> Iterable[tuple[Slot, Delta]]:
        """What an operation makes of differences: those of its results."""
        if not any(slot in deltas for slot in operation.reads):
            return
        args, kwargs = self._arguments(operation, deltas)
        first = next(slot for slot in operation.outputs if slot is not None)
        result = _ruled(operation.function, self._recording.values[first], args, kwargs)
        if result is None:
            return
        for slot, delta in zip(operation.outputs, pytree.tree_leaves(result), strict=True):
            if slot is not None and delta is not None:
                yield slot, delta if self._dtype is None else _in_dtype(delta, self._dtype)


def fused(recording: Recording, operations: Sequence[Operation]) -> list[tuple[Operation, ...]]:
    """Operations in order, those that go together in one group: batch normalisation, perhaps a sum, and a ReLU.

    What lies between them must not be read by others.
    """
    readers: dict[Slot, list[Operation]] = {}
    for operation in recording.operations:
        for slot in operation.reads:
            readers.setdefault(slot, []).append(operation)
    groups: dict[Operation, tuple[Operation, ...]] = {}
    for operation in operations:
        if operation.function is F.batch_norm:
            group = _group(operation, readers)
            if recording.output not in [slot for member in group[:-1] for slot in member.outputs]:
                groups[group[-1]] = group
    grouped = {member: end for end, group in groups.items() for member in group}
    return [groups.get(operation, (operation,)) for operation in operations if grouped.get(operation, operation) is operation]


def _group(norm: Operation, readers: Mapping[Slot, Sequence[Operation]]) -> tuple[Operation, ...]:
    group = [norm]
    while (reader := _only_reader(group[-1], readers)) is not None and len(group) < 3:
        group.append(reader)
        if reader.function in _RELU:
            return tuple(group)
        if reader.function not in _SUM or len(reader.arguments) != 2 or len(set(reader.reads)) != 2:
            break
    return (norm,)


def _only_reader(operation: Operation, readers: Mapping[Slot, Sequence[Operation]]) -> Operation | None:
    (slot,) = operation.outputs
    found = readers.get(slot, ()) if slot is not None else ()
    return found[0] if len(found) == 1 else None


_RELU = {F.relu, torch.relu, torch.Tensor.relu, torch.Tensor.relu_, torch.relu_}
_SUM = {torch.add, torch.Tensor.add, torch.Tensor.add_}


def _ruled(function: Callable[..., Any], out: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """By its rule, or recomputed from values if there is none for such arguments."""
    rule = RULES.get(function)
    delta = NotImplemented if rule is None else rule(out, *args, **kwargs)
    return recompute(function, args, kwargs) if delta is NotImplemented else delta


def _in_dtype(delta: Delta, dtype: torch.dtype) -> Delta:
    """Differences in another dtype; those of single numbers, such as losses, stay as they are."""
    if isinstance(delta, Dense):
        return delta if delta.values.dim() == 1 else Dense(delta.values.to(dtype))
    return delta.with_values(delta.values.to(dtype)) if isinstance(delta, OneChannel) else delta
