"""Solver steps under a failure policy: a state that fails is tried again if declared so, and no other loses its answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.errors import NonFiniteError, SolverError, SolverTimeoutError, StatesFailedError
from deepzero_sim.solver.contract import DIVERGED, Solver, check_finite, check_form, check_params, raw_step, returned_by
from deepzero_sim.solver.failure_policy import FailureLog, FailurePolicy, Response

#: What comes from outside and may pass; a pause before each retry, twice as long each time, gives it time to.
PASSING = frozenset({"server-error", "connection-lost", "working-folder"})

#: Seconds before the first retry of these, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0


@dataclass
class Advanced:
    """What became of states.

    Args:
        states: `(B, C, *N)`, one step later; anything where a state failed.
        failures: by place in the batch.
        calls: for how many states the solver was called: more than there are, if some were advanced once more.
    """

    states: Array
    failures: dict[int, SolverError] = field(default_factory=dict)
    calls: int = 0

    def put(self, places: Sequence[int], part: Advanced) -> None:
        """Take in what became of some of the states.

        Args:
            places: theirs.
            part: in that order.
        """
        self.calls += part.calls
        self.states[list(places)] = part.states
        for place in self.failures.keys() & set(places):
            del self.failures[place]
        self.failures |= {places[i]: error for i, error in part.failures.items()}


def advance(
    solver: Solver,
    states: Array,
    params: Array | None,
    policy: FailurePolicy,
    log: FailureLog,
    query: Callable[[int], str] = lambda place: "",
) -> Advanced:
    """One step of every state; those that failed, and were tried as often as the policy says, are told by their places.

    Args:
        solver: any.
        states: `(B, C, *N)`; one that is not finite has failed already.
        params: `(B, K)` or None.
        policy: how often a step is taken again.
        log: where that is noted.
        query: what the state of a place belongs to, in words, for the log.

    Raises:
        InvalidStateError: what is given has a wrong shape or dtype.
    """
    what = f"what is given to solver {solver.spec.name!r}"
    check_form(solver.spec, states, what)
    check_params(solver.spec, states, params)
    result = Advanced(np.empty_like(states), _not_finite(states, what, "check what comes before the solver"))
    places = [i for i in range(len(states)) if i not in result.failures]
    usable, tries = len(places), 0
    while places:
        result.put(places, _once(solver, *_rows(states, params, places), policy, log))
        places = [i for i in places if i in result.failures and _may_retry(solver, result.failures[i], policy, tries)]
        for i in places:
            log.note(result.failures[i], "retried", query(i))
        _pause([result.failures[i] for i in places], tries)
        tries += 1
    log.extra_steps += max(0, result.calls - usable)
    return result


def advance_all(
    solver: Solver, states: Array, params: Array | None, policy: FailurePolicy, log: FailureLog, where: str = ""
) -> Array:
    """One step of states that are needed all: `(B, C, *N)`.

    Args:
        solver: any.
        states: `(B, C, *N)`.
        params: `(B, K)` or None.
        policy: how often a step is taken again.
        log: where that is noted.
        where: they come from, in words, for the error.

    Raises:
        SolverError: of the first that failed all the same.
    """
    result = advance(solver, states, params, policy, log, lambda place: where)
    if result.failures:
        raise located(result.failures[min(result.failures)], where)
    return result.states


def located(error: SolverError, where: str) -> SolverError:
    """The same error, which says where it happened too."""
    if where:
        error.where = where
        error.args = (f"{str(error).rstrip('.')} (failure: {error.kind}, {where}).", *error.args[1:])
    return error


def leave_out(error: SolverError, policy: FailurePolicy, log: FailureLog, where: str) -> None:
    """Note that what failed is left out.

    Args:
        error: what happened.
        policy: whether it may be.
        log: where it is noted.
        where: it happened, in words.

    Raises:
        SolverError: it may not: the error itself, which says where too.
    """
    if not policy.response(error).drop:
        raise located(error, where)
    log.note(error, "dropped", where)


def _rows(states: Array, params: Array | None, places: Sequence[int]) -> tuple[Array, Array | None]:
    """Some of the states and their parameters."""
    if len(places) == len(states):  # as it is nearly always
        return states, params
    return states[list(places)], None if params is None else params[list(places)]


def _may_retry(solver: Solver, error: SolverError, policy: FailurePolicy, tries: int) -> bool:
    return tries < policy.retries(error, solver.spec.deterministic)


def _pause(errors: Sequence[SolverError], tries: int) -> None:
    if any(error.kind in PASSING for error in errors):
        time.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**tries))


def _once(solver: Solver, states: Array, params: Array | None, policy: FailurePolicy, log: FailureLog) -> Advanced:
    """One try of every state, as many in a call as the solver takes."""
    largest = solver.spec.max_batch or len(states)
    result = Advanced(np.empty_like(states))
    for first in range(0, len(states), largest):
        places = range(len(states))[first : first + largest]
        result.put(places, _called(solver, *_rows(states, params, places), policy, log))
    return result


def _called(solver: Solver, states: Array, params: Array | None, policy: FailurePolicy, log: FailureLog) -> Advanced:
    """One call; where it fails as a whole, by halves, down to the states that are the reason."""
    count = len(states)
    try:
        return _stepped(solver, states, params)
    except SolverError as error:
        if count == 1 or _in_vain(error, policy):
            return Advanced(states, dict.fromkeys(range(count), error), count)
        whole = error
    result, middle = Advanced(np.empty_like(states), calls=count), count // 2
    for places in (range(middle), range(middle, count)):
        result.put(places, _called(solver, *_rows(states, params, places), policy, log))
        first = min(result.failures, default=count)
        if first < count and _ends_run(result.failures[first], policy):  # the others are not needed any more
            return Advanced(states, dict.fromkeys(range(first, count), result.failures[first]), result.calls)
    if not result.failures and _ends_run(whole, policy):  # no state by itself is the reason
        return Advanced(states, dict.fromkeys(range(count), whole), result.calls)
    if not result.failures:
        log.note(whole, "retried")
    return result


def _stepped(solver: Solver, states: Array, params: Array | None) -> Advanced:
    """One call, its result held to the contract, state by state as far as numbers go.

    Raises:
        SolverError: it failed as a whole.
    """
    failures: dict[int, SolverError] = {}
    try:
        result = raw_step(solver, states, params)
    except StatesFailedError as error:
        result, failures = error.advanced, error.failures
    what = returned_by(solver.spec)
    check_form(solver.spec, result, what, len(states))
    return Advanced(result, {**_not_finite(result, what, DIVERGED), **failures}, len(states))


def _not_finite(states: Array, what: str, remedy: str) -> dict[int, SolverError]:
    """An error for every state that holds NaN or infinity."""
    errors: dict[int, SolverError] = {}
    for i in np.flatnonzero(~np.isfinite(states).all(axis=tuple(range(1, states.ndim)))).tolist():
        try:
            check_finite(states[i : i + 1], what, remedy)
        except NonFiniteError as error:
            errors[i] = error
    return errors


def _ends_run(error: SolverError, policy: FailurePolicy) -> bool:
    return policy.response(error) == Response()


def _in_vain(error: SolverError, policy: FailurePolicy) -> bool:
    """Whether to look for the state that is the reason takes long, and changes nothing."""
    return isinstance(error, SolverTimeoutError) and _ends_run(error, policy)
