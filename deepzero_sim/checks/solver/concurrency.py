"""Lines of the contract about other threads, and what a solver does with states that it cannot advance."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from deepzero_sim.checks.solver.answers import likeness
from deepzero_sim.checks.solver.trial import Sample, Trial
from deepzero_sim.checks.solver.verdict import Finding, NotTestedError, broken, holds

#: Steps that each of two threads takes, at least; and seconds that they go on for, about, where steps are short.
ROUNDS, ENOUGH = 16, 0.1

#: Seconds, and times what such steps usually take, after which steps no longer count as slow, but as hanging.
PATIENCE, TIMES = 10.0, 20

#: What states are multiplied with to be extreme, and after how many seconds, beside so many times a step, none is waited for.
EXTREME, WAIT_EXTREME = 1e6, 5.0


def threads(trial: Trial) -> Finding:
    """Two threads at once are answered as one."""
    if not trial.spec.thread_safe:
        raise NotTestedError("the spec says thread_safe=False: the thread executor is refused, process and serial are not.")
    trial.require_deterministic()
    pair = trial.pair()
    trial.require_time(4)
    rounds = rounds_of(trial)
    barrier = threading.Barrier(2)

    def asked(sample: Sample) -> float:
        apart = 0.0
        try:
            for _ in range(rounds):
                barrier.wait()  # short steps would be over before the other thread begins
                apart = max(apart, likeness(trial.step(sample.state, sample.params), sample.answer).apart)
        except threading.BrokenBarrierError:  # the other thread raised an error, which is told
            pass
        except BaseException:
            barrier.abort()
            raise
        return apart

    with ThreadPoolExecutor(2) as executor:
        apart = max(executor.map(asked, pair))
    if apart:
        return broken(
            f"two threads at once got answers up to {apart:.2g} from those of one: keep what a step works on in the step, or "
            "set thread_safe=False in the spec."
        )
    return holds(f"two threads at once, {rounds} steps each, get the same, bit for bit.")


def rounds_of(trial: Trial) -> int:
    """Steps that each of two threads takes."""
    return max(1, min(max(ROUNDS, int(ENOUGH / max(trial.second_a_step, 1e-4))), trial.affordable(0.1) // 2))


def patience_with_threads(trial: Trial) -> float:
    """Seconds after which two threads hang."""
    return PATIENCE + TIMES * 2 * rounds_of(trial) * trial.second_a_step


def patience_with_one(trial: Trial) -> float:
    """Seconds after which a step hangs."""
    return PATIENCE + TIMES * trial.second_a_step


def patience_with_extremes(trial: Trial) -> float:
    """Seconds that a step from an extreme state is waited for."""
    return WAIT_EXTREME + TIMES * trial.second_a_step


def reaction(trial: Trial, scale: float) -> str:
    """What comes of a state that is far too large, or of NaN, in words.

    Args:
        trial: after its survey.
        scale: that a sample state is multiplied with.
    """
    sample = trial.samples[0]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        states = np.asarray(sample.state * scale, dtype=sample.state.dtype)
        try:
            answer = np.asarray(trial.shielded.step(states, sample.params))
        except (Exception, SystemExit) as error:  # whatever the solver raises
            return f"raised ({getattr(error, 'kind', None) or type(error).__name__})"
    if answer.dtype.kind != "f" or not np.isfinite(answer).all():
        return "returned as NaN or infinity, which the package finds"
    hidden = ", as if nothing were wrong: look whether failures go unseen" if np.isnan(states).any() else ""
    return f"finite numbers are returned{hidden}"
