"""Lines of the contract about many states in one call, and their parameters."""

from __future__ import annotations

import numpy as np

from deepzero_sim.checks.solver.record import Discrepancy, Finding, Sample, SkippedError, discrepancy
from deepzero_sim.checks.solver.trial import Trial, call_step, stack
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import TOGETHER
from deepzero_sim.errors import SolverError

#: Relative change of a parameter that shows whether it matters.
CHANGE = 0.1


def check_batch(trial: Trial) -> Finding:
    """Expect that two states in one call are answered as alone, in any order."""
    trial.require_deterministic()
    if trial.spec.max_batch == 1:
        raise SkippedError("max_batch is 1: no call is given two states.")
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
    size = largest_batch(trial)
    trial.require_time(size, 0.25)
    sample = trial.samples[0]
    states, params = _repeat(sample.state, size), None if sample.params is None else _repeat(sample.params, size)
    try:
        trial.step(states, params)
    except SolverError as error:
        limit = f"the spec's max_batch is {size}" if trial.spec.max_batch else "the spec has no max_batch"
        return Finding("fail", f"{limit}, but {size} states in one call fail: {error} Set max_batch to what the solver takes.")
    reason = (
        "as max_batch says" if trial.spec.max_batch else "as many as the package sends at most where max_batch says nothing"
    )
    return Finding("pass", f"{size} states in one call are advanced, {reason}.")


def largest_batch(trial: Trial) -> int:
    """Return the number of states in the largest call that the package makes."""
    return trial.spec.max_batch or TOGETHER


def _repeat(array: Array, count: int) -> Array:
    return np.repeat(array, count, axis=0)


def check_parameters(trial: Trial) -> Finding:
    """Expect that every state is advanced with its own row of parameters, and tell which of them have no effect."""
    sample, names = trial.samples[0], trial.spec.parameters
    if not names or sample.params is None:
        raise SkippedError("the spec names no parameters.")
    trial.require_deterministic()
    trial.require_time(1 + 3 * len(names))
    answers = {name: _answer_to_change(trial, sample, k) for k, name in enumerate(names)}
    without = [name for name, answer in answers.items() if answer is not None and np.array_equal(answer, sample.answer)]
    refused = [name for name, answer in answers.items() if answer is None]
    mixed = None if trial.spec.max_batch == 1 else _find_mixed_rows(trial, sample, answers)
    if mixed is not None:
        return Finding("fail", mixed)
    words = [f"no effect of {name} on a step: is it used?" for name in without]
    words += [f"{name} cannot be changed by {CHANGE:.0%}: the step refuses it." for name in refused]
    if words:
        return Finding("info", " ".join(words))
    changes = f"{', '.join(names)} {'changes' if len(names) == 1 else 'change'} a step"
    return Finding("pass", f"every state has its own; {changes}.")


def step_without_parameters(trial: Trial) -> str:
    """Take a step without parameters, which the package always gives, and say what comes of it."""
    try:
        call_step(trial.shielded, trial.samples[0].state, None)
    except SolverError:
        return "fails, as it should"
    return "takes others of its own"


def _answer_to_change(trial: Trial, sample: Sample, k: int) -> Array | None:
    """Advance a state with one parameter changed; None if that is refused."""
    try:
        return trial.step(sample.state, _change(sample, k))
    except SolverError:
        return None


def _change(sample: Sample, k: int) -> Array:
    assert sample.params is not None
    row = sample.params.copy()
    row[0, k] = row[0, k] * (1 + CHANGE) or CHANGE
    return row


def _find_mixed_rows(trial: Trial, sample: Sample, answers: dict[str, Array | None]) -> str | None:
    """Say that rows of a batch get each other's parameters; None if all is well."""
    assert sample.params is not None
    for k, expected in enumerate(answers.values()):
        if expected is None:
            continue
        answer = trial.step(_repeat(sample.state, 2), np.concatenate([sample.params, _change(sample, k)]))
        difference = discrepancy(answer, np.concatenate([sample.answer, expected]))
        if not difference.rounding:
            return (
                f"two states of different parameters in one call and each alone are {difference.words}: use params[b] for "
                "state b, not one row for all."
            )
    return None
