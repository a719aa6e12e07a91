"""Schedule of a training's checkpoints: now and then, at the end, and when it is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import final

from deepzero_sim.training.checkpoint_file import Checkpoint
from deepzero_sim.training.run_folder import RunFolder

#: Seconds after which a checkpoint is written, however few training steps were done: it takes a fraction of one.
WRITE_SECONDS = 60.0

#: Seconds after which one is copied in memory: it takes a fraction of a hundredth.
COPY_SECONDS = 1.0


@final
class CheckpointSchedule:
    """Writer of one training's checkpoints; a context, which Ctrl-C leaves with the latest one written.

    Ctrl-C may come in the middle of an update, or while weights are moved for a query. So a copy that was made between two
    training steps is written then, at most a second of training old.

    Args:
        run: Folder of the run.
        make: Function that copies the state of the training to a checkpoint.
        every: Number of training steps between those that are written; fewer where they take long.
    """

    def __init__(self, run: RunFolder, make: Callable[[], Checkpoint], every: int) -> None:
        self._run, self._make, self._every = run, make, every
        self._unwritten: Checkpoint | None = None
        self._written, self._copied = time.monotonic(), float("-inf")

    def __enter__(self) -> CheckpointSchedule:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt) and self._unwritten is not None:
            self._run.save(self._unwritten)

    def after_step(self, step: int, *, last: bool) -> None:
        """Write or copy a checkpoint if one is due after a training step, or if it was the last one; see :meth:`write`."""
        now = time.monotonic()
        if last or step % self._every == 0 or now - self._written > WRITE_SECONDS:
            self.write()
        elif now - self._copied > COPY_SECONDS:
            self._unwritten, self._copied = self._make(), now

    def write(self) -> None:
        """Write a checkpoint now, or raise an OSError if no space is left; the old one stands."""
        self._unwritten = self._make()
        self._run.save(self._unwritten)
        self._unwritten, self._written = None, time.monotonic()
