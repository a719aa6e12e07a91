"""Parts of a check, in the order in which they are looked at: lines of the contract, and measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

import cloudpickle

from deepzero_sim.checks.solver.costs import MOST_STATES, gradient_costs, measure_times
from deepzero_sim.checks.solver.examination import Examination, Part, run_parts, usual_patience
from deepzero_sim.checks.solver.lines import batches, concurrency, states
from deepzero_sim.checks.solver.lines.inputs import check_inputs
from deepzero_sim.checks.solver.record import Finding, Record, SkippedError, WorkerComparison
from deepzero_sim.checks.solver.step_sizes import measure_step_sizes
from deepzero_sim.checks.solver.subject import Subject
from deepzero_sim.checks.solver.trial import Trial
from deepzero_sim.datasets.fitting.one_step_error import COMPARED, of_some_frames
from deepzero_sim.datasets.fitting.spacing import MOST_STEPS, spacing_warning
from deepzero_sim.errors import ConfigError, DeepZeroError
from deepzero_sim.execution.workers import explain_pickling_errors
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.solver.stepped_inputs import InputsAtRest

#: Seconds that a worker process may take to make the solver anew.
WORKER_START = 2.5

#: Lines of the contract that several parts contribute to.
PARAMETERS, EXTREMES = "parameters", "extreme states"

#: Line that says what there is to correct.
ERROR_OF_A_STEP = "error of a step"

#: Lines that must not fail where answers are compared with each other, and where those of a batch are, too.
_SAME = ("deterministic", "no hidden state")
_ALIKE = (*_SAME, "batches")


def examine(make: Callable[[], Subject], record: Record, channel: Connection) -> None:
    """Examine a solver in a child process.

    Args:
        make: Function that makes the subject; it may fail in any way.
        record: Record of what is known already.
        channel: Connection for messages to the process that waits.
    """
    run_parts(PARTS.values(), make, record, channel)


def _patience_with_threads(trial: Trial, record: Record) -> float:
    return trial.patience(2 * concurrency.thread_rounds(trial))


def _patience_with_extremes(trial: Trial, record: Record) -> float:
    """Wait for seconds, but no longer than half of the time left: it is an observation, and breaks nothing."""
    return min(trial.patience(least=states.WAIT_EXTREME), max(states.LEAST_EXTREME, trial.seconds_left / 2))


def _first_step(examination: Examination) -> None:
    trial, record = examination.trial, examination.record
    first = trial.first_step()
    lines = (("shape", states.check_shape), ("dtype", states.check_dtype), ("input unchanged", states.check_input_unchanged))
    for name, check in lines:
        record.findings.setdefault(name, check(trial, first))
    if record.is_well_formed:
        record.findings.setdefault("result's memory", states.describe_memory(trial, first))


def _survey(examination: Examination) -> None:
    record, steps = examination.record, 0

    def on_step() -> None:
        nonlocal steps
        steps += 1
        record.surveyed = steps
        examination.report()

    if record.is_well_formed:
        examination.trial.survey(record.surveyed, on_step)


def _without_parameters(examination: Examination) -> None:
    if examination.record.findings[PARAMETERS].outcome == "pass":
        _add_without(examination.record, f"it {batches.step_without_parameters(examination.trial)}")


def _add_without(record: Record, what: str) -> None:
    finding = record.findings[PARAMETERS]
    record.findings[PARAMETERS] = Finding(finding.outcome, f"{finding.words.removesuffix('.')}; without them {what}.")


def _step_sizes(examination: Examination) -> None:
    examination.require_answers(_ALIKE)
    examination.record.step_sizes = measure_step_sizes(examination.trial, examination.subject.training.seed)


def _times(examination: Examination) -> None:
    examination.require_answers()
    record, most = examination.record, MOST_STATES
    if record.findings["largest batch"].outcome == "fail":
        most = batches.largest_batch(examination.trial) - 1
    if record.findings["batches"].outcome == "fail":
        most = 1
    for entry in measure_times(examination.trial, most):
        record.times += (entry,)
        examination.report()


def _stencil(examination: Examination) -> None:
    examination.require_answers(_ALIKE)
    trial, record = examination.trial, examination.record
    try:
        record.reach, looked_at = states.measure_stencil(trial)
    except DeepZeroError as error:
        raise SkippedError(str(error)) from error
    record.findings["stencil"] = states.check_stencil(trial, record.reach, looked_at)


def _gradients(examination: Examination) -> None:
    examination.require_answers()
    solver, training, record = examination.subject.solver, examination.subject.training, examination.record
    network, radius = training.network_for(solver), None if record.reach is None else record.reach.most
    record.gradients = gradient_costs(solver, network, training.unroll, training.batch_size, radius, record.times)


def _inputs(examination: Examination) -> None:
    """Tell which fields a step reads, if the spec names any."""
    solver = examination.subject.solver
    if isinstance(solver, InputsAtRest):
        examination.require_answers(_SAME)
        examination.record.findings["inputs"] = check_inputs(examination.trial, solver)


def _frames(examination: Examination) -> None:
    """Compare the distance of the data's frames with the solver's step, if there are data."""
    data = examination.subject.data
    if data is None:
        return
    examination.require_answers(_SAME)
    examination.trial.require_time(MOST_STEPS)
    finding = spacing_warning(examination.subject.solver, data)
    fits = f"nothing speaks against frames that lie one step apart ({finding.account.steps} steps were compared with them)."
    words = fits if finding.warning is None else finding.warning
    examination.record.findings["frames"] = Finding("pass" if finding.warning is None else "info", words)


def _error_of_a_step(examination: Examination) -> None:
    """Say what a step from the data's frames misses of the next ones, as training says it, if there are data."""
    data, trial = examination.subject.data, examination.trial
    if data is None or data.frames.shape[1] < 2:
        return
    examination.require_answers(_SAME)
    trial.require_time(COMPARED, at_once=COMPARED)
    found, account = of_some_frames(trial.shielded, data, FailurePolicy())
    if found is None:
        raise SkippedError("a step from a frame of the data failed, or the frames do not differ.")
    warning = found.warning(trial.spec.name)
    said = [*([] if warning is None else [warning]), *found.notes(), f"{account.steps} steps were compared."]
    examination.record.findings[ERROR_OF_A_STEP] = Finding("info", " ".join(said))


def _worker(examination: Examination) -> None:
    examination.require_answers(_SAME)
    trial, record = examination.trial, examination.record
    trial.require_seconds(WORKER_START)
    try:
        with explain_pickling_errors(f"solver {trial.spec.name!r}"):
            pickled = cloudpickle.dumps(examination.subject.solver)
    except ConfigError as error:
        record.findings["worker process"] = Finding("fail", str(error))
        return
    record.comparison = WorkerComparison(pickled, trial.samples[0], trial.patience())


def _extreme(label: str, scale: float) -> Part:
    def look(examination: Examination) -> None:
        finding, trial = examination.record.findings.get(EXTREMES), examination.trial
        if finding is None:
            examination.require_answers()
            trial.require_time(2)
        if finding is None or finding.outcome == "info":
            _add_extreme(examination.record, f"{label}: {states.react_to_extreme(trial, scale)}.")

    def on_end(record: Record, how: str) -> None:
        _add_extreme(record, f"{label}: {how}.")

    return Part(label, look, "at an extreme state", line=EXTREMES, patience=_patience_with_extremes, on_end=on_end)


def _add_extreme(record: Record, words: str) -> None:
    finding = record.findings.get(EXTREMES)
    record.findings[EXTREMES] = Finding("info", words if finding is None else f"{finding.words} {words}")


def _line(
    name: str,
    check: Callable[[Trial], Finding],
    when: str,
    advice: str = Part.advice,
    after: tuple[str, ...] = (),
    of_answers: bool = True,
    patience: Callable[[Trial, Record], float] = usual_patience,
) -> Part:
    """Make the part of a line that one function tests."""

    def look(examination: Examination) -> None:
        examination.require_answers(after, of_answers)
        examination.record.findings[name] = check(examination.trial)

    return Part(name, look, when, advice, name, patience)


_PARTS = (
    Part("first step", _first_step, "at the very first step, of one state", line="first step"),
    Part("survey", _survey, "at a sample state, alone", line="sample states"),
    _line("failures raised", states.check_failures_raised, "when answers were looked at", of_answers=False),
    _line("sample states", states.check_sample_states, "when answers were looked at"),
    _line("padding", states.check_padding, "when answers were looked at"),
    _line("deterministic", states.check_determinism, "when one state was advanced again"),
    _line("no hidden state", states.check_hidden_state, "when two states were advanced in turn", after=_SAME[:1]),
    _line(
        "batches", batches.check_batch, "when one call was given two states", "set max_batch=1 in the spec, or mend it", _SAME
    ),
    _line(
        "largest batch",
        batches.check_largest_batch,
        "when one call was given as many states as the spec allows",
        "set max_batch in the spec to what the solver takes",
    ),
    _line(PARAMETERS, batches.check_parameters, f"when parameters were changed by {batches.CHANGE:.0%}", after=_ALIKE),
    Part("without parameters", _without_parameters, "without parameters", line=PARAMETERS, on_end=_add_without),
    Part("inputs", _inputs, "when inputs of a step were changed by their scale", line="inputs"),
    Part("step sizes", _step_sizes, "when states were changed a little"),
    Part("times", _times, "when calls of many states were timed", "set max_batch in the spec to what the solver takes"),
    Part("stencil", _stencil, "when a state was changed at one point", line="stencil"),
    Part("frames", _frames, "when steps were compared with the data's frames", line="frames"),
    Part(ERROR_OF_A_STEP, _error_of_a_step, "when steps were compared with the data's frames", line=ERROR_OF_A_STEP),
    _line("spec", states.describe_spec, "when its spec was read"),
    _line(
        "threads",
        concurrency.check_threads,
        "when two threads called it at once",
        "put a lock around what only one thread may do, or set thread_safe=False in the spec",
        _SAME,
        patience=_patience_with_threads,
    ),
    Part("gradients", _gradients, "when costs of gradients were counted"),
    Part("worker process", _worker, "when it was pickled", "it must be picklable to be sent to workers", "worker process"),
    _extreme("NaN", float("nan")),
    _extreme(f"{states.EXTREME:.0e} times a state", states.EXTREME),
)

#: Parts by name, in their order.
PARTS: Mapping[str, Part] = {part.name: part for part in _PARTS}
