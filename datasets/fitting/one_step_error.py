"""Error of one step of the coarse solver from the frames of the data, over time: all that there is to correct.

A training is worth little where that is nothing, or where it lies in a transient at the beginning that nobody asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.types import Array
from deepzero_sim.datasets.frames import select
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import SolverError
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import Account, FailurePolicy, account_of
from deepzero_sim.solver.stepping import step_with_policy

#: Simulations, and frames of each, that a step is taken from where not all of them are known: a check, or frames on disk.
SIMULATIONS, FRAMES = 4, 8

#: Most states that are advanced where only some frames are looked at.
COMPARED = SIMULATIONS * FRAMES

#: Share of what a step changes below which its error is nearly nothing.
NEARLY_NOTHING = 1e-3

#: Factors over the median error of the second half, by which the first error exceeds it in a transient, and by which the errors
#: of all frames of the transient do.
TRANSIENT, STILL_TRANSIENT = 5.0, 3.0

#: Share of all frames that are the first ones, least share of the summed error in them that is a transient even if it never
#: ends, as where errors decay exponentially, and factor by which they have decayed once it may be left out.
FIRST, MOST_OF_IT, DECAYED = 0.1, 0.5, 10.0

#: Times that it takes to tell a transient.
FEWEST_TIMES = 8


@dataclass(frozen=True, eq=False)
class OneStepError:
    """Error of one step of a solver alone, and what the data change in that step, over time.

    Both are mean absolute differences over simulations, channels and active points, in each channel's standard deviations.

    Args:
        times: Numbers of the frames that steps begin at, ascending, `(n,)`.
        errors: Error of the step from each, `(n,)`.
        changes: Change to the next frame, `(n,)`.
    """

    times: NDArray[np.intp]
    errors: NDArray[np.float64]
    changes: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Mean error."""
        return float(self.errors.mean())

    @property
    def change(self) -> float:
        """Mean change."""
        return float(self.changes.mean())

    @property
    def is_nearly_nothing(self) -> bool:
        """True if there is nearly nothing to correct."""
        return self.error <= NEARLY_NOTHING * self.change

    @property
    def transient(self) -> int:
        """Number of frames at the beginning whose errors are far above the later ones; 0 if there is no such transient."""
        return (self._frames_until_it_ends or self._frames_until_it_decays) if len(self.times) >= FEWEST_TIMES else 0

    @property
    def _later(self) -> float:
        """Median error of the second half."""
        return float(np.median(self.errors[len(self.errors) // 2 :]))

    @property
    def _frames_until_it_ends(self) -> int:
        """Number of frames of a transient that ends within a third of all; 0 if there is none."""
        above = self.errors > STILL_TRANSIENT * self._later
        length = int(above.argmin()) if not above.all() else 0
        ends_soon = 0 < length <= len(self.times) // 3
        return int(self.times[length]) if ends_soon and self.errors[0] > TRANSIENT * self._later else 0

    @property
    def _first(self) -> int:
        """Number of times that are the first tenth."""
        return math.ceil(FIRST * len(self.times))

    @property
    def _share_of_first(self) -> float:
        """Share of the summed error that lies in the first tenth of times."""
        return float(self.errors[: self._first].sum() / self.errors.sum())

    @property
    def _frames_until_it_decays(self) -> int:
        """Number of frames until the error is a tenth, if most of it lies in the first frames; 0 if it does not."""
        first, second_half = self.errors[: self._first], self.errors[len(self.errors) // 2 :]
        if not first.any() or self._share_of_first < MOST_OF_IT or first.min() <= second_half.max():
            return 0
        low = np.flatnonzero(DECAYED * self.errors[self._first :] <= first.max())
        return int(self.times[self._first + (int(low[0]) if len(low) else 0)])

    def notes(self) -> list[str]:
        """Write one or two short sentences on what there is to correct; none where that is nearly nothing."""
        if self.is_nearly_nothing:
            return []
        more = self.error > self.change > 0
        doubt = ", more than it changes: check parameters, units and the solver's dt, unless that is meant" if more else ""
        share = f", {_share(self.error / self.change)} of what a step changes" if self.change > 0 and not more else ""
        said = (
            f"one step of the solver alone misses the next frame by {self.error:.2g} standard deviations (mean absolute error)"
            f"{share}{doubt}."
        )
        return [said, *self._transient_note()]

    def _transient_note(self) -> list[str]:
        if not self.transient:
            return []
        later, frames = self._later, self.transient
        times = f"{self.errors[0] / later:.0f} times" if later > 0 else "far above"
        said = f"the error of the first {frames} frames is up to {times} that of the second half ({later:.2g})"
        if not self._frames_until_it_ends:
            said = (
                f"the first tenth of the frames has {self._share_of_first:.0%} of the summed error, which falls from "
                f"{self.errors[0]:.2g} to {later:.2g} in the second half"
            )
        return [
            f"{said}: if the first {frames} frames are a transient that nobody needs, leave them out (generate: {frames} more "
            "for discard)."
        ]

    def warning(self, name: str) -> str | None:
        """Say that there is nearly nothing to correct; None if there is something.

        Args:
            name: Name of the solver.
        """
        if not self.is_nearly_nothing:
            return None
        return (
            f"there is nearly nothing to correct: one step of solver {name!r} misses the next frame by {self.error:.1g} "
            f"standard deviations (mean absolute error), and a step changes {self.change:.2g}: take a coarser solver, or data "
            "of a finer reference."
        )


def _share(ratio: float) -> str:
    return f"{ratio:.0%}" if ratio >= 0.1 else f"{ratio:.1%}" if ratio >= 1e-3 else "less than 0.1%"


def of_first_steps(data: Trajectories, first_steps: Array) -> OneStepError | None:
    """Find the error of one step where the steps are known; None where nearly none is.

    Args:
        data: Reference frames, in memory.
        first_steps: States after one step from every frame but the last, `(S, T-1, C, *N)`; NaN where it failed.
    """
    times = np.arange(data.frames.shape[1] - 1)
    return _compare(times, data.frames[:, :-1], data.frames[:, 1:], first_steps, data.mask)


def of_some_frames(solver: Solver, data: Trajectories, policy: FailurePolicy) -> tuple[OneStepError | None, Account]:
    """Find the error of one step from some frames of the data, spread over simulations and times, and what that took.

    Args:
        solver: Coarse solver.
        data: Reference frames.
        policy: Policy for steps that fail: they leave the question open.
    """
    simulations, frames = data.frames.shape[:2]
    chosen = np.unique(np.linspace(0, simulations - 1, min(SIMULATIONS, simulations)).astype(np.intp))
    times = np.unique(np.linspace(0, frames - 2, min(FRAMES, frames - 1)).astype(np.intp))
    there = select(data.frames, chosen.tolist())
    pairs = np.stack([there[:, time : time + 2] for time in times], axis=1)  # (S, n, 2, C, *N)
    states = pairs[:, :, 0].reshape(-1, *pairs.shape[3:])
    params = np.repeat(data.params[chosen], len(times), axis=0) if data.params.shape[1] else None
    try:
        with single_threaded():
            result = step_with_policy(solver, states, params, policy)
    except SolverError as error:  # whoever takes the step in earnest says it
        return None, account_of(error)
    steps = result.states.reshape(pairs[:, :, 0].shape)
    for place in result.failures:
        steps[np.unravel_index(place, steps.shape[:2])] = np.nan
    return _compare(times, pairs[:, :, 0], pairs[:, :, 1], steps, data.mask), result.account


def _compare(times: NDArray[np.intp], begins: Array, ends: Array, steps: Array, mask: NDArray[np.bool_]) -> OneStepError | None:
    """Compare states `(S, n, C, *N)` with those one step later, by the data and by the solver."""
    errors, changes = np.zeros(len(times)), np.zeros(len(times))
    known = np.asarray(np.isfinite(steps).all(axis=tuple(range(2, steps.ndim))))  # (S, n)
    varied = 0
    for channel, active in enumerate(mask):
        deviation = ends[:, :, channel, active].std(dtype=np.float64) if active.any() else 0.0
        if deviation > 0:
            varied += 1
            errors += _mean_difference(steps, ends, channel, active, known) / deviation
            changes += _mean_difference(begins, ends, channel, active, known) / deviation
    there = known.any(axis=0)
    if not varied or not there.any():
        return None
    return OneStepError(times[there], errors[there] / varied, changes[there] / varied)


def _mean_difference(
    ours: Array, theirs: Array, channel: int, active: NDArray[np.bool_], known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Compute the mean absolute difference in a channel at each time, over simulations whose step is known, `(n,)`."""
    total = np.zeros(known.shape[1])
    for one, other, there in zip(ours, theirs, known, strict=True):  # a simulation at a time: few numbers more in memory
        difference = np.subtract(one[:, channel, active], other[:, channel, active], dtype=np.float64)
        total += np.where(there, np.abs(difference).mean(axis=1), 0.0)
    mean: NDArray[np.float64] = total / np.maximum(1, known.sum(axis=0))
    return mean
