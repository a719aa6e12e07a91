"""Propagation of differences through a recorded network, from what queries change to its result."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from deepzero_sim.oracle.difference.delta import Delta, Dense, OneChannel
from deepzero_sim.oracle.difference.fusion import FusedGroup, group_operations, propagate_group
from deepzero_sim.oracle.difference.kernels.image_convolution import ImageConvolution
from deepzero_sim.oracle.difference.propagation_state import Memos, Meter, PropagationState

# importing a module of rules registers them in the table
from deepzero_sim.oracle.difference.rules import activations, arithmetic, layers, losses, norms  # noqa: F401
from deepzero_sim.oracle.difference.rules.table import difference
from deepzero_sim.oracle.difference.trace import Operation, Recording, Slot, storage_address, storage_size

#: Parameters of mallopt, from glibc's `malloc.h`.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True)
class _Step:
    """Operation or group of operations, and the slots whose differences are not read after it."""

    operation: Operation | FusedGroup
    done: frozenset[Slot]


class Differences:
    """Propagation of differences through a recorded network.

    Args:
        recording: Forward pass of the base network.
        dtype: Dtype of the differences between operations; that of the values if None.
    """

    def __init__(self, recording: Recording, dtype: torch.dtype | None = None) -> None:
        _retain_freed_memory()
        self._recording = recording
        self._dtype = dtype
        self._plans: dict[frozenset[Slot], list[_Step]] = {}
        self._memos: Memos = defaultdict(dict)

    @property
    def size(self) -> int:
        """Bytes of what was computed of the base network in addition to its values."""
        known = {storage_address(x) for x in self._recording.values}
        sizes = {storage_address(x): storage_size(x) for memo in self._memos.values() for x in _tensors(memo)}
        return sum(size for address, size in sizes.items() if address not in known)

    def propagate(self, changes: Mapping[Slot, Delta], meter: Meter | None = None) -> Delta | None:
        """Compute the difference of the result; None if nothing changes.

        Args:
            changes: Differences of inputs and parameters.
            meter: Meter of the memory that the differences take.
        """
        state = PropagationState(self._recording, self._memos, dict(changes))
        for step in self._plan(frozenset(changes)):
            self._propagate_step(step.operation, step.done, state)
            if meter is not None:
                meter.update(state)
            for slot in step.done:
                state.deltas.pop(slot, None)
        return state.deltas.get(self._recording.output)

    def _plan(self, starts: frozenset[Slot]) -> list[_Step]:
        """List the steps from what changes to the result, each with the slots that it is the last to read."""
        if starts not in self._plans:
            groups = group_operations(self._recording, self._recording.dependents(list(starts)))
            last = {slot: group for group in groups for slot in _reads(group)}
            last.pop(self._recording.output, None)
            done: dict[Operation | FusedGroup, list[Slot]] = {}
            for slot, group in last.items():
                done.setdefault(group, []).append(slot)
            self._plans[starts] = [_Step(group, frozenset(done.get(group, ()))) for group in groups]
        return self._plans[starts]

    def _propagate_step(self, operation: Operation | FusedGroup, done: Collection[Slot], state: PropagationState) -> None:
        if isinstance(operation, FusedGroup):
            for remainder in propagate_group(operation, done, state):
                self._propagate_step(remainder, done, state)
        elif state.changes(operation):
            self._propagate_operation(operation, state)

    def _propagate_operation(self, operation: Operation, state: PropagationState) -> None:
        state.owned.difference_update(operation.reads)  # its rule may return an argument's memory
        args, kwargs = state.call_arguments(operation)
        first = next(slot for slot in operation.outputs if slot is not None)
        result = difference(operation.function, self._recording.values[first], args, kwargs)
        if result is None:
            return
        for slot, delta in zip(operation.outputs, pytree.tree_leaves(result), strict=True):
            if slot is not None and delta is not None:
                state.deltas[slot] = _cast(delta, self._dtype or _at_least_single(self._recording.values[slot].dtype))


@functools.cache
def _retain_freed_memory() -> None:
    """Let this process keep memory that it frees, up to 512 MiB and in pieces of less than 32 MiB, where malloc is glibc's.

    Every operation of a propagation makes a large tensor, and frees one. By default glibc gives such memory back to the
    operating system, which hands it out again page by page, each of them cleared. That took 35 % of the time of small
    networks and 4 % of ResNet-20's; the peak of memory stays as it was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 2**29)
        mallopt(_M_MMAP_THRESHOLD, 2**25)


def _reads(group: Operation | FusedGroup) -> list[Slot]:
    operations = group.operations if isinstance(group, FusedGroup) else (group,)
    return [slot for operation in operations for slot in operation.reads]


def _tensors(memo: Mapping[str, Any]) -> list[torch.Tensor]:
    """List the tensors of a memo, those inside fast convolutions included."""
    leaves = pytree.tree_leaves(list(memo.values()))
    inside = pytree.tree_leaves([list(vars(leaf).values()) for leaf in leaves if isinstance(leaf, ImageConvolution)])
    return [x for x in (*leaves, *inside) if isinstance(x, torch.Tensor)]


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    """Widen half precision to single: in half precision the differences of small steps would be zero."""
    return torch.promote_types(dtype, torch.float32)


def _cast(delta: Delta, dtype: torch.dtype) -> Delta:
    """Convert differences to another dtype; those of single numbers, such as losses, stay as they are."""
    if isinstance(delta, Dense):
        return delta if delta.values.dim() == 1 else Dense(delta.values.to(dtype))
    return delta.with_values(delta.values.to(dtype)) if isinstance(delta, OneChannel) else delta
