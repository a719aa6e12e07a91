"""Lines of the contract about many states in one call, and their parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple, final

import numpy as np

from deepzero_sim.checks.solver.record import Discrepancy, Finding, NotApplicableError, Sample, discrepancy
from deepzero_sim.checks.solver.trial import Trial, call_step, stack
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import TOGETHER
from deepzero_sim.errors import SolverError

#: Relative change of a parameter that shows whether it matters, and most steps of a rollout along which that is looked for.
CHANGE, LATER = 0.1, 16

#: Batches whose time tells, one after another, whether there is time for the largest.
GROWING = (4, 16)


def check_batch(trial: Trial) -> Finding:
    """Expect that two states in one call are answered as alone, in any order."""
    trial.require_deterministic()
    if trial.spec.max_batch == 1:
        raise NotApplicableError("max_batch is 1: no call is given two states.")
    trial.require_time(5)
    pair = _with_same_parameters(trial, *trial.pair())
    differences = [_batch_discrepancy(trial, ordered) for ordered in (pair, pair[::-1])]
    worst = max(differences, key=lambda difference: difference.apart)
    if not all(difference.rounding for difference in differences):
        return Finding(
            "fail",
            f"two states in one call and each alone are {worst.words}: treat the states of a batch apart from each other, or "
            "set max_batch=1 in the spec.",
        )
    extent = "bit for bit" if not worst.apart else f"within rounding ({worst.words})"
    return Finding("pass", f"two states in one call are answered as alone, in any order, {extent}.")


def _with_same_parameters(trial: Trial, sample: Sample, other: Sample) -> tuple[Sample, Sample]:
    """Give two states the same parameters: rows that are mixed up are another line's matter."""
    if sample.params is None:
        return sample, other
    return sample, Sample(other.state, sample.params, trial.step(other.state, sample.params))


def _batch_discrepancy(trial: Trial, samples: tuple[Sample, Sample]) -> Discrepancy:
    """Compare the answers to a batch with those to each of its states alone."""
    return discrepancy(trial.step(*stack(samples)), np.concatenate([sample.answer for sample in samples]))


def check_largest_batch(trial: Trial) -> Finding:
    """Expect an answer to as many states as the spec allows, or as the package sends where it says nothing."""
    largest = largest_batch(trial)
    limit = f"the spec's max_batch is {largest}" if trial.spec.max_batch else "the spec has no max_batch"
    for size in _sizes_up_to(trial, largest):
        sample = trial.samples[0]
        states, params = _repeat(sample.state, size), None if sample.params is None else _repeat(sample.params, size)
        try:
            trial.step(states, params)
        except SolverError as error:
            advice = "Set max_batch to what the solver takes."
            return Finding("fail", f"{limit}, but {size} states in one call fail: {error} {advice}")
    reason = (
        "as max_batch says" if trial.spec.max_batch else "as many as the package sends at most where max_batch says nothing"
    )
    return Finding("pass", f"{largest} states in one call are advanced, {reason}.")


def _sizes_up_to(trial: Trial, largest: int) -> Iterator[int]:
    """List the largest batch; and before it smaller ones that tell how long it takes, if it seems to take too long.

    Raises:
        SkippedError: There is no time for the largest.
    """
    for size in GROWING:
        if size < largest and trial.affordable(0.25, size) < largest and trial.affordable(0.1, size) >= size:
            yield size
    trial.require_time(largest, 0.25, largest)
    yield largest


def largest_batch(trial: Trial) -> int:
    """Return the number of states in the largest call that the package makes."""
    return trial.spec.max_batch or TOGETHER


def _repeat(array: Array, count: int) -> Array:
    return np.repeat(array, count, axis=0)


def check_parameters(trial: Trial) -> Finding:
    """Expect that every state is advanced with its own row of parameters, and tell which of them have no effect."""
    names = trial.spec.parameters
    if not names or trial.samples[0].params is None:
        raise NotApplicableError("the spec names no parameters.")
    trial.require_deterministic()
    trial.require_time(1 + 3 * len(names))
    states = _States(trial)
    effects = {name: _find_effect(trial, states, k) for k, name in enumerate(names)}
    mixed = None if trial.spec.max_batch == 1 else _find_mixed_rows(trial, effects)
    if mixed is not None:
        return Finding("fail", mixed)
    words = [f"no effect of {name} on a step {states.words}" for name, effect in effects.items() if effect is None]
    words += [
        f"{name} cannot be changed by {CHANGE:.0%}: the step refuses it."
        for name, effect in effects.items()
        if effect is not None and effect.answer is None
    ]
    if words:
        return Finding("info", " ".join(words))
    changes = f"{', '.join(names)} {'changes' if len(names) == 1 else 'change'} a step"
    return Finding("pass", f"every state has its own; {changes}.")


@final
class _States:
    """States to change parameters at: sample states, then those of a rollout, taken as they are asked for.

    A parameter may have no effect at a start at rest, and one later on.

    Args:
        trial: Trial after its survey.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial, self._samples = trial, list(trial.samples)
        self._ended = False

    def __iter__(self) -> Iterator[Sample]:
        for number in itertools.count():
            if number == len(self._samples) and not self._extend():
                return
            yield self._samples[number]

    def _extend(self) -> bool:
        """Take a step of the rollout; False if it is long enough, stands still, fails, or has no time."""
        last = self._samples[-1]
        if self._later == 0:
            last = next((sample for sample in self._samples if _moves(sample)), last)
        self._ended = self._ended or not (_moves(last) and self._later < LATER and self._trial.affordable(0.1) > 2)
        if not self._ended:
            try:
                self._samples.append(Sample(last.answer, last.params, self._trial.step(last.answer, last.params)))
            except SolverError:
                self._ended = True
        return not self._ended

    @property
    def _later(self) -> int:
        return len(self._samples) - len(self._trial.samples)

    @property
    def words(self) -> str:
        """End of a sentence about something that was seen at none of them."""
        given = self._trial.samples
        tried = f"from any of {len(given)} sample states" if len(given) > 1 else "from the sample state"
        if not any(map(_moves, given)):
            return f"{tried}, which stand still: give states that move to see whether it is used."
        return f"{tried}, nor in {self._later} steps of a rollout: is it used?" if self._later else f"{tried}: is it used?"


def _moves(sample: Sample) -> bool:
    return not np.array_equal(sample.answer, sample.state)


class _Effect(NamedTuple):
    """State at which a parameter matters.

    Args:
        sample: State and answer.
        changed: Parameters with the one changed, `(1, K)`.
        answer: Answer to those; None if the step refuses them.
    """

    sample: Sample
    changed: Array
    answer: Array | None


def _find_effect(trial: Trial, states: _States, k: int) -> _Effect | None:
    """Look for a state at which a change of a parameter matters, or is refused; None if there is none."""
    for sample in states:
        changed = _change(sample, k)
        try:
            answer = trial.step(sample.state, changed)
        except SolverError:
            return _Effect(sample, changed, None)
        if not np.array_equal(answer, sample.answer):
            return _Effect(sample, changed, answer)
    return None


def step_without_parameters(trial: Trial) -> str:
    """Take a step without parameters, which the package always gives, and say what comes of it."""
    try:
        call_step(trial.shielded, trial.samples[0].state, None)
    except SolverError:
        return "fails, as it should"
    return "takes others of its own"


def _change(sample: Sample, k: int) -> Array:
    assert sample.params is not None
    row = sample.params.copy()
    row[0, k] = row[0, k] * (1 + CHANGE) or CHANGE
    return row


def _find_mixed_rows(trial: Trial, effects: Mapping[str, _Effect | None]) -> str | None:
    """Say that rows of a batch get each other's parameters; None if all is well."""
    for effect in effects.values():
        if effect is None or effect.answer is None:
            continue
        sample = effect.sample
        answer = trial.step(_repeat(sample.state, 2), np.concatenate([sample.params, effect.changed]))
        difference = discrepancy(answer, np.concatenate([sample.answer, effect.answer]))
        if not difference.rounding:
            return (
                f"two states of different parameters in one call and each alone are {difference.words}: use params[b] for "
                "state b, not one row for all."
            )
    return None
