"""Lines of the contract about threads and worker processes: answers there are the same as here."""

from __future__ import annotations

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection

import cloudpickle

from deepzero_sim.checks.solver.process.child import ChildEndedError, ChildProcess
from deepzero_sim.checks.solver.process.monitor import send
from deepzero_sim.checks.solver.record import Finding, NotApplicableError, Sample, WorkerComparison, discrepancy
from deepzero_sim.checks.solver.trial import ShieldedSolver, Trial, call_step
from deepzero_sim.errors import DeepZeroError
from deepzero_sim.execution.threads import ONE_THREAD, single_threaded
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.stepping import checked_step
from deepzero_sim.solver.validation import check_states

#: Least number of steps that each of two threads takes; and seconds that they go on for, about, where steps are short.
ROUNDS, ENOUGH = 16, 0.1


def check_threads(trial: Trial) -> Finding:
    """Expect that two threads at once are answered as one."""
    if not trial.spec.thread_safe:
        raise NotApplicableError("the spec says thread_safe=False: the thread executor is refused, process and serial are not.")
    trial.require_deterministic()
    pair = trial.pair()
    trial.require_time(4)
    rounds = thread_rounds(trial)
    barrier = threading.Barrier(2)

    def ask(sample: Sample) -> float:
        apart = 0.0
        try:
            for _ in range(rounds):
                barrier.wait()  # short steps would be over before the other thread begins
                apart = max(apart, discrepancy(trial.step(sample.state, sample.params), sample.answer).apart)
        except threading.BrokenBarrierError:  # the other thread raises the error
            pass
        except BaseException:
            barrier.abort()
            raise
        return apart

    with ThreadPoolExecutor(2) as executor:
        apart = max(executor.map(ask, pair))
    if apart:
        return Finding(
            "fail",
            f"two threads at once got answers up to {apart:.2g} from those of one: keep what a step works on in the step, or "
            "set thread_safe=False in the spec.",
        )
    return Finding("pass", f"two threads at once, {rounds} steps each, get the same, bit for bit.")


def thread_rounds(trial: Trial) -> int:
    """Return the number of steps that each of two threads takes."""
    return max(1, min(max(ROUNDS, int(ENOUGH / max(trial.second_a_step, 1e-4))), trial.affordable(0.1) // 2))


def check_worker_process(comparison: WorkerComparison, seconds: float) -> Finding:
    """Send a solver to a worker process, and expect the same answer within some seconds."""
    with ChildProcess(cloudpickle.dumps(functools.partial(_answer_in_worker, comparison))) as child:
        try:
            finding: Finding = child.receive(seconds)
        except ChildEndedError as ended:
            return Finding("fail", f"{ended} when a worker process was sent the solver: open in the step what cannot be sent.")
    return finding


def answer_here(solver: Solver, comparison: WorkerComparison) -> WorkerComparison:
    """Replace the expected answer by that of the solver as it is in this process, if a fork of it can give one."""
    sample = comparison.sample

    def answer(channel: Connection) -> None:
        with single_threaded():
            send(channel, checked_step(ShieldedSolver(solver), sample.state, sample.params))

    with ChildProcess(answer) as child, suppress(ChildEndedError):  # as one must that uses a graphics card, or threads
        return replace(comparison, sample=replace(sample, answer=child.receive(comparison.patience)))
    return comparison


def _answer_in_worker(comparison: WorkerComparison, channel: Connection) -> None:
    os.environ.update(ONE_THREAD)
    try:
        solver: Solver = cloudpickle.loads(comparison.pickled)
    except BaseException as error:  # whatever code of the user's raises
        words = f"a worker process cannot unpickle it, which raised {type(error).__name__}: {error}."
        send(channel, Finding("fail", words))
        return
    send(channel, _compare_in_worker(solver, comparison.sample))


def _compare_in_worker(solver: Solver, sample: Sample) -> Finding:
    try:
        with single_threaded():
            answer = call_step(solver, sample.state.copy(), None if sample.params is None else sample.params.copy())
        check_states(solver.spec, answer, "it", "mend that", batch=1)  # type: ignore[arg-type]
    except DeepZeroError as error:
        return Finding("fail", f"a worker process cannot advance a state that this one can: {error}")
    if not solver.spec.deterministic:
        return Finding("pass", "a worker process advances states.")
    difference = discrepancy(answer, sample.answer)  # type: ignore[arg-type]
    if difference.apart:
        return Finding(
            "fail",
            f"answers of a worker process and of this one are {difference.words}: what the solver depends on besides its "
            "arguments (global settings, its environment, threads) must travel with it.",
        )
    return Finding("pass", "a worker process gives the same, bit for bit.")
