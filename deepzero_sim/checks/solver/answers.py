"""Lines of the contract about single states: advanced, finite, zero in padding, the same again."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deepzero_sim.checks.solver.trial import Trial
from deepzero_sim.checks.solver.verdict import Finding, NotTestedError, broken, holds, told
from deepzero_sim.common.types import Array

#: Rounding, in units of a dtype's last digit, of sums in another order.
LAST_DIGITS = 1000


class Likeness(NamedTuple):
    """How alike two answers are.

    Args:
        apart: the largest difference.
        size: the largest value.
        rounding: whether the difference may be rounding alone.
    """

    apart: float
    size: float
    rounding: bool

    @property
    def words(self) -> str:
        """How far they are apart."""
        return f"up to {self.apart:.2g} apart, of values up to {self.size:.2g}" if self.apart else "the same, bit for bit"


def likeness(found: Array, expected: Array) -> Likeness:
    """Of two answers of the same shape."""
    apart = float(np.abs(found.astype(np.float64) - expected).max(initial=0.0))
    size = float(np.abs(expected).max(initial=0.0))
    return Likeness(apart, size, apart <= LAST_DIGITS * float(np.finfo(expected.dtype).eps) * size)


def advanced(trial: Trial) -> Finding:
    """Every sample state is advanced, or the failure raised."""
    if trial.raised:
        place, error = next(iter(trial.raised.items()))
        return told(
            f"the step fails for {len(trial.raised)} of {trial.looked_at} sample states, and raises that, as it should; the "
            f"first, number {place + 1}: {error}"
        )
    return holds(f"no failure at {trial.looked_at} sample states, spread over all that there are.")


def finite(trial: Trial) -> Finding:
    """No failure comes back as numbers."""
    if trial.returned:
        place, error = next(iter(trial.returned.items()))
        return broken(f"a failure was returned as numbers for sample state {place + 1}: {error}")
    return holds("what is returned is finite.")


def padding(trial: Trial) -> Finding:
    """Zero where the mask is False."""
    if trial.spec.mask is None:
        raise NotTestedError("the spec has no mask: all points hold values.")
    largest = max(float(np.abs(sample.answer[:, ~trial.spec.mask]).max(initial=0.0)) for sample in trial.samples)
    if largest:
        return broken(
            f"padding must stay zero, but holds values up to {largest:.3g} after a step: set it to 0 before returning."
        )
    return holds("padding is zero after a step.")


def deterministic(trial: Trial) -> Finding:
    """The same to the same, twice in a row."""
    trial.require_time(3)
    sample = trial.samples[0]
    _, first, second = (trial.step(sample.state, sample.params) for _ in range(3))  # two that follow the same one
    alike = likeness(second, first)
    if not trial.spec.deterministic:
        return told(f"its spec says that it is not; answers to the same state are {alike.words}.")
    if alike.apart:
        return broken(
            f"the same state has two answers, {alike.words}: fix seeds and take out what is kept between calls, or set "
            "deterministic=False in the spec, which leaves DETACHED, STRAIGHT-THROUGH and NON."
        )
    return holds("the same to the same, bit for bit.")


def no_hidden_state(trial: Trial) -> Finding:
    """The same to the same after other states were advanced."""
    trial.require_deterministic()
    sample, other = trial.pair()
    trial.require_time(3)
    before = trial.step(sample.state, sample.params)
    trial.step(other.state, other.params)
    alike = likeness(trial.step(sample.state, sample.params), before)
    if alike.apart:
        return broken(
            f"answers to the same state, before and after another one was advanced, are {alike.words}: keep nothing between "
            "calls (a first guess, a clock, a history), or make it part of the state."
        )
    return holds("the same to the same after other states, bit for bit.")
