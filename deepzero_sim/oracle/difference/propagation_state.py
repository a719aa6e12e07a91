"""State of a propagation: the recorded network, the differences of a chunk of queries so far, and the memory that they take."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch

from deepzero_sim.oracle.difference.delta import Changed, Delta, InParameter
from deepzero_sim.oracle.difference.trace import Operation, Recording, Slot

#: For each operation, its results on the base network, shared by all chunks.
Memos = defaultdict[Operation, dict[str, Any]]


@dataclass(eq=False)
class PropagationState:
    """Differences of a chunk of queries on their way through a recorded network.

    Args:
        recording: Forward pass of the base network.
        memos: Memos of its operations.
        deltas: Differences by slot.
        moments: Moments (`native.moments`), by slot, of differences that a norm reads, where they are known.
        owned: Slots whose differences share their memory with no others, so that it may be overwritten after their last use.
    """

    recording: Recording
    memos: Memos
    deltas: dict[Slot, Delta] = field(default_factory=dict)
    moments: dict[Slot, torch.Tensor] = field(default_factory=dict)
    owned: set[Slot] = field(default_factory=set)

    def call_arguments(self, operation: Operation) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return an operation's `(args, kwargs)`, with a :class:`Changed` for each value that the queries change."""
        values, memo = self.recording.values, self.memos[operation]
        return operation.call_arguments(
            lambda slot: Changed(values[slot], self.deltas[slot], memo) if slot in self.deltas else values[slot]
        )

    def changes(self, operation: Operation) -> bool:
        """Tell whether the queries change any argument of an operation."""
        return any(slot in self.deltas for slot in operation.reads)


@dataclass
class Meter:
    """Measurement of the memory that differences take.

    Args:
        peak: Largest number of bytes stored at once.
    """

    peak: int = 0

    def update(self, state: PropagationState) -> None:
        """Measure the differences that are stored now."""
        tensors = [delta.values for delta in state.deltas.values() if not isinstance(delta, InParameter)]
        self.peak = max(self.peak, sum(x.numel() * x.element_size() for x in tensors))
