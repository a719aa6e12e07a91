"""The line of the contract about worker processes: sent to one, a solver answers the same."""

from __future__ import annotations

import functools
import os
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection

import cloudpickle

from deepzero_sim.checks.solver.answers import likeness
from deepzero_sim.checks.solver.child_process import ChildEndedError, ChildProcess
from deepzero_sim.checks.solver.minder import send
from deepzero_sim.checks.solver.record import Comparison
from deepzero_sim.checks.solver.trial import Shielded, unguarded
from deepzero_sim.checks.solver.verdict import Finding, broken, holds
from deepzero_sim.errors import DeepZeroError
from deepzero_sim.execution.executors import ONE_THREAD, single_threaded
from deepzero_sim.solver.contract import Solver, check_states, checked_step


def worker(comparison: Comparison, seconds: float) -> Finding:
    """Send a solver to a worker process, and compare the answers.

    Args:
        comparison: the solver, and what it answers here.
        seconds: to wait.
    """
    with ChildProcess(cloudpickle.dumps(functools.partial(_answer, comparison))) as child:
        try:
            found: Finding = child.receive(seconds)
        except ChildEndedError as ended:
            return broken(f"{ended} when a worker process was sent the solver: open in the step what cannot be sent.")
    return found


def answered_here(solver: Solver, comparison: Comparison) -> Comparison:
    """The same with the answer that the solver gives as it is in this process, if a fork of it can tell.

    Args:
        solver: as it is here.
        comparison: with the answer of a process that was sent the solver.
    """
    sample = comparison.sample

    def answer(channel: Connection) -> None:
        with single_threaded():
            send(channel, checked_step(Shielded(solver), sample.state, sample.params))

    with ChildProcess(answer) as child, suppress(ChildEndedError):  # as one must that uses a graphics card, or threads
        return replace(comparison, sample=replace(sample, answer=child.receive(comparison.patience)))
    return comparison


def _answer(comparison: Comparison, channel: Connection) -> None:
    os.environ.update(ONE_THREAD)
    try:
        solver: Solver = cloudpickle.loads(comparison.pickled)
    except BaseException as error:  # whatever code of the user's raises
        send(channel, broken(f"a worker process cannot unpickle it, which raised {type(error).__name__}: {error}."))
        return
    send(channel, _compared(solver, comparison))


def _compared(solver: Solver, comparison: Comparison) -> Finding:
    sample = comparison.sample
    try:
        with single_threaded():
            found = unguarded(solver, sample.state.copy(), None if sample.params is None else sample.params.copy())
        check_states(solver.spec, found, "it", "mend that", batch=1)  # type: ignore[arg-type]
    except DeepZeroError as error:
        return broken(f"a worker process cannot advance a state that this one can: {error}")
    if not solver.spec.deterministic:
        return holds("a worker process advances states.")
    alike = likeness(found, sample.answer)  # type: ignore[arg-type]
    if alike.apart:
        return broken(
            f"answers of a worker process and of this one are {alike.words}: what the solver depends on beside its arguments "
            "(global settings, its environment, threads) must travel with it."
        )
    return holds("a worker process gives the same, bit for bit.")
