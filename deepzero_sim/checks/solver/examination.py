"""The child's side of a check: a solver is asked part by part, and each part may be the end of the process."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

from deepzero_sim import errors
from deepzero_sim.checks.solver.minder import send
from deepzero_sim.checks.solver.parts import ALWAYS, PARTS, Examination, Part, leave_out
from deepzero_sim.checks.solver.record import Record
from deepzero_sim.checks.solver.subject import Subject
from deepzero_sim.checks.solver.trial import Trial
from deepzero_sim.checks.solver.verdict import NotTestedError, broken
from deepzero_sim.errors import ConfigError, DeepZeroError, SolverCrashError, SolverError
from deepzero_sim.execution.executors import single_threaded


class At(NamedTuple):
    """A child begins a part, or a step of one.

    Args:
        part: its name.
        seconds: that it may take.
        record: of what was found before.
    """

    part: str
    seconds: float
    record: Record


class Done(NamedTuple):
    """A child has looked at everything.

    Args:
        record: of what was found.
    """

    record: Record


class Failed(NamedTuple):
    """The solver cannot be looked at.

    Args:
        error: why.
    """

    error: DeepZeroError


def examine(make: Callable[[], Subject], record: Record, channel: Connection) -> None:
    """Go through all parts that are not done, and tell of each before it begins.

    Args:
        make: the solver and its sample states; may fail in any way.
        record: of what is known already.
        channel: where it is told.
    """
    try:
        with single_threaded():
            _examine(make(), record, channel)
        send(channel, Done(record))
    except BrokenPipeError:  # nobody listens any more
        return
    except BaseException as error:  # whatever code of the user's raises
        send(channel, Failed(portable(error)))


def _examine(subject: Subject, record: Record, channel: Connection) -> None:
    trial = Trial(subject.solver, subject.states, subject.params, subject.places, record.seconds_left)
    record.solver, record.made_up = subject.solver.spec.name, subject.made_up
    for part in PARTS.values():
        if part.name in record.done and part.name not in ALWAYS:
            continue

        def tell(part: Part = part) -> None:
            record.seconds_left = trial.seconds_left
            send(channel, At(part.name, part.patience(trial, record), record))

        tell()
        _look(part, Examination(trial, subject, record, tell))
        record.done.add(part.name)
    record.seconds_left = trial.seconds_left


def _look(part: Part, examination: Examination) -> None:
    """Look at a part; whatever comes of it, the others are looked at, but for a solver that takes no first step."""
    record = examination.record
    try:
        part.look(examination)
    except NotTestedError as reason:
        leave_out(record, part, str(reason))
    except DeepZeroError as error:
        if part.name in ALWAYS:
            raise
        if part.line is None:
            leave_out(record, part, str(error))
        else:
            record.findings[part.line] = broken(f"states that were advanced before were not: {error}")
    except MemoryError:
        leave_out(record, part, "there was not enough memory to look at it.")
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # of an answer that is no proper array, or the like
        record.findings[part.line or part.name] = broken(f"{type(error).__name__} was raised {part.when}: {error}.")


def portable(error: BaseException) -> DeepZeroError:
    """An error that can be sent to a process without code of the user's.

    Args:
        error: of any class.
    """
    if isinstance(error, DeepZeroError) and type(error).__module__ == errors.__name__:
        return error
    if isinstance(error, SolverError):
        return SolverCrashError(str(error))
    if isinstance(error, DeepZeroError):
        return ConfigError(str(error))
    return SolverCrashError(f"the solver raised {type(error).__name__}: {error}: mend that.")
