"""Results of a solver check: a verdict on every line of the contract, and what training through the solver will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from deepzero_sim.checks.gradient.sweep import Sweep

#: `fail` breaks the contract, `info` is worth knowing and breaks nothing, `skipped` could not be tested.
Outcome: TypeAlias = Literal["pass", "fail", "info", "skipped"]

#: First words on what there was no time for, and on what there is nothing to look at for.
OUT_OF_TIME, NOT_APPLICABLE = "left out for time", "does not apply"

#: Least speed of the recommended batch, as a share of the fastest one's.
AS_GOOD = 0.9


@dataclass(frozen=True)
class Verdict:
    """Verdict on a line of the contract.

    Args:
        line: Name of the line.
        outcome: Outcome of the test.
        words: Observation and, if the solver fails, what to do.
    """

    line: str
    outcome: Outcome
    words: str


@dataclass(frozen=True)
class BatchTime:
    """Time of a call.

    Args:
        batch: Number of states in the call.
        seconds: Seconds of a call, the median.
    """

    batch: int
    seconds: float

    @property
    def states_per_second(self) -> float:
        """States advanced in a second."""
        return self.batch / self.seconds


def at_states(looked_at: int, given: int) -> str:
    """Say at how many of the sample states something was looked at."""
    if given == 1:
        return "at the only sample state"
    return f"at all {given} sample states" if looked_at == given else f"at {looked_at} of {given} sample states"


def best_batch(times: Sequence[BatchTime]) -> int:
    """Pick the smallest batch that is about as fast a state as the fastest."""
    best = max(entry.states_per_second for entry in times)
    return next(entry.batch for entry in times if entry.states_per_second >= AS_GOOD * best)


def seconds_of(steps: float, at_once: int, times: Sequence[BatchTime]) -> float:
    """Estimate the seconds of solver steps, so many states in a call, from the largest measured batch that is no larger."""
    fitting = [entry for entry in times if entry.batch <= at_once] or times[:1]
    return steps / fitting[-1].states_per_second


@dataclass(frozen=True)
class StepSizes:
    """Central differences of a step over their step size `mu`.

    Args:
        sweep: Slopes of a random projection of the step along random directions, the worst of all sample states; step sizes in
            units of the state's size.
        sizes: Root mean square of each channel at the first sample state.
        orders: Order of `|P(s + mu v) - 2 P(s) + P(s - mu v)| / |P(s + mu v) - P(s - mu v)|` in `mu` at each sample state:
            about 1 if the step is smooth, 1/2 if it has kinks, less than 0 if it jumps; None if it is linear to rounding.
        given: Number of sample states that there are.
    """

    sweep: Sweep
    sizes: tuple[float, ...]
    orders: tuple[float | None, ...]
    given: int

    @property
    def order(self) -> float | None:
        """Least order at any sample state; None if the step is linear at all of them."""
        return min((order for order in self.orders if order is not None), default=None)

    @property
    def where(self) -> str:
        """Sample states that were looked at, and those of them that the smoothness is of, in words."""
        at = at_states(len(self.orders), self.given)
        linear = self.orders.count(None)
        if not linear or self.order is None:
            return at
        return f"{at}; at {linear} of them it is linear, to rounding"

    @property
    def recommended(self) -> float:
        """Step size `mu`, in units of a channel's size."""
        return self.sweep.best

    @property
    def absolute(self) -> tuple[float, ...]:
        """Step size `mu`, in every channel's own unit, at the first sample state."""
        return tuple(self.sweep.best * size for size in self.sizes)

    @property
    def smoothness(self) -> str:
        """Smoothness of the step, in words."""
        if self.order is None:
            return "linear, to rounding"
        if self.order > 0.75:
            return "smooth"
        return "not smooth: it has kinks (limiters, absolute values)" if self.order > 0.1 else "not even continuous: it jumps"

    @property
    def words(self) -> str:
        """Paragraph for people."""
        sweep, absolute = self.sweep, ", ".join(f"{step:.2g}" for step in self.absolute)
        least, most = sweep.plateau
        bend = "" if self.order is None else f" (it bends by a share of its change that grows as mu^{self.order:.2f})"
        return (
            f"The step size {self.recommended:g} is mu, a share of each channel's size: a state changes by {absolute}, in its "
            "own units. Central differences hold still for mu from "
            f"{least:g} to {most:g}; they are known there to {sweep.noise_floor:.0e} of themselves. Longer steps measure "
            f"curvature, shorter ones rounding: the step has noise of {sweep.rounding:.0e} of its size. It is "
            f"{self.smoothness}{bend}, {self.where}. (ZO-SOL's estimator.args.step_size is another: of the network's "
            "parameters.)"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        derived = {
            "recommended": self.recommended,
            "absolute": self.absolute,
            "order": self.order,
            "smoothness": self.smoothness,
        }
        return derived | asdict(self)


@dataclass(frozen=True)
class GradientCost:
    """Cost of one gradient by a method.

    Args:
        steps: States advanced by one step for every gradient.
        once: States advanced once, before all gradients, at most.
        seconds: Seconds that the steps take, in one process; None if that was not measured.
        seconds_once: Seconds that the steps before all gradients take, likewise.
    """

    steps: int
    once: int
    seconds: float | None
    seconds_once: float | None


@dataclass(frozen=True)
class GradientCosts:
    """Costs of gradients in a training of some setting.

    Args:
        parameters: Number of the network's parameters.
        unroll: Solver steps of a rollout.
        batch_size: Rollouts of a gradient.
        methods: Cost by name of the method.
        left_out: Methods that do not suit the solver, and why.
    """

    parameters: int
    unroll: int
    batch_size: int
    methods: dict[str, GradientCost]
    left_out: dict[str, str]


@dataclass(frozen=True, eq=False)
class SolverCheck:
    """Result of a check.

    Args:
        solver: Name of the solver.
        made_up: True if the sample states are smooth random fields, for want of better.
        verdicts: Verdicts, line by line.
        step_sizes: Step sizes of finite differences; None if that was left out.
        times: Times of calls by batch; empty if that was left out.
        gradients: Costs of gradients; None if that was left out.
        left_out: Reasons why measurements were left out.
        seconds: Seconds that the check took.
        printed: Number of bytes that the solver printed, which are not shown.
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
        """True if no line fails."""
        return all(verdict.outcome != "fail" for verdict in self.verdicts)

    def __getitem__(self, line: str) -> Verdict:
        """Return the verdict on a line."""
        return next(verdict for verdict in self.verdicts if verdict.line == line)

    @property
    def out_of_time(self) -> list[str]:
        """Names of lines and measurements that there was no time for."""
        lines = [verdict.line for verdict in self.verdicts if verdict.words.startswith(OUT_OF_TIME)]
        return lines + [name for name, why in self.left_out.items() if why.startswith(OUT_OF_TIME)]

    @property
    def recommended_batch(self) -> int | None:
        """States in a call; None if calls were not timed."""
        return best_batch(self.times) if self.times else None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "solver": self.solver,
            "holds": self.holds,
            "made_up": self.made_up,
            "seconds": self.seconds,
            "verdicts": {v.line: {"outcome": v.outcome, "words": v.words} for v in self.verdicts},
            "step_sizes": None if self.step_sizes is None else self.step_sizes.as_dict(),
            "times": [asdict(entry) for entry in self.times],
            "recommended_batch": self.recommended_batch,
            "gradients": None if self.gradients is None else asdict(self.gradients),
            "left_out": self.left_out,
        }


class CheckInterruptedError(KeyboardInterrupt):
    """A check was interrupted.

    Args:
        found: Result of the check up to then.
    """

    def __init__(self, found: SolverCheck) -> None:
        super().__init__("the check was interrupted")
        self.found = found
