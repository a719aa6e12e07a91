"""Simulations that one call of the reference solver advances together.

How many there are depends on nothing but settings and solvers: neither workers nor what is finished already change a bit, even
where a solver rounds the states of a batch in another way than single ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.datasets import frames
from deepzero_sim.datasets.generation.ensembles import Member, initial_state
from deepzero_sim.datasets.generation.simulations import Simulations
from deepzero_sim.errors import DeepZeroError, SolverError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import NOTHING, Account, FailurePolicy, account_of, with_place
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepping import step_with_policy

#: Simulations of a batch where nobody says how many: few enough for every worker to have some, and for a kill to cost little.
TOGETHER = 4

#: Numbers in the states of a batch, at most, unless it is one state: of more, the cost of a call no longer counts.
MOST_NUMBERS = 2**16


def batches(
    members: Sequence[Member], simulations: Simulations, reference: SolverSpec, source: SolverSpec
) -> list[Sequence[Member]]:
    """Part simulations into batches of nearly equal size, whose frames fit into memory together.

    Args:
        members: All simulations.
        simulations: Settings of all of them.
        reference: Spec of the reference solver.
        source: Spec of the source solver.
    """
    one = simulations.frames * math.prod(source.state_shape) * np.dtype(source.dtype).itemsize
    by_size = TOGETHER if simulations.batch_size is None else simulations.batch_size
    by_numbers = MOST_NUMBERS // math.prod(reference.state_shape) if simulations.batch_size is None else by_size
    largest = max(1, min(by_size, by_numbers, reference.max_batch or by_size, frames.IN_MEMORY // one))
    count = math.ceil(len(members) / largest)
    return [members[len(members) * i // count : len(members) * (i + 1) // count] for i in range(count)]


class _Attempt(NamedTuple):
    """Outcome of a step: states one step later, failures by place, and what it took."""

    states: Array
    failures: Mapping[int, DeepZeroError]
    account: Account


class Batch:
    """States of simulations that are stepped in one call, whatever becomes of single ones.

    A simulation that fails leaves its place to a copy of another one. So the states of all others come out of calls of the same
    size, at the same place in it, and are those that they would be without the failure.

    Args:
        solver: Reference solver.
        members: Simulations.
        initial: Name of the function of initial states.
        policy: Response to a step that fails.

    Attributes:
        states: States `(B, C, *N)`.
        failures: Error of each simulation that failed, by its place.
    """

    def __init__(self, solver: Solver, members: Sequence[Member], initial: str, policy: FailurePolicy) -> None:
        self._solver, self._members, self._policy = solver, members, policy
        self.failures: dict[int, DeepZeroError] = {}
        starts = {}
        for place, member in enumerate(members):
            try:
                starts[place] = initial_state(initial, solver.spec, member)
            except DeepZeroError as error:
                self.failures[place] = error
        if not starts:
            return
        rows = [starts.get(place, starts[min(starts)]) for place in range(len(members))]
        self.states, params = (np.concatenate(arrays) for arrays in zip(*rows, strict=True))
        self._params = params if params.shape[1] else None

    @property
    def is_over(self) -> bool:
        """True if all simulations failed."""
        return len(self.failures) == len(self._members)

    def step(self, number: int) -> Account:
        """Take a step of all simulations that have not failed; returns its cost.

        Args:
            number: Number of the step, for messages.
        """
        where, account = f"step {number}", NOTHING
        while not self.is_over:
            self._fill()
            result = self._attempt(range(len(self._members)), where)
            account += result.account
            failures = {place: error for place, error in result.failures.items() if place not in self.failures}
            if not failures:
                self.states = result.states
                return account
            account += self._blame(failures, where)
        return account

    def restrict(self, restrict: Callable[[Array], Array], spec: SolverSpec) -> Array:
        """Restrict the states of each simulation, `(B, C, *N)` of the source; anything where one failed.

        Args:
            restrict: Restriction of states.
            spec: Spec of the source solver.
        """
        restricted = np.zeros((len(self._members), *spec.state_shape), dtype=spec.dtype)
        for place in range(len(self._members)):
            try:
                restricted[place] = 0 if place in self.failures else restrict(self.states[place : place + 1])[0]
            except DeepZeroError as error:
                self.failures[place] = error
        return restricted

    def _fill(self) -> None:
        """Put a copy of a simulation that goes on in the place of each that failed."""
        if not self.failures:
            return
        first = next(place for place in range(len(self._members)) if place not in self.failures)
        places = list(self.failures)
        self.states[places] = self.states[first]
        if self._params is not None:
            self._params[places] = self._params[first]

    def _attempt(self, places: Sequence[int], where: str) -> _Attempt:
        """Step the states of some places; an error that says nothing of single states is the failure of each."""
        rows = list(places)
        states, params = self.states[rows], None if self._params is None else self._params[rows]

        def describe(row: int) -> str:
            return f"{where}, simulation {self._members[rows[row]].number}"

        try:
            result = step_with_policy(self._solver, states, params, self._policy, describe)
        except DeepZeroError as error:
            account = account_of(error) if isinstance(error, SolverError) else NOTHING
            return _Attempt(states, dict.fromkeys(range(len(rows)), error), account)
        return _Attempt(result.states, result.failures, result.account)

    def _blame(self, failures: Mapping[int, DeepZeroError], where: str) -> Account:
        """Find out which simulation failed first. Where the call failed as a whole, each is stepped alone until one fails."""
        first, account = min(failures), NOTHING
        suspects = [place for place in sorted(failures) if failures[place] is failures[first]]
        if len(suspects) == 1:
            self.failures[first] = _place(failures[first], where)
            return account
        for place in suspects:
            alone = self._attempt([place], where)
            account += alone.account
            if alone.failures:
                self.failures[place] = _place(alone.failures[0], where)
                return account
        self.failures |= dict.fromkeys(suspects, _place(failures[first], where))
        return account


def _place(error: DeepZeroError, where: str) -> DeepZeroError:
    return with_place(error, where) if isinstance(error, SolverError) else error
