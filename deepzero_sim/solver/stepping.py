"""Solver steps: one call held to the contract, and steps under a failure policy.

Whoever wants a step of a solver gets it here: as numbers or an error (:func:`checked_step`), with failures of single states
found, retried and returned (:func:`step_with_policy`), or recorded by torch (:func:`differentiable_step`).
"""

from __future__ import annotations

import itertools
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deepzero_sim.common.cancellation import cancellation
from deepzero_sim.common.types import Array, read_only_copy
from deepzero_sim.errors import (
    DeepZeroError,
    InvalidStateError,
    NonFiniteError,
    SolverCrashError,
    SolverError,
    SolverTimeoutError,
    StatesFailedError,
)
from deepzero_sim.solver.contract import DifferentiableSolver, Solver
from deepzero_sim.solver.failure_policy import Account, FailurePolicy, Incident, Response, incident, with_account, with_place
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.validation import argument_name, check_finite, check_form, check_params, check_states

#: Kinds of failure that come from outside and may pass; a pause before each retry, twice as long each time, gives them time.
PASSING = frozenset({"server-error", "connection-lost", "working-folder"})

#: Seconds before the first retry of these, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0

#: Methods of tensors that convert to a type.
CASTS = {"float32": "float", "float64": "double"}

#: Remedy for a result that is not finite.
DIVERGED = "it diverged or fails on such a state: use a smaller step, a smaller correction or another initial state"


@dataclass(frozen=True, eq=False)
class StepResult:
    """Outcome of a step of every state.

    Args:
        states: States one step later, `(B, C, *N)`; anything where a state failed.
        failures: Failures by place in the batch.
        steps: Number of states that the solver was called for: more than there are, if some were advanced again.
        incidents: Retries on the way.
    """

    states: Array
    failures: Mapping[int, SolverError]
    steps: int
    incidents: tuple[Incident, ...] = ()

    @property
    def account(self) -> Account:
        """Cost of the step."""
        return Account(self.steps, self.incidents)


def checked_step(solver: Solver, states: Array, params: Array | None = None) -> Array:
    """Take one step of any solver, held to the contract on both sides.

    Args:
        solver: Any solver.
        states: States `(B, C, *N)`.
        params: Scenario parameters `(B, K)` or None.

    Returns:
        States one step later, `(B, C, *N)`, in memory of their own.

    Raises:
        InvalidStateError: A shape or type is wrong, on the way in or out.
        NonFiniteError: A number is NaN or infinite, on the way in or out.
        SolverCrashError: The solver raised an exception of its own.
        ConfigError: The solver found one of its settings not usable.
    """
    check_states(solver.spec, states, argument_name(solver.spec), "check what comes before the solver")
    check_params(solver.spec, states, params)
    advanced = np.empty(states.shape, states.dtype)  # ours: the solver may return a view, or the same memory every time
    for part in _calls(solver.spec, range(len(states))):
        result, failures = _call(solver, *_rows(states, params, part))
        for place in sorted(failures):
            raise failures[place]
        check_finite(result, _result_name(solver.spec), DIVERGED)
        advanced[list(part)] = result
    return advanced


def differentiable_step(solver: DifferentiableSolver, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
    """Take one differentiable step from copies: what the solver writes into them changes nothing of its caller's.

    Args:
        solver: Any differentiable solver.
        states: States `(B, C, *N)`.
        params: Scenario parameters `(B, K)` or None.

    Returns:
        States one step later, `(B, C, *N)`, recorded by autograd back to `states`.

    Raises:
        InvalidStateError: The solver returned something else.
        SolverCrashError: The solver raised an exception of its own.
    """
    what = f"the differentiable step of solver {solver.spec.name!r}"
    with _crashes(what, lambda error: f"run it alone to find out why, on tensors of shape {tuple(states.shape)}"):
        advanced = solver.differentiable_step(states.clone(), None if params is None else params.clone())
    if not isinstance(advanced, torch.Tensor):
        raise InvalidStateError(f"{what} must return a tensor, not {type(advanced).__name__}: leave numpy out of it.")
    if params is not None and params.dtype == advanced.dtype != states.dtype:
        raise InvalidStateError(_parameters_to_convert(solver.spec, str(params.dtype).removeprefix("torch.")))
    if (advanced.shape, advanced.dtype) != (states.shape, states.dtype):
        raise InvalidStateError(
            f"{what} must return {states.dtype} of shape {tuple(states.shape)}, as it was given, not {advanced.dtype} of shape "
            f"{tuple(advanced.shape)}: convert it."
        )
    return advanced


def step_with_policy(
    solver: Solver,
    states: Array,
    params: Array | None,
    policy: FailurePolicy,
    describe: Callable[[int], str] = lambda place: "",
) -> StepResult:
    """Take one step of every state; those that failed are retried as often as the policy says, then returned as failures.

    Args:
        solver: Any solver.
        states: States `(B, C, *N)`; one that is not finite has failed already.
        params: Scenario parameters `(B, K)` or None.
        policy: Policy that says how often a step is taken again.
        describe: Function that says in words what the state of a place belongs to, for incidents.

    Raises:
        InvalidStateError: The arguments have a wrong shape or type.
    """
    what = argument_name(solver.spec)
    check_form(solver.spec, states, what)
    check_params(solver.spec, states, params)
    advanced, steps, incidents = np.empty_like(states), 0, list[Incident]()
    failures = _non_finite_states(states, what, "check what comes before the solver")
    left = [place for place in range(len(states)) if place not in failures]
    for tries in itertools.count():
        for places in _calls(solver.spec, left):
            part = _bisect(solver, *_rows(states, params, places), policy)
            advanced[list(places)] = part.states
            failures = {place: error for place, error in failures.items() if place not in places}
            failures |= {places[i]: error for i, error in part.failures.items()}
            steps += part.steps
            incidents += part.incidents
        left = [place for place in left if place in failures and _may_retry(solver, failures[place], policy, tries)]
        if not left:
            break
        incidents += [incident(failures[place], "retried", describe(place)) for place in left]
        _pause([failures[place] for place in left], tries)
    return StepResult(advanced, failures, steps, tuple(incidents))


def step_all(
    solver: Solver, states: Array, params: Array | None, policy: FailurePolicy, where: str = ""
) -> tuple[Array, Account]:
    """Take one step of states that are all needed.

    Args:
        solver: Any solver.
        states: States `(B, C, *N)`.
        params: Scenario parameters `(B, K)` or None.
        policy: Policy that says how often a step is taken again.
        where: Place that the states come from, in words, for the error.

    Returns:
        States one step later, `(B, C, *N)`, and what the step took.

    Raises:
        SolverError: A state failed all the same: the first one's error, with its place and account.
    """
    result = step_with_policy(solver, states, params, policy, lambda place: where)
    for place in sorted(result.failures):
        raise with_account(with_place(result.failures[place], where), result.account)
    return result.states, result.account


def _bisect(solver: Solver, states: Array, params: Array | None, policy: FailurePolicy) -> StepResult:
    """Advance states in one call; where it fails as a whole, by halves, down to the states that are the reason."""
    count = len(states)
    try:
        result, failures = _call(solver, states, params)
        return StepResult(result, {**_non_finite_states(result, _result_name(solver.spec), DIVERGED), **failures}, count)
    except SolverError as error:
        if count == 1 or (isinstance(error, SolverTimeoutError) and _ends_run(error, policy)):  # a search would take long
            return StepResult(states, dict.fromkeys(range(count), error), count)
        whole = error
    advanced, failures, steps, incidents = np.empty_like(states), dict[int, SolverError](), count, tuple[Incident, ...]()
    for half in (range(count // 2), range(count // 2, count)):
        part = _bisect(solver, *_rows(states, params, half), policy)
        advanced[list(half)] = part.states
        failures |= {half[i]: error for i, error in part.failures.items()}
        steps, incidents = steps + part.steps, incidents + part.incidents
        first = min(failures, default=count)
        if first < count and _ends_run(failures[first], policy):  # the others are not needed any more
            return StepResult(states, dict.fromkeys(range(first, count), failures[first]), steps, incidents)
    if not failures and _ends_run(whole, policy):  # no state by itself is the reason
        return StepResult(states, dict.fromkeys(range(count), whole), steps, incidents)
    return StepResult(advanced, failures, steps, incidents if failures else (*incidents, incident(whole, "retried")))


def _call(solver: Solver, states: Array, params: Array | None) -> tuple[Array, Mapping[int, SolverError]]:
    """Call a solver once, on copies that it cannot write to; check the form of its result, but not its numbers.

    Returns:
        States one step later, and the failures of single states that the solver told by place.

    Raises:
        SolverError: The call failed as a whole.
        DeepZeroError: The solver cannot be asked at all: something is set wrong.
    """
    given, scenario = read_only_copy(states), None if params is None else read_only_copy(params)
    failures: Mapping[int, SolverError] = {}
    cancellation.check()
    try:
        with _crashes(f"solver {solver.spec.name!r}", _remedy, place=True):
            result = solver.step(given, scenario)
    except StatesFailedError as error:
        result, failures = error.advanced, error.failures
    _check_parameters_cast(solver.spec, result, scenario)
    check_form(solver.spec, result, _result_name(solver.spec), len(states))
    return result, failures


def _check_parameters_cast(spec: SolverSpec, result: object, params: Array | None) -> None:
    """Blame parameters of another type than the states for a result of theirs: numpy and torch take the wider of two types."""
    if params is not None and isinstance(result, np.ndarray) and params.dtype == result.dtype != np.dtype(spec.dtype):
        raise InvalidStateError(_parameters_to_convert(spec, str(params.dtype)))


def _parameters_to_convert(spec: SolverSpec, dtype: str) -> str:
    return (
        f"the parameters of solver {spec.name!r} must be {spec.dtype} as its states are, not {dtype}, which made its result "
        f"{dtype}: convert them (.astype('{spec.dtype}') of an array, .{CASTS[spec.dtype]}() of a tensor)."
    )


@contextmanager
def _crashes(what: str, remedy: Callable[[BaseException], str], place: bool = False) -> Iterator[None]:
    """Turn exceptions of a solver's own code into a :class:`SolverCrashError`; errors of ours pass.

    Args:
        what: Beginning of the sentence.
        remedy: Function from the exception to the end of the sentence.
        place: True to name the line that raised it.
    """
    try:
        yield
    except DeepZeroError:
        raise
    except (Exception, SystemExit) as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        at = f" ({Path(line.filename).name}, line {line.lineno})" if place else ""
        raise SolverCrashError(f"{what} raised {type(error).__name__}: {error}{at}: {remedy(error)}.") from error


def _remedy(error: BaseException) -> str:
    changed = "read-only" in str(error)
    return "a step must not change its input, so copy it first" if changed else "run its step alone to find out why"


def _result_name(spec: SolverSpec) -> str:
    return f"what solver {spec.name!r} returned"


def _calls(spec: SolverSpec, places: Sequence[int]) -> list[Sequence[int]]:
    """Split places into calls of as many states as the solver takes at once."""
    largest = spec.max_batch or max(1, len(places))
    return [places[first : first + largest] for first in range(0, len(places), largest)]


def _rows(states: Array, params: Array | None, places: Sequence[int]) -> tuple[Array, Array | None]:
    """Select some of the states and their parameters."""
    if len(places) == len(states):  # as it is nearly always
        return states, params
    return states[list(places)], None if params is None else params[list(places)]


def _may_retry(solver: Solver, error: SolverError, policy: FailurePolicy, tries: int) -> bool:
    return tries < policy.retries(error, solver.spec.deterministic)


def _pause(errors: Sequence[SolverError], tries: int) -> None:
    if any(error.kind in PASSING for error in errors):
        time.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**tries))


def _non_finite_states(states: Array, what: str, remedy: str) -> dict[int, SolverError]:
    """Find the states that hold NaN or infinity, with an error for each."""
    errors: dict[int, SolverError] = {}
    for i in np.flatnonzero(~np.isfinite(states).all(axis=tuple(range(1, states.ndim)))).tolist():
        try:
            check_finite(states[i : i + 1], what, remedy)
        except NonFiniteError as error:
            errors[i] = error
    return errors


def _ends_run(error: SolverError, policy: FailurePolicy) -> bool:
    return policy.response(error) == Response()
