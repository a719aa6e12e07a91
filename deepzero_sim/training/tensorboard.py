"""Events for TensorBoard."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from deepzero_sim.errors import MissingExtraError


class EventFile:
    """File of numbers for TensorBoard, whose own writer works in a thread, where nobody can catch the error of a full disk.

    Args:
        path: Folder of the run.
        step: Number of training steps done; what an earlier file says of later ones does not count.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, path: Path, step: int) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2  # noqa: PLC0415 - optional, and slow to import
            from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtraError("writing TensorBoard events (tensorboard: true)", "tensorboard", "report") from error

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        # TensorBoard reads the files of a folder in the order of their names
        self._records = RecordWriter((path / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}").open("wb"))
        self._write(file_version="brain.Event:2")
        self._write(step=step + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def add(self, numbers: dict[str, float], step: int) -> None:
        """Write numbers of a training step."""
        values = [self._summary.Value(tag=tag, simple_value=number) for tag, number in numbers.items()]
        self._write(step=step, summary=self._summary(value=values))
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
