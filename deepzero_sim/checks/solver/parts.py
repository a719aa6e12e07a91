"""The parts of a check, in the order in which they are looked at, and what it means when one of them ends the process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import cloudpickle

from deepzero_sim.checks.solver import answers, batches, concurrency, form
from deepzero_sim.checks.solver.gradient_costs import gradient_costs
from deepzero_sim.checks.solver.locality import measured_reach, stencil
from deepzero_sim.checks.solver.record import Comparison, Record
from deepzero_sim.checks.solver.step_sizes import measure_step_sizes
from deepzero_sim.checks.solver.subject import Subject
from deepzero_sim.checks.solver.timing import MOST_STATES, measure_times
from deepzero_sim.checks.solver.trial import Trial
from deepzero_sim.checks.solver.verdict import Finding, NotTestedError, broken, told
from deepzero_sim.errors import ConfigError, DeepZeroError
from deepzero_sim.execution.executors import pickling_for_workers

#: Seconds that a worker process may take to make the solver anew.
START = 5.0

#: Lines of the contract that are told in several parts.
PARAMETERS, EXTREMES = "parameters", "extreme states"


@dataclass(frozen=True, eq=False)
class Examination:
    """What parts look at, and where they write.

    Args:
        trial: of the solver.
        subject: what is asked about it.
        record: of what is found.
        tell: is called when a step of a long part has ended.
    """

    trial: Trial
    subject: Subject
    record: Record
    tell: Callable[[], None]

    def require_answers(self, after: tuple[str, ...] = (), of_answers: bool = True) -> None:
        """Go on only if there are answers that say something, where they are needed.

        Args:
            after: lines that must not be broken.
            of_answers: whether answers are needed.

        Raises:
            NotTestedError: there are none.
        """
        if not self.record.is_formed:
            raise NotTestedError("shape or dtype is broken: mend that first.")
        for name in after:
            if self.record.findings[name].outcome == "broken":
                raise NotTestedError(f"'{name}' is broken: mend that first.")
        if of_answers and not self.trial.samples:
            raise NotTestedError("no sample state was advanced to finite numbers.")


_Look: TypeAlias = Callable[[Examination], None]


def _usual_patience(trial: Trial, record: Record) -> float:
    return max(record.wait, 2 * trial.seconds_left)


def _patience_with_threads(trial: Trial, record: Record) -> float:
    return concurrency.patience_with_threads(trial)


def _patience_with_extremes(trial: Trial, record: Record) -> float:
    return concurrency.patience_with_extremes(trial)


@dataclass(frozen=True)
class Part:
    """A part of a check.

    Args:
        name: its own.
        look: writes into the record what is found.
        when: the solver ended the process, in words.
        advice: what to do then.
        line: of the contract that it belongs to; None for a measurement.
        patience: seconds after which it hangs.
        end: writes into the record how the process ended; None where a line is broken by that.
    """

    name: str
    look: _Look
    when: str
    advice: str = "a failure must be raised, not end Python; run its step alone to find out why"
    line: str | None = None
    patience: Callable[[Trial, Record], float] = _usual_patience
    end: Callable[[Record, str], None] | None = None


def note_end(record: Record, part: Part, how: str) -> None:
    """Write down that the process ended.

    Args:
        record: of what was found before.
        part: that was looked at.
        how: it ended, as the beginning of a sentence.
    """
    record.done |= {part.name, part.line or part.name}
    if part.end is not None:
        part.end(record, how)
        return
    record.findings[part.line or part.name] = broken(f"{how} {part.when}: {part.advice}.")
    if part.line is None:
        record.left_out[part.name] = f"'{part.name}' is broken: mend that first."


def leave_out(record: Record, part: Part, why: str) -> None:
    """Write down that a part was not looked at.

    Args:
        record: of what was found.
        part: that was left out.
        why: in words.
    """
    record.done.add(part.name)
    if part.line is None:
        record.left_out[part.name] = why
    else:
        record.findings.setdefault(part.line, Finding("not tested", why))


def _first_step(examination: Examination) -> None:
    trial, record = examination.trial, examination.record
    first = trial.first_step()
    for name, of_form in (("shape", form.shape), ("dtype", form.dtype), ("input unchanged", form.input_unchanged)):
        record.findings.setdefault(name, of_form(trial, first))
    if record.is_formed:
        record.findings.setdefault("result's memory", form.memory(trial, first))


def _survey(examination: Examination) -> None:
    record, ended = examination.record, 0

    def step_ended() -> None:
        nonlocal ended
        ended += 1
        record.surveyed = ended
        examination.tell()

    if record.is_formed:
        examination.trial.survey(record.surveyed, step_ended)


def _line(find: Callable[[Trial], Finding], name: str, after: tuple[str, ...] = (), of_answers: bool = True) -> _Look:
    def look(examination: Examination) -> None:
        examination.require_answers(after, of_answers)
        examination.record.findings[name] = find(examination.trial)

    return look


_SAME = ("deterministic", "no hidden state")
_ALIKE = (*_SAME, "batches")


def _without_parameters(examination: Examination) -> None:
    if examination.record.findings[PARAMETERS].outcome == "holds":
        _tell_without(examination.record, f"it {batches.without_parameters(examination.trial)}")


def _tell_without(record: Record, what: str) -> None:
    found = record.findings[PARAMETERS]
    record.findings[PARAMETERS] = Finding(found.outcome, f"{found.words.removesuffix('.')}; without them {what}.")


def _step_sizes(examination: Examination) -> None:
    examination.require_answers(_ALIKE)
    examination.record.step_sizes = measure_step_sizes(examination.trial, examination.subject.training.seed)


def _times(examination: Examination) -> None:
    examination.require_answers()
    record, most = examination.record, MOST_STATES
    if record.findings["largest batch"].outcome == "broken":
        most = batches.size_of_largest(examination.trial) - 1
    if record.findings["batches"].outcome == "broken":
        most = 1
    for entry in measure_times(examination.trial, most):
        record.times += (entry,)
        examination.tell()


def _stencil(examination: Examination) -> None:
    examination.require_answers(_ALIKE)
    record = examination.record
    try:
        record.reach = measured_reach(examination.trial)
    except DeepZeroError as error:
        raise NotTestedError(str(error)) from error
    record.findings["stencil"] = stencil(examination.trial, record.reach)


def _gradients(examination: Examination) -> None:
    examination.require_answers()
    subject, record = examination.subject, examination.record
    training, network = subject.training, subject.training.network_for(subject.solver)
    record.gradients = gradient_costs(subject.solver, network, training.unroll, training.batch_size, record.reach, record.times)


def _worker(examination: Examination) -> None:
    examination.require_answers(_SAME)
    trial, record = examination.trial, examination.record
    trial.require_seconds(START)
    try:
        with pickling_for_workers(f"solver {trial.spec.name!r}"):
            pickled = cloudpickle.dumps(examination.subject.solver)
    except ConfigError as error:
        record.findings["worker process"] = broken(str(error))
        return
    record.comparison = Comparison(pickled, trial.samples[0], concurrency.patience_with_one(trial))


def _extreme(label: str, scale: float) -> Part:
    def look(examination: Examination) -> None:
        found, trial = examination.record.findings.get(EXTREMES), examination.trial
        if found is None:
            examination.require_answers()
            trial.require_seconds(2 * concurrency.patience_with_extremes(trial))
        if found is None or found.outcome == "told":
            _tell_extreme(examination.record, f"{label}: {concurrency.reaction(trial, scale)}.")

    def end(record: Record, how: str) -> None:
        _tell_extreme(record, f"{label}: {how}.")

    return Part(label, look, "at an extreme state", line=EXTREMES, patience=_patience_with_extremes, end=end)


def _tell_extreme(record: Record, words: str) -> None:
    found = record.findings.get(EXTREMES)
    record.findings[EXTREMES] = told(words if found is None else f"{found.words} {words}")


def _of_line(
    name: str,
    find: Callable[[Trial], Finding],
    when: str,
    advice: str = Part.advice,
    after: tuple[str, ...] = (),
    of_answers: bool = True,
    patience: Callable[[Trial, Record], float] = _usual_patience,
) -> Part:
    return Part(name, _line(find, name, after, of_answers), when, advice, name, patience)


#: Parts that every child begins with: one that goes on from the record of another has to know answers, too.
ALWAYS = ("first step", "survey")

_PARTS = (
    Part("first step", _first_step, "at the very first step, of one state", line="first step"),
    Part("survey", _survey, "at a sample state, alone", line="sample states"),
    _of_line("failures raised", answers.finite, "when answers were looked at", of_answers=False),
    _of_line("sample states", answers.advanced, "when answers were looked at"),
    _of_line("padding", answers.padding, "when answers were looked at"),
    _of_line("deterministic", answers.deterministic, "when one state was advanced again"),
    _of_line("no hidden state", answers.no_hidden_state, "when two states were advanced in turn", after=_SAME[:1]),
    _of_line("batches", batches.batch, "when one call was given two states", "set max_batch=1 in the spec, or mend it", _SAME),
    _of_line(
        "largest batch",
        batches.largest_batch,
        "when one call was given as many states as the spec allows",
        "set max_batch in the spec to what the solver takes",
    ),
    _of_line(PARAMETERS, batches.parameters, f"when parameters were changed by {batches.CHANGE:.0%}", after=_ALIKE),
    Part("without parameters", _without_parameters, "without parameters", line=PARAMETERS, end=_tell_without),
    Part("step sizes", _step_sizes, "when states were changed a little"),
    Part("times", _times, "when calls of many states were timed", "set max_batch in the spec to what the solver takes"),
    Part("stencil", _stencil, "when a state was changed at one point", line="stencil"),
    _of_line("spec", form.described, "when its spec was read"),
    _of_line(
        "threads",
        concurrency.threads,
        "when two threads called it at once",
        "put a lock around what only one thread may do, or set thread_safe=False in the spec",
        _SAME,
        patience=_patience_with_threads,
    ),
    Part("gradients", _gradients, "when costs of gradients were counted"),
    Part("worker process", _worker, "when it was pickled", "it must be picklable to be sent to workers", "worker process"),
    _extreme("NaN", float("nan")),
    _extreme(f"{concurrency.EXTREME:.0e} times a state", concurrency.EXTREME),
)

#: By name, in the order in which they are looked at.
PARTS: Mapping[str, Part] = {part.name: part for part in _PARTS}
