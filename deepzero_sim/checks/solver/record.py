"""Record of a check on its way: a child process sends it home before every part, and the next child goes on from there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from deepzero_sim.checks.solver.results import NOT_APPLICABLE, BatchTime, GradientCosts, Outcome, StepSizes
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.stencil_radius import Reach

#: Largest rounding of sums in another order, in units of a dtype's last digit.
LAST_DIGITS = 1000


#: Least share of the time for a check that is left for steps of the solver, however long it takes to begin.
LEAST_LEFT = 0.25


class SkippedError(Exception):
    """A part of the check cannot be looked at; the message says why."""


class NotApplicableError(SkippedError):
    """There is nothing to look at.

    Args:
        why: Reason, as a sentence.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"{NOT_APPLICABLE}: {why}")


@dataclass(frozen=True)
class Finding:
    """Outcome of a test, before it is known by the name of its line.

    Args:
        outcome: Outcome of the test.
        words: Observation and, if the solver fails, what to do.
    """

    outcome: Outcome
    words: str


@dataclass(frozen=True, eq=False)
class Sample:
    """A state that the solver advances alone.

    Args:
        state: State, `(1, C, *N)`.
        params: Parameters, `(1, K)` or None.
        answer: The state one step later, `(1, C, *N)`.
    """

    state: Array
    params: Array | None
    answer: Array


class Discrepancy(NamedTuple):
    """Difference between two answers that should be the same.

    Args:
        apart: Largest difference.
        size: Largest value.
        rounding: True if the difference may be rounding alone.
    """

    apart: float
    size: float
    rounding: bool

    @property
    def words(self) -> str:
        """Size of the difference, in words."""
        return f"up to {self.apart:.2g} apart, of values up to {self.size:.2g}" if self.apart else "the same, bit for bit"


def discrepancy(answer: Array, expected: Array) -> Discrepancy:
    """Compare two answers of the same shape."""
    apart = float(np.abs(answer.astype(np.float64) - expected).max(initial=0.0))
    size = float(np.abs(expected).max(initial=0.0))
    return Discrepancy(apart, size, apart <= LAST_DIGITS * float(np.finfo(expected.dtype).eps) * size)


@dataclass(eq=False)
class WorkerComparison:
    """Question to a worker process, and the answer that it should give.

    Args:
        pickled: Solver, pickled.
        sample: State and answer.
        patience: Seconds to wait for a step in a process that knows the solver.
    """

    pickled: bytes
    sample: Sample
    patience: float


@dataclass(eq=False)
class Record:
    """Findings and measurements so far.

    Args:
        seconds_left: Seconds that the rest may take.
        wait: Seconds after which a part hangs, at least.
        solver: Name of the solver, once it is known.
        made_up: True if the sample states are smooth random fields.
        done: Names of the parts that were looked at.
        findings: Findings by line of the contract.
        left_out: Reasons why measurements were left out.
        surveyed: Number of sample states from which steps ended, whatever came of them; None before the first.
        reach: Distance over which a step carries information, in points, if it was measured.
        step_sizes: Step sizes of finite differences, if they were measured.
        times: Times of calls by batch.
        gradients: Costs of gradients, if they were counted.
        comparison: Question to a worker process, if there is one to be asked.
    """

    seconds_left: float
    wait: float
    solver: str = ""
    made_up: bool = False
    done: set[str] = field(default_factory=set)
    findings: dict[str, Finding] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    surveyed: int | None = None
    reach: Reach | None = None
    step_sizes: StepSizes | None = None
    times: tuple[BatchTime, ...] = ()
    gradients: GradientCosts | None = None
    comparison: WorkerComparison | None = None

    def spend(self, seconds: float) -> None:
        """Take seconds off those that are left, down to a share of them, without which nothing could be seen."""
        self.seconds_left = max(self.seconds_left - seconds, LEAST_LEFT * self.seconds_left)

    @property
    def is_well_formed(self) -> bool:
        """True if a step returns arrays of the right shape and dtype, which can be looked at further."""
        return all(name in self.findings and self.findings[name].outcome == "pass" for name in ("shape", "dtype"))
