"""Check of a solver: does it keep its contract, and what will it cost to train through it?"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import final

import cloudpickle
from torch import nn

from deepzero_sim.checks.solver.examination import ALWAYS, Begin, Done, Failed
from deepzero_sim.checks.solver.lines.concurrency import answer_here, check_worker_process
from deepzero_sim.checks.solver.parts import EXTREMES, PARTS, examine
from deepzero_sim.checks.solver.process.child import ChildEndedError, ChildProcess
from deepzero_sim.checks.solver.process.fork_server import UnpicklingFailure, fork_server, warm_up
from deepzero_sim.checks.solver.process.monitor import Task
from deepzero_sim.checks.solver.record import Record
from deepzero_sim.checks.solver.results import CheckInterruptedError, SolverCheck, Verdict
from deepzero_sim.checks.solver.subject import Subject, Training, subject_of
from deepzero_sim.common.requirements import is_count, is_positive, require
from deepzero_sim.common.types import Array
from deepzero_sim.errors import ConfigError, SolverCrashError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec

#: Least seconds to wait for a part: what is called for the first time may have to be compiled.
WAIT = 60.0

#: Seconds that making a solver may take, and a name for that time, which belongs to no part.
WAIT_MAKING, _MAKING = 600.0, "making"


def check_solver(
    solver: Solver,
    states: Array | None = None,
    params: Array | None = None,
    *,
    seconds: float = 60.0,
    unroll: int = 8,
    batch_size: int = 2,
    network: nn.Module | None = None,
    seed: int = 0,
) -> SolverCheck:
    """Hold a solver to its contract on sample states, line by line, and measure what training through it will take.

    The solver is asked in a process of its own, which it may crash or block: that is a verdict, and the check goes on. A solver
    that cannot be pickled is asked in a fork of this process.

    Args:
        solver: Any solver; it need not keep the contract.
        states: Sample states, `(B, C, *N)`, of which up to 64 are looked at, as many as there is time for, spread over all;
            None for smooth random fields of unit size.
        params: Parameters, `(B, K)` or None.
        seconds: Seconds that the check may take, about: what does not fit is left out, and says so. The start of a process,
            and a single step, are waited for: a step for a minute at least.
        unroll: Solver steps of a rollout, for the cost of a gradient.
        batch_size: Rollouts of a gradient, for its cost.
        network: Corrector, for the cost of a gradient; None for `small`.
        seed: Seed of all that is drawn.

    Raises:
        ConfigError: An argument cannot be used.
        SolverError: The solver cannot be run: it takes no such states, or raises an error on the very first one.
        CheckInterruptedError: The user pressed Ctrl-C; the error has what was found before.
    """
    if not isinstance(solver, Solver) or not isinstance(getattr(solver, "spec", None), SolverSpec):
        raise ConfigError(
            f"a check needs a solver with a spec, which dz.as_solver makes of a function, not {type(solver).__name__}."
        )
    require(is_positive(seconds), "seconds must be a positive number", seconds)
    for name, value in (("unroll", unroll), ("batch_size", batch_size)):
        require(is_count(value), f"{name} must be a positive whole number", value)
    subject = subject_of(solver, states, params, Training(network, int(unroll), int(batch_size), seed))
    return _CheckRun(lambda: subject, seconds, solver).run()


def check_made_solver(make: Callable[[], Subject], seconds: float, began: float | None = None) -> SolverCheck:
    """Check a solver that is made in the process that it is asked in: nothing of it is ever called here.

    Args:
        make: Function that makes the solver and its sample states; can be pickled.
        seconds: Seconds that the check may take, as in `check_solver`.
        began: Time of `time.monotonic` from which they count, so that starts count, too; None for when the solver is made.

    Raises:
        DeepZeroError: The solver cannot be made, or its first step raises an error.
        CheckInterruptedError: The user pressed Ctrl-C.
    """
    return _CheckRun(make, seconds, began=began).run()


@final
class _CheckRun:
    """Has a solver examined in child processes, one after another, until all is known.

    Args:
        make: Function that makes the solver and its sample states.
        seconds: Seconds that the check may take.
        solver: The same solver as it is in this process, if it is.
        began: Time from which the seconds count; None for now.
    """

    def __init__(
        self, make: Callable[[], Subject], seconds: float, solver: Solver | None = None, began: float | None = None
    ) -> None:
        self._make, self._solver = make, solver
        self._record = Record(seconds, WAIT)
        self._printed = 0
        self._in_fork = False
        fork_server.start()
        self._began = time.monotonic() if began is None else began
        self._record.spend(time.monotonic() - self._began)

    def run(self) -> SolverCheck:
        """Examine all parts.

        Raises:
            DeepZeroError: The solver cannot be made, or run.
            CheckInterruptedError: The user pressed Ctrl-C.
        """
        try:
            while not PARTS.keys() <= self._record.done:
                self._ask_child()
            self._compare_with_worker()
        except KeyboardInterrupt as error:
            self._skip_rest("the check was interrupted.")
            raise CheckInterruptedError(self._result()) from error
        return self._result()

    def _ask_child(self) -> None:
        """Ask one child, for as long as it lives."""
        with ChildProcess(self._task()) as child:
            begin = Begin(_MAKING, WAIT_MAKING, self._record)
            try:
                while isinstance(message := child.receive(begin.seconds), Begin):
                    begin, self._record = message, message.record
                self._handle(message)
            except ChildEndedError as ended:
                self._note_end(begin.part, str(ended))
            finally:
                self._printed += child.printed

    def _task(self) -> bytes | Task:
        """Return the next child's task: pickled, or as it is for a fork of this process if that is impossible."""
        task = functools.partial(examine, self._make, self._record)
        if not self._in_fork:
            try:
                return bytes(cloudpickle.dumps(task))
            except Exception:
                self._in_fork = True
        warm_up()
        return task

    def _handle(self, message: Done | Failed | UnpicklingFailure) -> None:
        """Handle the last message of a child."""
        if isinstance(message, Done):
            self._record = message.record
        elif self._may_fork:  # the solver may depend on what is set in this process
            self._in_fork = True
        elif isinstance(message, Failed):
            raise message.error
        else:
            raise ConfigError(
                f"the solver cannot be sent to a process to be checked in ({message.why}): import all that it needs."
            )

    @property
    def _may_fork(self) -> bool:
        """True if a solver that came to nothing in a fresh process can still be asked in a fork of this one."""
        return self._solver is not None and not self._in_fork

    def _note_end(self, part: str, how: str) -> None:
        """Write down that a child ended while it looked at a part."""
        record = self._record
        if part == _MAKING:
            if not self._may_fork:
                raise SolverCrashError(
                    f"{how} when the solver and its sample states were made: make them alone to find out why."
                )
            self._in_fork = True
        elif part in ALWAYS and part in record.done:
            self._skip_rest(f"{how} when it was asked again in another process.")
        else:
            PARTS[part].note_end(record, how)
            record.surveyed = record.surveyed or 0
            if part == ALWAYS[0]:
                self._skip_rest(f"'{part}' failed: mend that first.")

    def _skip_rest(self, why: str) -> None:
        for name, part in PARTS.items():
            if name not in self._record.done:
                part.skip(self._record, why)

    def _compare_with_worker(self) -> None:
        """Expect the same answer from a worker process."""
        record, comparison = self._record, self._record.comparison
        if comparison is None:
            return
        if self._may_fork and self._solver is not None:
            comparison = answer_here(self._solver, comparison)
        record.findings["worker process"] = check_worker_process(comparison, max(WAIT, record.seconds_left))

    def _result(self) -> SolverCheck:
        record = self._record
        lines = sorted(record.findings.items(), key=lambda item: item[0] == EXTREMES)  # the others in their own order
        return SolverCheck(
            record.solver,
            record.made_up,
            tuple(Verdict(line, finding.outcome, finding.words) for line, finding in lines),
            record.step_sizes,
            record.times,
            record.gradients,
            record.left_out,
            time.monotonic() - self._began,
            self._printed,
        )
