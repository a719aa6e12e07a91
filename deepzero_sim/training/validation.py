"""Validation of a training: its network measured now and then on rollouts of its own, and the best one kept.

Everything that is found is part of the checkpoint, the best network, too: a run that was killed goes on with what it had found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch

from deepzero_sim.common.files import digest_of_named
from deepzero_sim.common.module_state import preserve_state
from deepzero_sim.common.types import NamedTensors
from deepzero_sim.errors import RunError, SolverError
from deepzero_sim.solver.failure_policy import with_place
from deepzero_sim.training.checkpoints import Checkpoint, storable_copies
from deepzero_sim.training.progress import restore_network, tensors_of
from deepzero_sim.training.validation_record import Leap, Measurement, Record, Rollouts, record_of

#: Factor by which the loss of an update may exceed that of the network which the run started from.
LEAP = 10.0

#: Part of a checkpoint that holds the best network.
BEST = "best"


class Validation:
    """Validation of one training.

    Args:
        rollouts: Rollouts that it measures on.
        measure: Function that measures the network as it is; the number of training steps is filled in here.
        every: Number of training steps between measurements; None for one before the first and one after the last.
        start_loss: Function from a batch to the loss of the network that the run started from and the solver steps that this
            took; None if it started from none.
        say: Function that is told of a leap of the loss while it happens.
        measure_source: Function that measures the solver alone on the same rollouts; None if that is not asked.

    Attributes:
        record: Findings so far.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        measure: Callable[[], Measurement],
        every: int | None = None,
        start_loss: Callable[[Any], tuple[float, int]] | None = None,
        say: Callable[[str], None] = lambda sentence: None,
        measure_source: Callable[[], Measurement] | None = None,
    ) -> None:
        self._measure, self._every, self._start_loss, self._say = measure, every, start_loss, say
        self._measure_source = measure_source
        self.record = Record(rollouts)
        self._best: NamedTensors = {}

    def is_due(self, step: int, steps: int) -> bool:
        """Tell whether the network is to be measured after so many training steps of all, and was not yet."""
        done = any(one.step == step for one in self.record.measurements)
        return not done and (step in (0, steps) or (self._every is not None and step % self._every == 0))

    def measure(self, model: torch.nn.Module, step: int) -> Measurement:
        """Measure the network after so many training steps, and keep it if it is the best.

        What a network draws itself is drawn anew at every measurement from one seed; the network is left as it was.

        Raises:
            SolverError: The solver failed, and the failure policy ends the run.
        """
        try:
            with preserve_state(model), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                found = self._compare_with_source(replace(self._measure(), step=step))
        except SolverError as error:
            raise with_place(error, f"in a validation after {step} updates") from None
        self.record = replace(self.record, measurements=(*self.record.measurements, found))
        if self.record.best is found:
            self._best = storable_copies(model.state_dict())
        return found

    def _compare_with_source(self, found: Measurement) -> Measurement:
        """Add the error of the solver alone, which is measured with the first measurement and counted there."""
        if self.record.measurements:
            return replace(found, source=self.record.measurements[0].source)
        if self._measure_source is None:
            return found
        alone = self._measure_source()
        failures = dict(sorted((Counter(found.failures) + Counter(alone.failures)).items()))
        return replace(found, source=alone.error, solver_steps=found.solver_steps + alone.solver_steps, failures=failures)

    def watch(self, step: int, loss: float, batch: Callable[[], Any]) -> int:
        """Look for a leap of the loss of a training step: compare with the starting network on the same batch.

        Args:
            step: Number of the training step.
            loss: Its loss.
            batch: Function that makes its batch.

        Returns:
            The solver steps that this took.
        """
        if self._start_loss is None or self.record.leap is not None or not isfinite(loss):
            return 0
        if step == 1:  # measured before the first update: the loss of the starting network itself
            self.record = replace(self.record, baseline=loss)
        if self.record.baseline <= 0 or loss <= LEAP * self.record.baseline:
            return 0
        start, spent = self._start_loss(batch())
        leapt = 0 < start < inf and loss > LEAP * start
        self.record = replace(
            self.record,
            baseline=max(self.record.baseline, start if isfinite(start) else 0.0),
            leap=Leap(step, loss, start) if leapt else None,
        )
        if self.record.leap is not None:
            self._say(self.record.leap.sentence)
        return spent

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps besides the tensors, as JSON."""
        return self.record.to_dict()

    def tensors(self) -> NamedTensors:
        """Return the tensors of the best network by their names in a checkpoint; empty if none is kept."""
        return {f"{BEST}.{name}": tensor for name, tensor in self._best.items()}

    def load(self, checkpoint: Checkpoint, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            RunError: The run started from another network than lies there now.
        """
        record = record_of(checkpoint, path)
        if record is None:  # written before there were validations
            return
        before, now = record.rollouts.start, self.record.rollouts.start
        if before != now:
            raise RunError(
                f"the run that {path} started from holds another network than it did then: restore it, or delete {path} to "
                "start afresh."
            )
        self.record, self._best = record, tensors_of(BEST, checkpoint)


def trained_tensors(checkpoint: Checkpoint) -> NamedTensors:
    """Return the network that a training is used by: the best one if one was kept, else the last."""
    return tensors_of(BEST, checkpoint) or tensors_of("network", checkpoint)


def network_digest(checkpoint: Checkpoint) -> str:
    """Compute the digest of the network that a training is used by."""
    return digest_of_named([], trained_tensors(checkpoint))


def restore_trained(model: torch.nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Load the network that a training is used by; refuse another network's."""
    tensors = {f"network.{name}": tensor for name, tensor in trained_tensors(checkpoint).items()}
    restore_network(model, replace(checkpoint, tensors=tensors), path)
