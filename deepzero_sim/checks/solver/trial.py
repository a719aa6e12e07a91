"""Questions to a solver while its contract is checked: sample states, its answers, and the time that may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from deepzero_sim.checks.solver.record import Sample, SkippedError
from deepzero_sim.checks.solver.results import OUT_OF_TIME
from deepzero_sim.common.types import Array
from deepzero_sim.errors import SolverCrashError, SolverError, StatesFailedError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.stepping import checked_step
from deepzero_sim.solver.validation import check_states

#: Number of samples to ask about, of sample states to advance at most, and share of the time for that.
SAMPLES, MOST, SHARE = 4, 64, 0.2

#: A step hangs after so many seconds, and so many times what it usually takes.
PATIENCE, PATIENCE_STEPS = 10.0, 20


@final
class ShieldedSolver(Solver):
    """Any solver, given copies: one that writes to its input can still be asked for all else."""

    def __init__(self, solver: Solver) -> None:
        self.spec, self.solver = solver.spec, solver

    def step(self, states: Array, params: Array | None = None) -> Array:
        return self.solver.step(states.copy(), None if params is None else params.copy())


@dataclass(frozen=True, eq=False)
class FirstStep:
    """The very first step, as the solver took it.

    Args:
        answer: Object that it returned.
        again: Object that it returned when it was asked once more.
        given: Arrays that it was given, `(1, C, *N)` and `(1, K)` or None, as they are after the step.
    """

    answer: object
    again: object
    given: tuple[Array, Array | None]


@final
class Trial:
    """A solver on trial.

    Args:
        solver: Any solver.
        states: Sample states, `(S, C, *N)`, one or more, in the order in which they are looked at.
        params: Parameters, `(S, K)` or None.
        places: Numbers of these states among all sample states.
        seconds: Seconds that all of it may take, about.

    Attributes:
        samples: States that the solver advances, with their answers; after :meth:`survey` at least two, if that can be.
        looked_at: Number of sample states that were advanced, or failed.
        raised: Failures that the solver raised, by the sample state's number.
        returned: Failures that it returned as numbers, by the sample state's number.
        second_a_step: Seconds that a step of one state takes, about.
    """

    def __init__(self, solver: Solver, states: Array, params: Array | None, places: Sequence[int], seconds: float) -> None:
        self.solver, self.spec, self.shielded = solver, solver.spec, ShieldedSolver(solver)
        self._states, self._params, self._places = states, params, places
        self.samples: list[Sample] = []
        self.looked_at = 0
        self.raised: dict[int, SolverError] = {}
        self.returned: dict[int, SolverError] = {}
        self.second_a_step = 0.0
        self._seconds_a_call: dict[int, float] = {}
        self._end = time.monotonic() + seconds

    def first_step(self) -> FirstStep:
        """Take the first step twice, as it is.

        Raises:
            SolverError: The solver cannot be run.
        """
        given, row = self.row(0)
        answer = call_step(self.solver, given, row)
        started = time.perf_counter()
        again = call_step(self.solver, *self.row(0))
        self.second_a_step = time.perf_counter() - started  # the first one may have built what later ones use
        return FirstStep(answer, again, (given, row))

    def row(self, number: int) -> tuple[Array, Array | None]:
        """Copy a sample state and its parameters, `(1, C, *N)` and `(1, K)` or None."""
        part = slice(number, number + 1)
        return self._states[part].copy(), None if self._params is None else self._params[part].copy()

    def survey(self, at_most: int | None, on_step: Callable[[], None]) -> None:
        """Advance sample states alone, as many as there is time for; a single one is joined by the state that follows it.

        Args:
            at_most: Largest number of steps, if that is limited.
            on_step: Callback after every step.
        """
        least = (1 - SHARE) * self.seconds_left
        for row, place in enumerate(self._places[:at_most]):
            if (self.looked_at >= SAMPLES and self.seconds_left < least) or (self.looked_at and not self.affordable(0.5)):
                break
            self._advance(place, *self.row(row))
            self.looked_at += 1
            on_step()
        if len(self.samples) == 1 and (at_most is None or at_most > self.looked_at) and self.affordable(0.5):
            self._advance(max(self._places) + 1, self.samples[0].answer, self.samples[0].params)
            on_step()

    def _advance(self, place: int, state: Array, params: Array | None) -> None:
        try:
            answer = call_step(self.shielded, state, params)
        except SolverError as error:
            self.raised[place] = error
            return
        try:
            check_states(self.spec, answer, "it", "raise an error in the step instead", batch=1)  # type: ignore[arg-type]
        except SolverError as error:
            self.returned[place] = error
            return
        if len(self.samples) < SAMPLES:
            self.samples.append(Sample(state, params, np.array(answer)))

    def step(self, states: Array, params: Array | None) -> Array:
        """Advance states, `(B, C, *N)`, by one step that must keep the contract.

        Raises:
            SolverError: The solver failed.
        """
        started = time.perf_counter()
        advanced = checked_step(self.shielded, states, params)
        taken = time.perf_counter() - started
        if len(states) == 1:  # machines and solvers are not as fast all the time
            self.second_a_step += (taken - self.second_a_step) / 4
        else:
            self._seconds_a_call[len(states)] = taken
        return advanced

    @property
    def seconds_a_call(self) -> dict[int, float]:
        """Seconds that calls take, about, by their number of states, as far as they are known; the smallest first."""
        return {1: self.second_a_step, **dict(sorted(self._seconds_a_call.items()))}

    def seconds_a_state(self, at_once: int) -> float:
        """Estimate the seconds that a state takes in calls of so many, by the largest known call that is no larger."""
        states, seconds = max(entry for entry in self.seconds_a_call.items() if entry[0] <= at_once)
        return max(seconds / states, 1e-9)

    @property
    def seconds_left(self) -> float:
        """Seconds left for everything; not below zero."""
        return max(self._end - time.monotonic(), 0.0)

    def patience(self, steps: int = 1, least: float = PATIENCE) -> float:
        """Estimate the seconds after which steps hang.

        Args:
            steps: Number of steps in turn.
            least: Seconds to wait however short steps are.
        """
        return least + PATIENCE_STEPS * steps * self.second_a_step

    def affordable(self, share: float, at_once: int = 1) -> int:
        """Count the steps that fit into a share of the time left, so many states in a call."""
        return int(min(share * self.seconds_left / self.seconds_a_state(at_once), 1e9))

    def require_time(self, steps: int, share: float = 0.5, at_once: int = 1) -> None:
        """Go on only if steps fit into a share of the time left, so many states in a call.

        Raises:
            SkippedError: They do not.
        """
        if steps > self.affordable(share, at_once):
            raise SkippedError(
                f"{OUT_OF_TIME}: it takes {steps} steps of {self.seconds_a_state(at_once):.2g} s, more than {share:.0%} of "
                f"the {self.seconds_left:.0f} s left; give more seconds."
            )

    def require_seconds(self, seconds: float) -> None:
        """Go on only if there is so much time left.

        Raises:
            SkippedError: There is not.
        """
        if self.seconds_left < seconds:
            raise SkippedError(
                f"{OUT_OF_TIME}: it may take {seconds:.0f} s, and {self.seconds_left:.0f} s are left; give more seconds."
            )

    def require_deterministic(self) -> None:
        """Go on only if answers can be compared.

        Raises:
            SkippedError: The spec says that they differ.
        """
        if not self.spec.deterministic:
            raise SkippedError("its spec says that it is not deterministic, so that answers cannot be compared.")

    def pair(self) -> tuple[Sample, Sample]:
        """Return two samples.

        Raises:
            SkippedError: There are no two.
        """
        if len(self.samples) < 2:
            raise SkippedError("it takes two states that the solver advances: give more sample states.")
        return self.samples[0], self.samples[1]


def stack(samples: Sequence[Sample]) -> tuple[Array, Array | None]:
    """Put samples into one batch: states, `(B, C, *N)`, and parameters, `(B, K)` or None."""
    rows = [sample.params for sample in samples if sample.params is not None]
    return np.concatenate([sample.state for sample in samples]), np.concatenate(rows) if rows else None


def call_step(solver: Solver, states: Array, params: Array | None) -> object:
    """Call a solver's step and return whatever it returns.

    Raises:
        SolverError: The solver raised an error of any class.
    """
    try:
        return solver.step(states, params)
    except StatesFailedError as error:
        raise error.failures[min(error.failures)] from error
    except SolverError:
        raise
    except (Exception, SystemExit) as error:
        raise SolverCrashError(
            f"solver {solver.spec.name!r} raised {type(error).__name__}: {error}: run its step alone to find out why, or give "
            "other sample states."
        ) from error
