"""Findings of a validation: what it measured, in the form of a checkpoint, and sentences on what came of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any, NamedTuple

from deepzero_sim.common.types import is_integer, is_number
from deepzero_sim.common.words import count_of
from deepzero_sim.errors import RunError
from deepzero_sim.training.checkpoints import Checkpoint
from deepzero_sim.training.progress import progress_of

#: Share of the solver's error from which on training has gained little.
HARDLY = 0.9


@dataclass(frozen=True)
class Measurement:
    """Measurement of a network on the rollouts of a validation, a line of `validation.jsonl`.

    Args:
        step: Number of training steps that the network had.
        error: Relative error: mean over the channels of each one's mean absolute error, divided by its standard deviation in
            the data; infinite if a rollout diverged.
        solver_steps: Number of states advanced by one step.
        failures: Number of failures of solver steps, by kind and what was done.
        length: Number of solver steps of each rollout; 0 in runs of earlier versions, which did not note it.
        finite: Share of all steps of rollouts that came before one diverged.
        source: Relative error of the solver alone on the same rollouts; None where it is not known.
    """

    step: int
    error: float
    solver_steps: int
    failures: dict[str, int] = field(default_factory=dict)
    length: int = 0
    finite: float = 1.0
    source: float | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """Key by which measurements are ordered, the best first: of two that diverge, the one that does so later."""
        return self.error, -self.finite


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
        words: Name of their data, such as `simulation 3, which training did not see,`.
        held_back: True if training does not see these data: the best network on them is kept.
        started: True if the run started from the network of another.
        start: Digest of that network; empty if there is none.
        causes: Clauses on what is likely to be the cause if training makes the network worse on them, each with a remedy.
    """

    words: str
    held_back: bool
    started: bool = False
    start: str = ""
    causes: tuple[str, ...] = ()


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
        return min(known, key=lambda one: one.rank, default=None)

    @property
    def first(self) -> Measurement | None:
        """Measurement before the first update; None if there is none."""
        return next((one for one in self.measurements if one.step == 0), None)

    def warnings(self, step: int) -> list[str]:
        """Write a sentence for each trap that the run has fallen into up to a training step, its last one."""
        leap = [] if self.leap is None else [self.leap.sentence]
        first, last = self.first, self.measurements[-1] if self.measurements else None
        if first is None or last is None or last.step != step:
            return leap
        return [*leap, *self._worse(first, last), *(self._useless(last) or self._little(first, last))]

    def _worse(self, first: Measurement, last: Measurement) -> list[str]:
        """Say that training made the network worse, if it did: which one is used for all that, and what is likely to help."""
        if not last.rank > first.rank:
            return []
        origin, best = "the one it started from" if self.rollouts.started else "the untrained one", self.best
        kept = ", which is kept and used" if best is first else ""
        before = f"{_name(best)} is the best one, which is kept and used; after it " if best not in (None, first) else ""
        return [
            f"{before}training made the network worse than {origin}{kept}: {self._where(last)} its relative error is "
            f"{_number(last)} after update {last.step}, and was {_number(first)} before the first: {self._advice}."
        ]

    @property
    def _advice(self) -> str:
        """Likely causes, each with a remedy, and what may help in any case."""
        causes = () if self.leap is not None else self.rollouts.causes
        return "; or ".join((*causes, "take a smaller learning rate, or more updates"))

    def _little(self, first: Measurement, last: Measurement) -> list[str]:
        """Say that training gained little, if it did, and what is likely to help."""
        used = self.best or last
        if last.rank > first.rank or used.source is None or not used.error > HARDLY * used.source:
            return []
        return [
            f"training gained little: {self._where(used)} the relative error of the network that is used is {_number(used)}, "
            f"and that of the solver alone {_error(used.source)}: {self._advice}."
        ]

    def _useless(self, last: Measurement) -> list[str]:
        """Say that the network which is used does more harm than good, if it does."""
        used = self.best or last
        if used.source is None or not used.error > used.source:
            return []
        return [
            f"the network that is used is worse than the solver alone: {self._where(used)} its relative error is "
            f"{_number(used)}, and that of the solver alone {_error(used.source)}: do not use it there."
        ]

    def _where(self, one: Measurement) -> str:
        """Name the rollouts of a measurement, and how far they go."""
        steps = f" of {count_of(one.length, 'step')}" if one.length else ""
        return f"on rollouts{steps} of {self.rollouts.words}"

    def choice(self, step: int, planned: int | None = None) -> str:
        """Say which network is used of a run of so many training steps; empty if it is simply the last one.

        Args:
            step: Number of training steps that are done.
            planned: Number of training steps that the run is to have; as many as are done if None.
        """
        best, first = self.best, self.first
        if best is None:
            return ""
        others = [f"{_number(first)} before the first update"] if first is not None and first.step != best.step else []
        last = self.measurements[-1]
        others += [f"{_number(last)} after the last one"] if last.step not in (best.step, 0) else []
        others += [f"{_error(best.source)} of the solver alone"] if best.source is not None else []
        rest = f" ({', '.join(others)})" if others else ""
        so_far = f" done so far ({planned} are planned)" if planned is not None and planned > step else ""
        return (
            f"{_name(best, capital=True)} of {step}{so_far} is used: {self._where(best)} its relative error is the smallest of "
            f"{len(self.measurements)} measured, {_number(best)}{rest}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Write as JSON holds it: an infinite error is null."""
        return {**asdict(self), "measurements": [line_of(one) for one in self.measurements]}


def _name(best: Measurement, *, capital: bool = False) -> str:
    words = f"the network of update {best.step}" if best.step else "the network before the first update"
    return words.capitalize() if capital else words


def _error(error: float) -> str:
    return f"{error:.3g}" if isfinite(error) else "infinite"


def _number(one: Measurement) -> str:
    """Write the error of a measurement; of one that diverged, how far it came."""
    came = f" ({one.finite:.0%} of the steps are finite)" if one.finite < 1 else ""
    return f"{_error(one.error)}{came}"


def line_of(one: Measurement) -> dict[str, Any]:
    """Write a measurement as a line of `validation.jsonl`: an infinite error is null, and what says nothing is left out."""
    line: dict[str, Any] = {"step": one.step, "error": one.error, "solver_steps": one.solver_steps}
    line |= {"length": one.length} if one.length else {}
    line |= {"source": one.source} if one.source is not None else {}
    line |= {"finite": one.finite} if one.finite < 1 else {}
    line |= {"failures": one.failures} if one.failures else {}
    return {key: None if value == inf else value for key, value in line.items()}


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


def findings_of(checkpoint: Checkpoint, path: Path, planned: int | None = None) -> Findings:
    """Return what the validation of the training that left a checkpoint found, up to its last training step.

    Args:
        checkpoint: Checkpoint.
        path: Folder of the run, for messages.
        planned: Number of training steps that the run is to have; as many as are done if None.

    Raises:
        RunError: The checkpoint does not say it.
    """
    record = record_of(checkpoint, path)
    if record is None:
        return Findings()
    step = progress_of(checkpoint, path).step
    return Findings(record.choice(step, planned), record.warnings(step))


def _read_record(written: Mapping[str, Any]) -> Record:
    leap, rollouts = written["leap"], Rollouts(**written["rollouts"])
    return Record(
        replace(rollouts, causes=tuple(rollouts.causes)),
        tuple(_read_measurement(one) for one in written["measurements"]),
        float(written["baseline"]),
        None if leap is None else Leap(**leap),
    )


def _read_measurement(line: Mapping[str, Any]) -> Measurement:
    infinite = {key: inf for key in ("error", "source") if key in line and line[key] is None}
    one = Measurement(**{**line, **infinite})
    counts = all(map(is_integer, (one.step, one.solver_steps, one.length)))
    if not counts or not all(map(is_number, (one.error, one.finite, 0.0 if one.source is None else one.source))):
        raise ValueError(f"no measurement in {line!r}")
    return one
