"""Lines of the contract about other threads and processes, and what a solver does with states that it cannot advance."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from deepzero_sim.contract.answers import likeness
from deepzero_sim.contract.trial import Trial
from deepzero_sim.contract.verdict import Finding, NotTestedError, broken, holds, told
from deepzero_sim.errors import ConfigError, SolverTimeoutError, WorkerLostError
from deepzero_sim.types import Array

#: Seconds that a worker process takes to start, about; that are waited for a step in it, at least; and that are waited for one
#: from an extreme state, beside so many times what a step takes.
START, WAIT, WAIT_EXTREME, EXTREME_STEPS = 5.0, 60.0, 5.0, 20

#: Steps that each of two threads takes.
ROUNDS = 16

#: What states are multiplied with to be extreme.
EXTREME = 1e6


def worker(trial: Trial) -> Finding:
    """Sent to a worker process, the solver answers the same."""
    sample = trial.samples[0]
    _require_seconds(trial, START)
    try:
        found = trial.process.step(sample.state, sample.params, max(WAIT, trial.seconds_left))
    except ConfigError as error:
        return broken(str(error))
    if not trial.spec.deterministic:
        return holds("a worker process advances states.")
    alike = likeness(found, sample.answer)
    if alike.apart:
        return broken(
            f"answers of a worker process and of this one are {alike.words}: what the solver depends on beside its arguments "
            "(global settings, its environment, threads) must travel with it."
        )
    return holds("a worker process gives the same, bit for bit.")


def _require_seconds(trial: Trial, seconds: float) -> None:
    if trial.seconds_left < seconds:
        raise NotTestedError(
            f"left out for time: it may take {seconds:.0f} s, and {trial.seconds_left:.0f} s are left; give more seconds."
        )


def threads(trial: Trial) -> Finding:
    """Two threads at once are answered as one."""
    if not trial.spec.thread_safe:
        raise NotTestedError("the spec says thread_safe=False: the thread executor is refused, process and serial are not.")
    trial.require_deterministic()
    pair = trial.pair()
    trial.require_time(4)
    rounds = max(1, min(ROUNDS, trial.affordable(0.1) // 2))
    together = threading.Barrier(2)

    def asked(place: int) -> float:
        together.wait()
        answers = [trial.step(pair[place].state, pair[place].params) for _ in range(rounds)]
        return max(likeness(answer, pair[place].answer).apart for answer in answers)

    with ThreadPoolExecutor(2) as executor:
        apart = max(executor.map(asked, range(2)))
    if apart:
        return broken(
            f"two threads at once got answers up to {apart:.2g} from those of one: keep what a step works on in the step, or "
            "set thread_safe=False in the spec."
        )
    return holds(f"two threads at once, {rounds} steps each, get the same, bit for bit.")


def extremes(trial: Trial) -> Finding:
    """What comes of NaN, and of states far too large; in a worker process, which may die of it."""
    sample, seconds = trial.samples[0], WAIT_EXTREME + EXTREME_STEPS * trial.second_a_step
    _require_seconds(trial, 2 * seconds)
    large = np.asarray(sample.state * EXTREME, dtype=sample.state.dtype)
    given = {"NaN": np.full_like(sample.state, np.nan), f"{EXTREME:.0e} times a state": large}
    return told(" ".join(f"{name}: {_reaction(trial, states, sample.params, seconds)}" for name, states in given.items()))


def _reaction(trial: Trial, states: Array, params: Array | None, seconds: float) -> str:
    try:
        answer = trial.process.step(states, params, seconds)
    except SolverTimeoutError:
        return f"no answer for {seconds:.0f} s."
    except WorkerLostError:
        return "the process died."
    except Exception as error:  # whatever the solver raises
        return f"raised ({getattr(error, 'kind', None) or type(error).__name__})."
    if not np.isfinite(answer).all():
        return "returned as NaN or infinity, which the package finds."
    hidden = ", as if nothing were wrong: look whether failures go unseen" if np.isnan(states).any() else ""
    return f"finite numbers are returned{hidden}."
