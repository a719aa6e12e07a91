"""What is carried through a recorded network at a moment: the network as it is, and what the queries change so far."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch

from deepzero_sim.oracle.difference.delta import Changed, Delta
from deepzero_sim.oracle.difference.trace import Operation, Recording, Slot

#: For each operation, what it has computed of the base network, once for all chunks.
Memos = defaultdict[Operation, dict[str, Any]]


@dataclass(eq=False)
class Carried:
    """Differences of a chunk of queries on their way.

    Args:
        recording: of the network as it is.
        memos: of its operations.
        deltas: by slot, what the queries change.
        moments: by slot, of differences that a norm reads (`native.moments`), where they are known.
        owned: slots of differences whose memory no other difference shares, so that it may be written when they are done with.
    """

    recording: Recording
    memos: Memos
    deltas: dict[Slot, Delta] = field(default_factory=dict)
    moments: dict[Slot, torch.Tensor] = field(default_factory=dict)
    owned: set[Slot] = field(default_factory=set)

    def arguments(self, operation: Operation) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """An operation's arguments, each that the queries change as a :class:`Changed`."""
        values, memo = self.recording.values, self.memos[operation]
        return operation.call_arguments(
            lambda slot: Changed(values[slot], self.deltas[slot], memo) if slot in self.deltas else values[slot]
        )

    def changed(self, operation: Operation) -> bool:
        """Whether the queries change what it reads."""
        return any(slot in self.deltas for slot in operation.reads)
