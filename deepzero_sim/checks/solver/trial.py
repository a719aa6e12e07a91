"""What a solver is asked while its contract is checked: sample states, what it answers, and the time that may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from deepzero_sim.checks.solver.verdict import NotTestedError
from deepzero_sim.common.types import Array
from deepzero_sim.errors import SolverCrashError, SolverError, StatesFailedError
from deepzero_sim.solver.contract import Solver, check_states, checked_step

#: Sample states that are asked about, and that are advanced at most, in so much of the time.
SAMPLES, MOST, SHARE = 4, 64, 0.2


@final
class Shielded(Solver):
    """Any solver, given copies: one that writes to its input can still be asked for all else."""

    def __init__(self, solver: Solver) -> None:
        self.spec, self.solver = solver.spec, solver

    def step(self, states: Array, params: Array | None = None) -> Array:
        return self.solver.step(states.copy(), None if params is None else params.copy())


@dataclass(frozen=True, eq=False)
class Sample:
    """A state that the solver advances alone.

    Args:
        state: `(1, C, *N)`.
        params: `(1, K)` or None.
        answer: `(1, C, *N)`.
    """

    state: Array
    params: Array | None
    answer: Array


@dataclass(frozen=True, eq=False)
class FirstStep:
    """The very first step, as the solver took it.

    Args:
        answer: whatever it returned.
        again: whatever it returned when it was asked once more.
        given: what it was given, `(1, C, *N)` and `(1, K)` or None, as that is now.
    """

    answer: object
    again: object
    given: tuple[Array, Array | None]


def chosen(count: int) -> list[int]:
    """Places of the sample states that are looked at, spread over all that there are, a few of them first.

    Args:
        count: of states, one or more.
    """
    few, many = (np.linspace(0, count - 1, size, dtype=int).tolist() for size in (SAMPLES, MOST))
    return list(dict.fromkeys([*few, *many]))


@final
class Trial:
    """A solver on trial.

    Args:
        solver: any.
        states: `(S, C, *N)`, one or more, in the order in which they are looked at.
        params: `(S, K)` or None.
        places: of the states among all sample states.
        seconds: that all of it may take, about.

    Attributes:
        samples: states that the solver advances, with their answers; after :meth:`survey` two at least, if that can be.
        looked_at: how many of the sample states were advanced, or failed.
        raised: failures that the solver raised, by the sample state's place.
        returned: failures that it returned as numbers, likewise.
        second_a_step: seconds that a step takes, about.
    """

    def __init__(self, solver: Solver, states: Array, params: Array | None, places: Sequence[int], seconds: float) -> None:
        self.solver, self.spec, self.shielded = solver, solver.spec, Shielded(solver)
        self._states, self._params, self._places = states, params, places
        self.samples: list[Sample] = []
        self.looked_at = 0
        self.raised: dict[int, SolverError] = {}
        self.returned: dict[int, SolverError] = {}
        self.second_a_step = 0.0
        self._end = time.monotonic() + seconds

    def first_step(self) -> FirstStep:
        """Take the first step twice, unguarded.

        Raises:
            SolverError: the solver cannot be run.
        """
        given, row = self.row(0)
        answer = unguarded(self.solver, given, row)
        started = time.perf_counter()
        again = unguarded(self.solver, *self.row(0))
        self.second_a_step = time.perf_counter() - started  # the first one may have built what later ones use
        return FirstStep(answer, again, (given, row))

    def row(self, number: int) -> tuple[Array, Array | None]:
        """Copies of a sample state and its parameters, `(1, C, *N)` and `(1, K)` or None."""
        part = slice(number, number + 1)
        return self._states[part].copy(), None if self._params is None else self._params[part].copy()

    def survey(self, at_most: int | None, ended: Callable[[], None]) -> None:
        """Advance sample states alone, as many as there is time for; a single one is joined by the state that follows it.

        Args:
            at_most: how many steps, if that is limited.
            ended: is called when a step has ended.
        """
        least = (1 - SHARE) * self.seconds_left
        for row, place in enumerate(self._places[:at_most]):
            if self.looked_at >= SAMPLES and self.seconds_left < least:
                break
            self._advance(place, *self.row(row))
            self.looked_at += 1
            ended()
        if len(self.samples) == 1 and (at_most is None or at_most > self.looked_at):
            self._advance(max(self._places) + 1, self.samples[0].answer, self.samples[0].params)
            ended()

    def _advance(self, place: int, state: Array, params: Array | None) -> None:
        try:
            answer = unguarded(self.shielded, state, params)
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
        """`(B, C, *N)` one step later, held to the contract.

        Raises:
            SolverError: the solver failed.
        """
        started = time.perf_counter()
        advanced = checked_step(self.shielded, states, params)
        if len(states) == 1:  # machines and solvers are not as fast all the time
            self.second_a_step += (time.perf_counter() - started - self.second_a_step) / 4
        return advanced

    @property
    def seconds_left(self) -> float:
        """Of all; not below zero."""
        return max(self._end - time.monotonic(), 0.0)

    def affordable(self, share: float) -> int:
        """Steps that fit into a share of the time left."""
        return int(min(share * self.seconds_left / max(self.second_a_step, 1e-9), 1e9))

    def require_time(self, steps: int, share: float = 0.5) -> None:
        """Go on only if steps fit into a share of the time left.

        Raises:
            NotTestedError: they do not.
        """
        if steps > self.affordable(share):
            raise NotTestedError(
                f"left out for time: it takes {steps} steps of {self.second_a_step:.2g} s, more than {share:.0%} of the "
                f"{self.seconds_left:.0f} s left; give more seconds."
            )

    def require_seconds(self, seconds: float) -> None:
        """Go on only if there is so much time left.

        Raises:
            NotTestedError: there is not.
        """
        if self.seconds_left < seconds:
            raise NotTestedError(
                f"left out for time: it may take {seconds:.0f} s, and {self.seconds_left:.0f} s are left; give more seconds."
            )

    def require_deterministic(self) -> None:
        """Go on only if answers can be compared.

        Raises:
            NotTestedError: the spec says that they differ.
        """
        if not self.spec.deterministic:
            raise NotTestedError("its spec says that it is not deterministic, so that answers cannot be compared.")

    def pair(self) -> tuple[Sample, Sample]:
        """Two samples.

        Raises:
            NotTestedError: there are no two.
        """
        if len(self.samples) < 2:
            raise NotTestedError("it takes two states that the solver advances: give more sample states.")
        return self.samples[0], self.samples[1]


def together(samples: Sequence[Sample]) -> tuple[Array, Array | None]:
    """Their states in one batch, `(B, C, *N)`, and their parameters, `(B, K)` or None."""
    rows = [sample.params for sample in samples if sample.params is not None]
    return np.concatenate([sample.state for sample in samples]), np.concatenate(rows) if rows else None


def unguarded(solver: Solver, states: Array, params: Array | None) -> object:
    """Whatever a step returns.

    Raises:
        SolverError: it failed.
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
