"""What is found of a solver so far: a child process sends it home before every part, and another one goes on from there."""

from __future__ import annotations

from dataclasses import dataclass, field

from deepzero_sim.checks.solver.gradient_costs import GradientCosts
from deepzero_sim.checks.solver.step_sizes import StepSizes
from deepzero_sim.checks.solver.timing import BatchTime
from deepzero_sim.checks.solver.trial import Sample
from deepzero_sim.checks.solver.verdict import Finding


@dataclass(eq=False)
class Comparison:
    """What a worker process is to answer.

    Args:
        pickled: the solver.
        sample: a state and its answer.
        patience: seconds that a step from it is waited for in a process that knows the solver.
    """

    pickled: bytes
    sample: Sample
    patience: float


@dataclass(eq=False)
class Record:
    """Findings and measurements.

    Args:
        seconds_left: of the time that all of it may take.
        wait: seconds after which a part hangs, at least.
        solver: its name, once it is known.
        made_up: whether the sample states are.
        done: parts that were looked at.
        findings: by line of the contract.
        left_out: measurements, and why.
        surveyed: sample states from which steps ended, whatever came of them; None before the first.
        reach: of a step in points, if it was measured.
        step_sizes: of finite differences, if they were measured.
        times: of calls by batch.
        gradients: what they will cost, if that was found.
        comparison: for a worker process, if there is one to be made.
    """

    seconds_left: float
    wait: float
    solver: str = ""
    made_up: bool = False
    done: set[str] = field(default_factory=set)
    findings: dict[str, Finding] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    surveyed: int | None = None
    reach: int | None = None
    step_sizes: StepSizes | None = None
    times: tuple[BatchTime, ...] = ()
    gradients: GradientCosts | None = None
    comparison: Comparison | None = None

    @property
    def is_formed(self) -> bool:
        """Whether what a step returns can be looked at further."""
        return all(name in self.findings and self.findings[name].outcome == "holds" for name in ("shape", "dtype"))
