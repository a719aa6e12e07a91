"""Time left of work that workers do side by side, in batches that finish all at once."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

#: Part of what a task has taken so far that it is thought to take yet, where it takes longer than others.
OVERDUE = 0.1


class PoolRate:
    """Estimate of the time left, from how long batches take and from how long those that are in progress have been going on.

    Each worker has one batch after the other, and all things of a batch are done at its end. There is an estimate once the
    first batch has ended.

    Args:
        workers: Number of workers.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._batches, self._size = 0, 1.0
        self._begun, self._found = 0.0, 0
        self._ends: list[float] = []

    def begin(self, sizes: Sequence[int], found: int, now: float) -> None:
        """Note that batches of these sizes begin at a time, in seconds, and how many things were there before."""
        self._batches, self._size = len(sizes), sum(sizes) / max(1, len(sizes))
        self._begun, self._found, self._ends = now, found, []

    def add(self, done: int, now: float) -> None:
        """Note how many things are done at a time: the first of a batch says that all of it is."""
        made = done - self._found
        ended = min(self._batches, math.floor((made - 1) / self._size) + 1) if made > 0 else 0
        self._ends += [now] * (ended - len(self._ends))

    def left(self, now: float) -> float | None:
        """Return the seconds left at a time; None where that cannot be told yet."""
        if not self._ends:
            return None
        waiting = self._batches - len(self._ends)
        starts = [*[self._begun] * self._workers, *self._ends]  # a batch begins when the one before it has ended
        one = _typical([end - start for start, end in zip(starts, self._ends, strict=False)], self._workers)
        in_progress = starts[len(self._ends) :][: min(self._workers, waiting)]
        free = [start + one if now < start + one else now + OVERDUE * (now - start) for start in in_progress]
        heapq.heapify(free)
        for _ in range(waiting - len(free)):
            heapq.heappush(free, heapq.heappop(free) + one)
        return max([end - now for end in free], default=0.0)


def _typical(seconds: list[float], workers: int) -> float:
    """Average the later half, without the first batches of all workers, which had to start, once there are others."""
    known = seconds[workers:] or seconds
    later = known[len(known) // 2 :]
    return sum(later) / len(later)
