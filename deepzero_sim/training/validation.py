"""Validation of a training: its network measured now and then on rollouts of its own, and the best one kept.

Everything that is found is part of the checkpoint, the best network, too: a run that was killed goes on with what it had found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch

from deepzero_sim.common.files import digest_of_named
from deepzero_sim.common.module_state import preserve_state
from deepzero_sim.common.types import NamedTensors, is_integer, is_number
from deepzero_sim.errors import RunError, SolverError
from deepzero_sim.solver.failure_policy import with_place
from deepzero_sim.training.checkpoints import Checkpoint, storable_copies
from deepzero_sim.training.progress import progress_of, restore_network, tensors_of

#: Factor by which the loss of an update may exceed that of the network which the run started from.
LEAP = 10.0

#: Part of a checkpoint that holds the best network.
BEST = "best"


@dataclass(frozen=True)
class Measurement:
    """Measurement of a network on the rollouts of a validation, a line of `validation.jsonl`.

    Args:
        step: Number of training steps that the network had.
        error: Relative error: mean over the channels of each one's mean absolute error, divided by its standard deviation in
            the data; infinite if a rollout diverged.
        solver_steps: Number of states advanced by one step.
        failures: Number of failures of solver steps, by kind and what was done.
    """

    step: int
    error: float
    solver_steps: int
    failures: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Leap:
    """Leap of the loss above that of the network that a run started from.

    Args:
        step: Number of the update before which the loss was measured.
        loss: Loss of the run's network.
        start: Loss of the network that it started from, on the same batch.
    """

    step: int
    loss: float
    start: float

    @property
    def sentence(self) -> str:
        """Warning with advice."""
        return (
            f"the loss leapt to {self.loss:.1e} at update {self.step}, {self.loss / self.start:.0f} times that of the network "
            f"this run started from ({self.start:.1e} on the same batch): the learning rate is too large for it; start again "
            "in another folder with one ten times smaller."
        )


@dataclass(frozen=True)
class Rollouts:
    """Rollouts that a validation measures on.

    Args:
        words: Name of their data, such as `2 held-back simulations`.
        held_back: True if training does not see these data: the best network on them is kept.
        started: True if the run started from the network of another.
        start: Digest of that network; empty if there is none.
    """

    words: str
    held_back: bool
    started: bool = False
    start: str = ""


@dataclass(frozen=True)
class Record:
    """Findings of a run's validation up to now.

    Args:
        rollouts: Rollouts that it measured on.
        measurements: Measurements in the order of training steps.
        baseline: Largest loss of the network that the run started from that is known; 0 if none is.
        leap: First leap of the loss above that; None if there was none.
    """

    rollouts: Rollouts
    measurements: tuple[Measurement, ...] = ()
    baseline: float = 0.0
    leap: Leap | None = None

    @property
    def best(self) -> Measurement | None:
        """Measurement of the network that is kept, the first of the smallest error; None if none is kept."""
        known = self.measurements if self.rollouts.held_back else ()
        return min(known, key=lambda one: one.error, default=None)

    @property
    def first(self) -> Measurement | None:
        """Measurement before the first update; None if there is none."""
        return next((one for one in self.measurements if one.step == 0), None)

    def warnings(self, step: int) -> list[str]:
        """Write a sentence for each trap that the run has fallen into up to a training step, its last one."""
        leap = [] if self.leap is None else [self.leap.sentence]
        first, last = self.first, self.measurements[-1] if self.measurements else None
        if first is None or last is None or last.step != step or not last.error > first.error:
            return leap
        origin = "the one it started from" if self.rollouts.started else "the untrained one"
        best = self.best
        kept = "" if best is None else f"; the best one, {_name(best)}, is kept and used"
        return [
            *leap,
            f"training made the network worse than {origin}: on rollouts of {self.rollouts.words} its relative error is "
            f"{_number(last.error)} after update {step}, and was {_number(first.error)} before the first{kept}: take a smaller "
            "learning rate, or more updates.",
        ]

    def choice(self, step: int) -> str:
        """Say which network is used of a run of so many training steps; empty if it is simply the last one."""
        best, first = self.best, self.first
        if best is None:
            return ""
        others = [f"{_number(first.error)} before the first update"] if first is not None and first.step != best.step else []
        last = self.measurements[-1]
        others += [f"{_number(last.error)} after the last one"] if last.step not in (best.step, 0) else []
        rest = f" ({', '.join(others)})" if others else ""
        return (
            f"{_name(best, capital=True)} of {step} is used: on rollouts of {self.rollouts.words} its relative error is the "
            f"smallest of {len(self.measurements)} measured, {_number(best.error)}{rest}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Write as JSON holds it: an infinite error is null."""
        return {**asdict(self), "measurements": [line_of(one) for one in self.measurements]}


def _name(best: Measurement, *, capital: bool = False) -> str:
    words = f"the network of update {best.step}" if best.step else "the network before the first update"
    return words.capitalize() if capital else words


def _number(error: float) -> str:
    return f"{error:.3g}" if isfinite(error) else "infinite"


def line_of(one: Measurement) -> dict[str, Any]:
    """Write a measurement as a line of `validation.jsonl`; failures only where there were any."""
    line = {"step": one.step, "error": one.error if isfinite(one.error) else None, "solver_steps": one.solver_steps}
    return {**line, "failures": one.failures} if one.failures else line


class Validation:
    """Validation of one training.

    Args:
        rollouts: Rollouts that it measures on.
        measure: Function that measures the network as it is; the number of training steps is filled in here.
        every: Number of training steps between measurements; None for one before the first and one after the last.
        start_loss: Function from a batch to the loss of the network that the run started from and the solver steps that this
            took; None if it started from none.
        say: Function that is told of a leap of the loss while it happens.

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
    ) -> None:
        self._measure, self._every, self._start_loss, self._say = measure, every, start_loss, say
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
                found = replace(self._measure(), step=step)
        except SolverError as error:
            raise with_place(error, f"in a validation after {step} updates") from None
        self.record = replace(self.record, measurements=(*self.record.measurements, found))
        if self.record.best is found:
            self._best = storable_copies(model.state_dict())
        return found

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


def record_of(checkpoint: Checkpoint, path: Path) -> Record | None:
    """Read the record of the training that left a checkpoint; None if it had no validation.

    Raises:
        RunError: The checkpoint does not say it.
    """
    written = checkpoint.state.get("validation")
    if written is None:
        return None
    try:
        return _read_record(written)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"the checkpoint in {path} does not say what its validation found ({error}): restore it, or train anew."
        ) from error


class Findings(NamedTuple):
    """Sentences on what the validation of a training found.

    Args:
        choice: Sentence on which network is used; empty if it is simply the last one.
        warnings: Sentences on traps that the training fell into.
    """

    choice: str = ""
    warnings: Sequence[str] = ()


def findings_of(checkpoint: Checkpoint, path: Path) -> Findings:
    """Return what the validation of the training that left a checkpoint found, up to its last training step.

    Raises:
        RunError: The checkpoint does not say it.
    """
    record = record_of(checkpoint, path)
    if record is None:
        return Findings()
    step = progress_of(checkpoint, path).step
    return Findings(record.choice(step), record.warnings(step))


def _read_record(written: Mapping[str, Any]) -> Record:
    leap = written["leap"]
    return Record(
        Rollouts(**written["rollouts"]),
        tuple(_read_measurement(one) for one in written["measurements"]),
        float(written["baseline"]),
        None if leap is None else Leap(**leap),
    )


def _read_measurement(line: Mapping[str, Any]) -> Measurement:
    one = Measurement(**{**line, "error": inf if line["error"] is None else line["error"]})
    if not (is_integer(one.step) and is_integer(one.solver_steps) and is_number(one.error)):
        raise ValueError(f"no measurement in {line!r}")
    return one


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
