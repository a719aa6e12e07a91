"""Lines of the contract about many states in one call, and their parameters."""

from __future__ import annotations

import numpy as np

from deepzero_sim.checks.solver.answers import likeness
from deepzero_sim.checks.solver.trial import Sample, Trial, together, unguarded
from deepzero_sim.checks.solver.verdict import Finding, NotTestedError, broken, holds, told
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import TOGETHER
from deepzero_sim.errors import SolverError

#: By how much a parameter is changed to see whether it matters.
CHANGE = 0.1


def batch(trial: Trial) -> Finding:
    """Two states in one call are answered as alone, in any order."""
    trial.require_deterministic()
    if trial.spec.max_batch == 1:
        raise NotTestedError("max_batch is 1: no call is given two states.")
    trial.require_time(5)
    pair = _alike(trial, *trial.pair())
    found = [likeness(*_together(trial, some)) for some in (pair, pair[::-1])]
    worst = max(found, key=lambda alike: alike.apart)
    if not all(alike.rounding for alike in found):
        return broken(
            f"two states in one call and each alone are {worst.words}: treat the states of a batch apart from each other, or "
            "set max_batch=1 in the spec."
        )
    extent = "bit for bit" if not worst.apart else f"within rounding ({worst.words})"
    return holds(f"two states in one call are answered as alone, in any order, {extent}.")


def _alike(trial: Trial, sample: Sample, other: Sample) -> tuple[Sample, Sample]:
    """Two states with the same parameters: whether rows are mixed up is another line's."""
    if sample.params is None:
        return sample, other
    return sample, Sample(other.state, sample.params, trial.step(other.state, sample.params))


def _together(trial: Trial, samples: tuple[Sample, Sample]) -> tuple[Array, Array]:
    """The answers to a batch, and those to each of its states alone, `(2, C, *N)` both."""
    return trial.step(*together(samples)), np.concatenate([sample.answer for sample in samples])


def largest_batch(trial: Trial) -> Finding:
    """As many states as the spec allows, or as the package sends where it says nothing."""
    size = size_of_largest(trial)
    trial.require_time(size, 0.25)
    sample = trial.samples[0]
    states, params = _repeated(sample.state, size), None if sample.params is None else _repeated(sample.params, size)
    try:
        trial.step(states, params)
    except SolverError as error:
        said = f"the spec's max_batch is {size}" if trial.spec.max_batch else "the spec has no max_batch"
        return broken(f"{said}, but {size} states in one call fail: {error} Set max_batch to what the solver takes.")
    if trial.spec.max_batch:
        return holds(f"{size} states in one call are advanced, as max_batch says.")
    return holds(f"{size} states in one call are advanced, as many as the package sends at most where max_batch says nothing.")


def size_of_largest(trial: Trial) -> int:
    """States in the largest call that the package makes."""
    return trial.spec.max_batch or TOGETHER


def _repeated(array: Array, count: int) -> Array:
    return np.repeat(array, count, axis=0)


def parameters(trial: Trial) -> Finding:
    """Every state is advanced with its own row of parameters; and whether they matter at all."""
    sample, names = trial.samples[0], trial.spec.parameters
    if not names or sample.params is None:
        raise NotTestedError("the spec names no parameters.")
    trial.require_deterministic()
    trial.require_time(1 + 3 * len(names))
    changed = {name: _changed(trial, sample, k) for k, name in enumerate(names)}
    without = [name for name, answer in changed.items() if answer is not None and np.array_equal(answer, sample.answer)]
    refused = [name for name, answer in changed.items() if answer is None]
    mixed = None if trial.spec.max_batch == 1 else _mixed(trial, sample, changed)
    if mixed is not None:
        return broken(mixed)
    words = [f"no effect of {name} on a step: is it used?" for name in without]
    words += [f"{name} cannot be changed by {CHANGE:.0%}: the step refuses it." for name in refused]
    if words:
        return told(" ".join(words))
    changes = f"{', '.join(names)} {'changes' if len(names) == 1 else 'change'} a step"
    return holds(f"every state has its own; {changes}.")


def without_parameters(trial: Trial) -> str:
    """What a step does that is given no parameters, in words; the package always gives them."""
    try:
        unguarded(trial.shielded, trial.samples[0].state, None)
    except SolverError:
        return "fails, as it should"
    return "takes others of its own"


def _changed(trial: Trial, sample: Sample, k: int) -> Array | None:
    """The answer with a parameter changed; None if that is refused."""
    try:
        return trial.step(sample.state, _row(sample, k))
    except SolverError:
        return None


def _row(sample: Sample, k: int) -> Array:
    assert sample.params is not None
    row = sample.params.copy()
    row[0, k] = row[0, k] * (1 + CHANGE) or CHANGE
    return row


def _mixed(trial: Trial, sample: Sample, changed: dict[str, Array | None]) -> str | None:
    """Whether rows of a batch get each other's parameters, in words; None if all is well."""
    assert sample.params is not None
    for k, answer in enumerate(changed.values()):
        if answer is None:
            continue
        found = trial.step(_repeated(sample.state, 2), np.concatenate([sample.params, _row(sample, k)]))
        alike = likeness(found, np.concatenate([sample.answer, answer]))
        if not alike.rounding:
            return (
                f"two states of different parameters in one call and each alone are {alike.words}: use params[b] for state b, "
                "not one row for all."
            )
    return None
