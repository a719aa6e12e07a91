"""Lines of the contract about other threads and processes, and what a solver does with states that it cannot advance."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import contextmanager

import cloudpickle
import numpy as np

from deepzero_sim.contract.answers import likeness
from deepzero_sim.contract.trial import Trial
from deepzero_sim.contract.verdict import Finding, NotTestedError, broken, holds, told
from deepzero_sim.errors import ConfigError, SolverError, SolverTimeoutError
from deepzero_sim.parallel import open_executor, outcome, pickling_for_workers, submitted
from deepzero_sim.solver import Solver
from deepzero_sim.types import Array

#: Seconds that a worker process has to start, and a step in it to end, at least.
WORKER_SECONDS = 30.0

#: Steps that each of two threads takes.
ROUNDS = 16

#: What states are multiplied with to be extreme.
EXTREME = 1e6


def worker(trial: Trial) -> Finding:
    """Sent to a worker process, the solver answers the same."""
    sample = trial.samples[0]
    try:
        with pickling_for_workers(f"solver {trial.spec.name!r}"):
            pickled = cloudpickle.dumps(trial.solver)
    except ConfigError as error:
        return broken(str(error))
    with _process() as executor:
        found = _remotely(trial, executor, pickled, sample.state, sample.params)
    if not trial.spec.deterministic:
        return holds("a worker process advances states.")
    alike = likeness(found, sample.answer)
    if alike.apart:
        return broken(
            f"answers of a worker process and of this one are {alike.words}: what the solver depends on beside its arguments "
            "(global settings, its environment, threads) must travel with it."
        )
    return holds("a worker process gives the same, bit for bit.")


@contextmanager
def _process() -> Iterator[Executor]:
    with open_executor("process", 1) as executor:
        yield executor


def _remotely(trial: Trial, executor: Executor, pickled: bytes, states: Array, params: Array | None) -> Array:
    future = submitted(executor, _advance, (pickled, states, params))
    seconds = max(WORKER_SECONDS, trial.seconds_left)
    if not wait([future], seconds).done:
        raise SolverTimeoutError(f"solver {trial.spec.name!r} gave no answer in a worker process within {seconds:.0f} s.")
    answer = outcome(future)
    if isinstance(answer, Exception):
        raise answer
    return answer


def _advance(task: tuple[bytes, Array, Array | None]) -> Array:
    pickled, states, params = task
    solver: Solver = cloudpickle.loads(pickled)
    return solver.step(states, params)


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
    with pickling_for_workers("a solver"):
        pickled = cloudpickle.dumps(trial.solver)
    sample = trial.samples[0]
    large = np.asarray(sample.state * EXTREME, dtype=sample.state.dtype)
    given = {"NaN": np.full_like(sample.state, np.nan), f"{EXTREME:.0e} times a state": large}
    return told(" ".join(f"{name}: {_reaction(trial, pickled, states, sample.params)}" for name, states in given.items()))


def _reaction(trial: Trial, pickled: bytes, states: Array, params: Array | None) -> str:
    try:
        with _process() as executor:
            answer = _remotely(trial, executor, pickled, states, params)
    except SolverError as error:
        return f"raised ({error.kind or type(error).__name__})."
    except Exception as error:  # what its own code raises in a worker
        return f"raised ({type(error).__name__})."
    if np.isfinite(answer).all():
        return "finite numbers are returned" + (
            ", as if nothing were wrong: look whether a failure goes unseen." if np.isnan(states).any() else "."
        )
    return "returned as NaN or infinity, which the package finds."
