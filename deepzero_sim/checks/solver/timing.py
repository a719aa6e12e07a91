"""What a step costs, by the number of states in a call."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deepzero_sim.checks.solver.trial import Trial
from deepzero_sim.errors import SolverError

#: States in a call, at most; bytes of them; calls that are timed, at least and at most; seconds after which that is enough.
MOST_STATES, MOST_BYTES, LEAST_CALLS, MOST_CALLS, ENOUGH = 512, 2**27, 3, 25, 0.05

#: A batch is as good as the best if it is within this share of its speed.
AS_GOOD = 0.9


@dataclass(frozen=True)
class BatchTime:
    """Of calls with so many states.

    Args:
        batch: states.
        seconds: of a call, the median.
    """

    batch: int
    seconds: float

    @property
    def states_per_second(self) -> float:
        """Advanced."""
        return self.batch / self.seconds


def measure_times(trial: Trial, most: int) -> Iterator[BatchTime]:
    """Time calls with 1, 2, 4, ... states, as far as spec and time allow; none if there is no time for one.

    Args:
        trial: after its survey.
        most: states in a call that the solver is known to take.
    """
    sample, batch = trial.samples[0], 1
    found: list[BatchTime] = []
    most = min(most, trial.spec.max_batch or MOST_STATES, MOST_STATES, max(1, MOST_BYTES // sample.state.nbytes))
    while batch <= most and (not found or trial.affordable(0.5) * trial.second_a_step > LEAST_CALLS * 2 * found[-1].seconds):
        states = np.repeat(sample.state, batch, axis=0)
        params = None if sample.params is None else np.repeat(sample.params, batch, axis=0)
        try:
            calls = _calls(trial, states, params)
        except SolverError:  # another line says it
            break
        found.append(BatchTime(batch, statistics.median(calls)))
        yield found[-1]
        batch *= 2


def _calls(trial: Trial, states: np.ndarray, params: np.ndarray | None) -> list[float]:
    """Seconds of calls."""
    calls: list[float] = []
    while len(calls) < LEAST_CALLS or (sum(calls) < ENOUGH and len(calls) < MOST_CALLS):
        started = time.perf_counter()
        trial.step(states, params)
        calls.append(max(time.perf_counter() - started, 1e-9))
        if not trial.seconds_left:
            break
    return calls


def recommended_batch(times: Sequence[BatchTime]) -> int:
    """The smallest one that is about as fast a state as the fastest."""
    best = max(entry.states_per_second for entry in times)
    return next(entry.batch for entry in times if entry.states_per_second >= AS_GOOD * best)


def seconds_of(steps: float, at_once: int, times: Sequence[BatchTime]) -> float:
    """That solver steps take, so many states in a call: at the speed of the largest batch measured that is no larger."""
    fitting = [entry for entry in times if entry.batch <= at_once] or times[:1]
    return steps / fitting[-1].states_per_second
