"""Whether a solver keeps its contract, and what it will cost to train through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

from torch import nn

from deepzero_sim.building import build_network
from deepzero_sim.components import Component
from deepzero_sim.contract import answers, batches, elsewhere, form
from deepzero_sim.contract.first_of_all import require_an_end
from deepzero_sim.contract.gradient_costs import GradientCosts, gradient_costs
from deepzero_sim.contract.locality import measured_reach, stencil
from deepzero_sim.contract.made_up import smooth_fields
from deepzero_sim.contract.step_sizes import StepSizes, measure_step_sizes
from deepzero_sim.contract.timing import BatchTime, measure_times, recommended_batch
from deepzero_sim.contract.trial import SAMPLES, FirstStep, Trial
from deepzero_sim.contract.verdict import Finding, NotTestedError, Verdict
from deepzero_sim.contract.worker_process import WorkerProcess
from deepzero_sim.errors import ConfigError, DeepZeroError
from deepzero_sim.models.corrector import CORRECTORS
from deepzero_sim.parallel import single_threaded
from deepzero_sim.solver import Solver, SolverSpec
from deepzero_sim.types import Array, is_number, is_whole

_T = TypeVar("_T")


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
    """

    solver: str
    made_up: bool
    verdicts: tuple[Verdict, ...]
    step_sizes: StepSizes | None
    times: tuple[BatchTime, ...]
    gradients: GradientCosts | None
    left_out: dict[str, str]
    seconds: float

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


class _Line(NamedTuple):
    """A line of the contract, the lines that say nothing of it while they are broken, and whether it is about answers."""

    find: Callable[[Trial], Finding]
    after: tuple[str, ...] = ()
    of_answers: bool = True


#: Lines that the first step tells.
_OF_FORM: Mapping[str, Callable[[Trial, FirstStep], Finding]] = {
    "shape": form.shape,
    "dtype": form.dtype,
    "input unchanged": form.input_unchanged,
}

_SAME = ("deterministic", "no hidden state")
_ALIKE = (*_SAME, "batches")

#: Those that answers to a few states tell, in the order in which they are looked at.
_OF_ANSWERS: Mapping[str, _Line] = {
    "failures raised": _Line(answers.finite, of_answers=False),
    "sample states": _Line(answers.advanced),
    "padding": _Line(answers.padding),
    "deterministic": _Line(answers.deterministic),
    "no hidden state": _Line(answers.no_hidden_state, _SAME[:1]),
    "batches": _Line(batches.batch, _SAME),
    "largest batch": _Line(batches.largest_batch),
    "parameters": _Line(batches.parameters, _ALIKE),
}

#: Those that may take longer.
_ELSEWHERE: Mapping[str, _Line] = {
    "spec": _Line(form.described),
    "threads": _Line(elsewhere.threads, _SAME),
    "worker process": _Line(elsewhere.worker, _SAME),
}

#: The one that may take longest: the solver may hang.
_LAST: Mapping[str, _Line] = {"extreme states": _Line(elsewhere.extremes, ("worker process",))}


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
    elsewhere_first: bool = False,
) -> SolverCheck:
    """Hold a solver to its contract on sample states, line by line, and measure what training through it will take.

    Args:
        solver: any; it need not keep the contract.
        states: `(B, C, *N)`, of which up to 64 are looked at, as many as there is time for, spread over all; None for smooth
            random fields of unit size, which are made up.
        params: `(B, K)` or None.
        seconds: that the check may take, about: what does not fit is left out, and says so. A single step, and the start of a
            worker process, are waited for.
        unroll: solver steps of a rollout, for the cost of a gradient.
        batch_size: rollouts of a gradient, likewise.
        network: the corrector, likewise; None for `small`.
        seed: of all that is drawn.
        elsewhere_first: whether the very first step is asked for in a worker process, where nothing is lost by one that hangs
            or ends Python.

    Raises:
        ConfigError: an argument that cannot be used.
        SolverError: the solver cannot be run: it takes no such states, or fails on the very first one.
    """
    _require_usable(solver, seconds, unroll, batch_size)
    started = time.perf_counter()
    given = states if states is not None else smooth_fields(solver.spec, SAMPLES if params is None else len(params), seed)
    with single_threaded(), WorkerProcess(solver) as process:
        if elsewhere_first:
            require_an_end(process, given, params, seconds)
        found = _Found(Trial(solver, given, params, seconds, process))
        found.begin()
        found.lines(_OF_ANSWERS)
        sizes = found.measured("step sizes", lambda: measure_step_sizes(found.trial, seed), _ALIKE)
        times = found.measured("times", lambda: measure_times(found.trial)) or []
        reach = found.reach()
        found.lines(_ELSEWHERE)

        def costs() -> GradientCosts:
            return gradient_costs(solver, network or _small(solver.spec, seed), int(unroll), int(batch_size), reach, times)

        gradients = found.measured("gradients", costs)
        found.lines(_LAST)
    verdicts = tuple(Verdict(line, finding.outcome, finding.words) for line, finding in found.findings.items())
    took = time.perf_counter() - started
    return SolverCheck(solver.spec.name, states is None, verdicts, sizes, tuple(times), gradients, found.left_out, took)


def _require_usable(solver: Solver, seconds: float, unroll: int, batch_size: int) -> None:
    if not isinstance(solver, Solver) or not isinstance(getattr(solver, "spec", None), SolverSpec):
        raise ConfigError(
            f"a check needs a solver with a spec, which dz.as_solver makes of a function, not {type(solver).__name__}."
        )
    if not is_number(seconds) or not 0 < seconds < float("inf"):
        raise ConfigError(f"seconds must be a positive number, not {seconds!r}.")
    for name, value in (("unroll", unroll), ("batch_size", batch_size)):
        if not is_whole(value) or value < 1:
            raise ConfigError(f"{name} must be a positive whole number, not {value!r}.")


def _small(spec: SolverSpec, seed: int) -> nn.Module:
    return build_network(Component("small"), CORRECTORS, spec, seed)


class _Found:
    """What is found of a solver on trial, line by line, and what was left out, and why."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.findings: dict[str, Finding] = {}
        self.left_out: dict[str, str] = {}

    def begin(self) -> None:
        """Take the first steps, and look at what they tell.

        Raises:
            SolverError: the solver cannot be run.
        """
        first = self.trial.first_step()
        for name, of_form in _OF_FORM.items():
            self.findings[name] = of_form(self.trial, first)
        if self._formed:
            self.findings["result's memory"] = form.memory(self.trial, first)
            self.trial.survey()

    def lines(self, lines: Mapping[str, _Line]) -> None:
        """Look at some lines."""
        for name, line in lines.items():
            self.findings[name] = self._finding(line)

    def reach(self) -> int | None:
        """How far a step carries information, where that can be found, and the line of the stencil."""
        found = self.measured("stencil", lambda: measured_reach(self.trial), _ALIKE)
        reason = self.left_out.pop("stencil", "")
        self.findings["stencil"] = Finding("not tested", reason) if found is None else stencil(self.trial, found)
        return found

    def measured(self, name: str, measure: Callable[[], _T], after: tuple[str, ...] = ()) -> _T | None:
        """A measurement; None if it is left out."""
        try:
            self._require_answers(after)
            return measure()
        except (NotTestedError, DeepZeroError) as reason:
            self.left_out[name] = str(reason)
            return None

    @property
    def _formed(self) -> bool:
        return all(self.findings[name].outcome == "holds" for name in ("shape", "dtype"))

    def _finding(self, line: _Line) -> Finding:
        try:
            self._require_answers(line.after, line.of_answers)
            return line.find(self.trial)
        except NotTestedError as reason:
            return Finding("not tested", str(reason))
        except DeepZeroError as error:
            return Finding("broken", f"states that were advanced before were not: {error}")

    def _require_answers(self, after: tuple[str, ...], of_answers: bool = True) -> None:
        """Go on only if there are answers that say something, where they are needed.

        Raises:
            NotTestedError: there are none.
        """
        if not self._formed:
            raise NotTestedError("shape or dtype is broken: mend that first.")
        for name in after:
            if self.findings[name].outcome == "broken":
                raise NotTestedError(f"'{name}' is broken: mend that first.")
        if of_answers and not self.trial.samples:
            raise NotTestedError("no sample state was advanced to finite numbers.")
