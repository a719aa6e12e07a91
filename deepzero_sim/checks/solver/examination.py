"""Examination of a solver, part by part, in a child process: each part may be the end of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NamedTuple, TypeAlias

from deepzero_sim import errors
from deepzero_sim.checks.solver.process.monitor import send
from deepzero_sim.checks.solver.record import Finding, Record, SkippedError
from deepzero_sim.checks.solver.subject import Subject
from deepzero_sim.checks.solver.trial import Trial
from deepzero_sim.errors import ConfigError, DeepZeroError, SolverCrashError, SolverError
from deepzero_sim.execution.threads import single_threaded

#: Parts that every child begins with: one that goes on from the record of another has to know answers, too.
ALWAYS = ("first step", "survey")


class Begin(NamedTuple):
    """Message that a child begins a part, or a step of one.

    Args:
        part: Name of the part.
        seconds: Seconds that it may take.
        record: Record of what was found before.
    """

    part: str
    seconds: float
    record: Record


class Done(NamedTuple):
    """Message that a child has looked at everything."""

    record: Record


class Failed(NamedTuple):
    """Message that the solver cannot be looked at, and why."""

    error: DeepZeroError


@dataclass(frozen=True, eq=False)
class Examination:
    """Objects that parts work on.

    Args:
        trial: Trial of the solver.
        subject: Solver, sample states and training.
        record: Record that findings are written to.
        report: Callback at the end of a step of a long part.
    """

    trial: Trial
    subject: Subject
    record: Record
    report: Callable[[], None]

    def require_answers(self, after: tuple[str, ...] = (), of_answers: bool = True) -> None:
        """Go on only if there are answers that say something, where they are needed.

        Args:
            after: Lines that must not fail.
            of_answers: True if the part looks at answers.

        Raises:
            SkippedError: There are none.
        """
        if not self.record.is_well_formed:
            raise SkippedError("shape or dtype failed: mend that first.")
        for name in after:
            if self.record.findings[name].outcome == "fail":
                raise SkippedError(f"'{name}' failed: mend that first.")
        if of_answers and not self.trial.samples:
            raise SkippedError("no sample state was advanced to finite numbers.")


Look: TypeAlias = Callable[[Examination], None]


def usual_patience(trial: Trial, record: Record) -> float:
    """Give a part a minute at least, and twice the time left."""
    return max(record.wait, 2 * trial.seconds_left)


@dataclass(frozen=True)
class Part:
    """A part of a check.

    Args:
        name: Name of the part.
        look: Function that looks at the part, and writes findings into the record.
        when: Occasion at which the solver ended the process, in words.
        advice: Advice for that case.
        line: Line of the contract that it belongs to; None for a measurement.
        patience: Function for the seconds after which it hangs.
        on_end: Function that writes into the record how the process ended; None where a line fails by that.
    """

    name: str
    look: Look
    when: str
    advice: str = "a failure must be raised, not end Python; run its step alone to find out why"
    line: str | None = None
    patience: Callable[[Trial, Record], float] = usual_patience
    on_end: Callable[[Record, str], None] | None = None

    def note_end(self, record: Record, how: str) -> None:
        """Write into the record that the part ended the process; `how` is the beginning of a sentence."""
        record.done |= {self.name, self.line or self.name}
        if self.on_end is not None:
            self.on_end(record, how)
            return
        record.findings[self.line or self.name] = Finding("fail", f"{how} {self.when}: {self.advice}.")
        if self.line is None:
            record.left_out[self.name] = f"'{self.name}' failed: mend that first."

    def skip(self, record: Record, why: str) -> None:
        """Write into the record that the part was not looked at, and why."""
        record.done.add(self.name)
        if self.line is None:
            record.left_out[self.name] = why
        else:
            record.findings.setdefault(self.line, Finding("skipped", why))

    def examine(self, examination: Examination) -> None:
        """Look at the part; whatever comes of it, the others are looked at, but for a solver that takes no first step."""
        record = examination.record
        try:
            self.look(examination)
        except SkippedError as reason:
            self.skip(record, str(reason))
        except DeepZeroError as error:
            if self.name in ALWAYS:
                raise
            if self.line is None:
                self.skip(record, str(error))
            else:
                record.findings[self.line] = Finding("fail", f"states that were advanced before were not: {error}")
        except MemoryError:
            self.skip(record, "there was not enough memory to look at it.")
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # of an answer that is no proper array, or the like
            words = f"{type(error).__name__} was raised {self.when}: {error}."
            record.findings[self.line or self.name] = Finding("fail", words)


def run_parts(parts: Iterable[Part], make: Callable[[], Subject], record: Record, channel: Connection) -> None:
    """Examine all parts that are not done, and send a message before each begins; `make` may fail in any way."""
    try:
        with single_threaded():
            started = time.monotonic()
            subject = make()
            record.spend(time.monotonic() - started)
            _run_parts(parts, subject, record, channel)
        send(channel, Done(record))
    except BrokenPipeError:  # nobody listens any more
        return
    except BaseException as error:  # whatever code of the user's raises
        send(channel, Failed(_portable(error)))


def _run_parts(parts: Iterable[Part], subject: Subject, record: Record, channel: Connection) -> None:
    trial = Trial(subject.solver, subject.states, subject.params, subject.places, record.seconds_left)
    record.solver, record.made_up = subject.solver.spec.name, subject.made_up
    if subject.data is not None and subject.data.notes:
        record.findings["data"] = Finding("info", " ".join(subject.data.notes))
    for part in parts:
        if part.name in record.done and part.name not in ALWAYS:
            continue

        def report(part: Part = part) -> None:
            record.seconds_left = trial.seconds_left
            send(channel, Begin(part.name, part.patience(trial, record), record))

        report()
        part.examine(Examination(trial, subject, record, report))
        record.done.add(part.name)
    record.seconds_left = trial.seconds_left


def _portable(error: BaseException) -> DeepZeroError:
    """Convert an error to one that a process can unpickle which has no code of the user's."""
    if isinstance(error, DeepZeroError) and type(error).__module__ == errors.__name__:
        return error
    if isinstance(error, SolverError):
        return SolverCrashError(str(error))
    if isinstance(error, DeepZeroError):
        return ConfigError(str(error))
    return SolverCrashError(f"the solver raised {type(error).__name__}: {error}: mend that.")
