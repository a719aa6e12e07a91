"""Whether a solver keeps its contract, and what it will cost to train through it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, final

import cloudpickle
from torch import nn

from deepzero_sim.checks.solver.child_process import ChildEndedError, ChildProcess
from deepzero_sim.checks.solver.examination import At, Done, Failed, examine
from deepzero_sim.checks.solver.gradient_costs import GradientCosts
from deepzero_sim.checks.solver.minder import Task
from deepzero_sim.checks.solver.parts import ALWAYS, EXTREMES, PARTS, leave_out, note_end
from deepzero_sim.checks.solver.record import Comparison, Record
from deepzero_sim.checks.solver.step_sizes import StepSizes
from deepzero_sim.checks.solver.subject import Subject, Training, subject_of
from deepzero_sim.checks.solver.timing import BatchTime, recommended_batch
from deepzero_sim.checks.solver.verdict import Finding, Verdict
from deepzero_sim.checks.solver.worker_process import answered_here, worker
from deepzero_sim.checks.solver.zygote import Unsendable, warm_up, zygote
from deepzero_sim.common.types import Array, is_integer, is_number
from deepzero_sim.errors import ConfigError, SolverCrashError
from deepzero_sim.solver.contract import Solver, SolverSpec

#: Seconds that a part is waited for, at least: what is called for the first time may have to be compiled.
WAIT = 60.0

#: Seconds that a solver may take to be made, and what is done then, which is no part of the check.
WAIT_MADE, _MADE = 600.0, "made"


@dataclass(frozen=True, eq=False)
class SolverCheck:
    """What a check found.

    Args:
        solver: its name.
        made_up: whether the sample states were, for want of better.
        verdicts: line by line.
        step_sizes: of finite differences; None if that was left out.
        times: of calls by batch; empty if that was left out.
        gradients: what they will cost; None if that was left out.
        left_out: of these three, and why.
        seconds: that the check took.
        printed: bytes that the solver printed, which are not shown.
    """

    solver: str
    made_up: bool
    verdicts: tuple[Verdict, ...]
    step_sizes: StepSizes | None
    times: tuple[BatchTime, ...]
    gradients: GradientCosts | None
    left_out: dict[str, str]
    seconds: float
    printed: int = 0

    @property
    def holds(self) -> bool:
        """Whether no line is broken."""
        return all(verdict.outcome != "broken" for verdict in self.verdicts)

    def __getitem__(self, line: str) -> Verdict:
        """The verdict on a line."""
        return next(verdict for verdict in self.verdicts if verdict.line == line)

    @property
    def recommended_batch(self) -> int | None:
        """States in a call; None if calls were not timed."""
        return recommended_batch(self.times) if self.times else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {"solver": self.solver, "holds": self.holds, "made_up": self.made_up, "seconds": self.seconds}
        found |= {"verdicts": {v.line: {"outcome": v.outcome, "words": v.words} for v in self.verdicts}}
        found |= {"step_sizes": None if self.step_sizes is None else self.step_sizes.as_dict()}
        found |= {"times": [asdict(entry) for entry in self.times], "recommended_batch": self.recommended_batch}
        return found | {
            "gradients": None if self.gradients is None else asdict(self.gradients),
            "left_out": self.left_out,
        }


class CheckInterruptedError(KeyboardInterrupt):
    """A check was interrupted.

    Args:
        found: what it had found by then.
    """

    def __init__(self, found: SolverCheck) -> None:
        super().__init__("the check was interrupted")
        self.found = found


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
        solver: any; it need not keep the contract.
        states: `(B, C, *N)`, of which up to 64 are looked at, as many as there is time for, spread over all; None for smooth
            random fields of unit size, which are made up.
        params: `(B, K)` or None.
        seconds: that the check may take, about: what does not fit is left out, and says so. The start of a process, and a
            single step, are waited for: a step for a minute at least.
        unroll: solver steps of a rollout, for the cost of a gradient.
        batch_size: rollouts of a gradient, likewise.
        network: the corrector, likewise; None for `small`.
        seed: of all that is drawn.

    Raises:
        ConfigError: an argument that cannot be used.
        SolverError: the solver cannot be run: it takes no such states, or raises an error on the very first one.
        CheckInterruptedError: Ctrl-C; it has what was found before.
    """
    _require_usable(solver, seconds, unroll, batch_size)
    subject = subject_of(solver, states, params, Training(network, int(unroll), int(batch_size), seed))
    return Inquiry(functools.partial(_same, subject), seconds, solver).run()


def _same(subject: Subject) -> Subject:
    return subject


def check_made_solver(make: Callable[[], Subject], seconds: float) -> SolverCheck:
    """Check a solver that is made in the process that it is asked in: nothing of it is ever called here.

    Args:
        make: the solver and its sample states; can be pickled.
        seconds: as of `check_solver`.

    Raises:
        DeepZeroError: what making it raises, or its first step.
        CheckInterruptedError: Ctrl-C.
    """
    return Inquiry(make, seconds).run()


def _require_usable(solver: Solver, seconds: float, unroll: int, batch_size: int) -> None:
    if not isinstance(solver, Solver) or not isinstance(getattr(solver, "spec", None), SolverSpec):
        raise ConfigError(
            f"a check needs a solver with a spec, which dz.as_solver makes of a function, not {type(solver).__name__}."
        )
    if not is_number(seconds) or not 0 < seconds < float("inf"):
        raise ConfigError(f"seconds must be a positive number, not {seconds!r}.")
    for name, value in (("unroll", unroll), ("batch_size", batch_size)):
        if not is_integer(value) or value < 1:
            raise ConfigError(f"{name} must be a positive whole number, not {value!r}.")


@final
class Inquiry:
    """Has a solver examined in child processes, one after another, until all is known.

    Args:
        make: the solver and its sample states.
        seconds: that it may take.
        solver: the same as it is here, if it is.
    """

    def __init__(self, make: Callable[[], Subject], seconds: float, solver: Solver | None = None) -> None:
        self._make, self._solver = make, solver
        self._record = Record(seconds, WAIT)
        self._printed = 0
        self._in_fork = False
        zygote.start()
        self._started = time.perf_counter()

    def run(self) -> SolverCheck:
        """Find out everything.

        Raises:
            DeepZeroError: the solver cannot be made, or run.
            CheckInterruptedError: Ctrl-C.
        """
        try:
            while not PARTS.keys() <= self._record.done:
                self._examine()
            self._compare()
        except KeyboardInterrupt as error:
            self._leave_out_rest("the check was interrupted.")
            raise CheckInterruptedError(self._found()) from error
        return self._found()

    def _examine(self) -> None:
        """Ask one child, for as long as it lives."""
        with ChildProcess(self._task()) as child:
            at = At(_MADE, WAIT_MADE, self._record)
            try:
                while isinstance(message := child.receive(at.seconds), At):
                    at, self._record = message, message.record
                self._hear(message)
            except ChildEndedError as ended:
                self._note_end(at.part, str(ended))
            finally:
                self._printed += child.printed

    def _task(self) -> bytes | Task:
        """What the next child is to do; as it is where that cannot be pickled, to be done in a fork of this process."""
        task = functools.partial(examine, self._make, self._record)
        if not self._in_fork:
            try:
                return bytes(cloudpickle.dumps(task))
            except Exception:
                self._in_fork = True
        warm_up()
        return task

    def _hear(self, message: Done | Failed | Unsendable) -> None:
        """Take the last message of a child."""
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
        """Whether a solver that is here, but came to nothing elsewhere, can still be asked in a fork of this process."""
        return self._solver is not None and not self._in_fork

    def _note_end(self, part: str, how: str) -> None:
        """Take note that a child ended while it looked at a part."""
        record = self._record
        if part == _MADE:
            if not self._may_fork:
                raise SolverCrashError(
                    f"{how} when the solver and its sample states were made: make them alone to find out why."
                )
            self._in_fork = True
        elif part in ALWAYS and part in record.done:
            self._leave_out_rest(f"{how} when it was asked again in another process.")
        else:
            note_end(record, PARTS[part], how)
            record.surveyed = record.surveyed or 0
            if part == ALWAYS[0]:
                self._leave_out_rest(f"'{part}' is broken: mend that first.")

    def _leave_out_rest(self, why: str) -> None:
        for name, part in PARTS.items():
            if name not in self._record.done:
                leave_out(self._record, part, why)

    def _compare(self) -> None:
        """Have a worker process answer what this one does."""
        comparison = self._record.comparison
        if comparison is not None:
            self._record.findings["worker process"] = self._compared(comparison)

    def _compared(self, comparison: Comparison) -> Finding:
        if self._solver is not None and not self._in_fork:
            comparison = answered_here(self._solver, comparison)
        return worker(comparison, max(WAIT, self._record.seconds_left))

    def _found(self) -> SolverCheck:
        record = self._record
        lines = sorted(record.findings.items(), key=lambda item: item[0] == EXTREMES)  # the others as they were found
        return SolverCheck(
            record.solver,
            record.made_up,
            tuple(Verdict(line, finding.outcome, finding.words) for line, finding in lines),
            record.step_sizes,
            record.times,
            record.gradients,
            record.left_out,
            time.perf_counter() - self._started,
            self._printed,
        )
