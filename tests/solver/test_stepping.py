"""Solver steps under a policy: who failed is found, tried again as declared, and no other state's answer changes."""

from __future__ import annotations

import signal
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import POINTS, Burgers, Counting, initial_states

import deepzero_sim as dz
from deepzero_sim.common.types import Array
from deepzero_sim.errors import SolverError
from deepzero_sim.solver import stepping
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.solver.stepping import step_all, step_with_policy, with_place


class Failing(Burgers):
    """Burgers, failing on states whose first value is marked, as often as told.

    Args:
        marked: first values of these states.
        how: raises, or returns what it should not.
        times: that each of them fails.
        statewise: says which states failed; otherwise the call fails as a whole.
    """

    def __init__(
        self, marked: set[float], how: Callable[[], SolverError], times: float = np.inf, statewise: bool = False, **spec: object
    ) -> None:
        super().__init__(**spec)  # type: ignore[arg-type]
        self.left = dict.fromkeys(marked, times)
        self.how, self.statewise = how, statewise

    def step(self, states: Array, params: Array | None = None) -> Array:
        bad = [i for i, state in enumerate(states) if self.left.get(float(state[0, 0]), 0) > 0]
        for i in bad:
            self.left[float(states[i, 0, 0])] -= 1
        if bad and self.statewise:
            advanced = super().step(states, params)
            advanced[bad] = np.nan
            raise dz.StatesFailedError({i: self.how() for i in bad}, advanced)
        if bad:
            raise self.how()
        return super().step(states, params)


def crash() -> SolverError:
    return dz.SolverCrashError("down")


def marks(places: set[int], states: Array) -> set[float]:
    return {float(states[i, 0, 0]) for i in places}


@pytest.mark.parametrize("statewise", [True, False])
@given(places=st.sets(st.integers(0, 12)), most=st.sampled_from([None, 1, 3, 5]))
def test_who_failed_is_found_and_the_others_are_advanced(statewise: bool, places: set[int], most: int | None) -> None:
    states = initial_states(13)
    solver = Failing(marks(places, states), crash, statewise=statewise, max_batch=most)
    found = step_with_policy(solver, states, None, FailurePolicy("drop"))
    assert found.failures.keys() == places
    good = [i for i in range(13) if i not in places]
    np.testing.assert_array_equal(found.states[good], Burgers().step(states)[good])


@pytest.mark.parametrize("statewise", [True, False])
@pytest.mark.parametrize(("times", "failed"), [(2, set()), (3, {1, 4})])
def test_steps_are_tried_again_as_often_as_declared(statewise: bool, times: int, failed: set[int]) -> None:
    states = initial_states(6)
    solver = Counting(Failing(marks({1, 4}, states), crash, times, statewise))
    solver.solver.statewise = statewise
    if not statewise:  # a call that fails as a whole is looked into, which is a try too
        solver.spec = Burgers(max_batch=1).spec
    found = step_with_policy(solver, states, None, FailurePolicy("retry(2)"))
    assert found.failures.keys() == failed
    good = [i for i in range(6) if i not in failed]
    np.testing.assert_array_equal(found.states[good], Burgers().step(states)[good])
    assert [one.action for one in found.incidents] == ["retried"] * 4
    assert solver.states == found.steps == 10


def test_a_state_that_diverged_is_tried_again_only_if_chance_is_at_work() -> None:
    states = initial_states(4)
    for error in (dz.NonFiniteError("NaN"), dz.SolverKilledError("trap", signal.SIGFPE)):
        for deterministic, calls in ((True, 4), (False, 7)):
            solver = Failing(marks({2}, states), lambda error=error: error, 9, statewise=True, deterministic=deterministic)  # type: ignore[misc]
            assert step_with_policy(solver, states, None, FailurePolicy("retry(3)")).steps == calls


def test_numbers_that_are_not_finite_fail_by_themselves_in_and_out() -> None:
    states = initial_states(5)
    states[1, 0, 3] = np.nan
    step = dz.as_solver(lambda s: np.where(s == s[:, :, :1], np.inf, s) if len(s) else s, Burgers().spec)
    found = step_with_policy(step, states, None, FailurePolicy("retry(4), drop"))
    assert found.failures.keys() == {0, 1, 2, 3, 4} and found.steps == 4
    assert "what is given to solver 'burgers' must be finite" in str(found.failures[1])
    assert "what solver 'burgers' returned must be finite" in str(found.failures[0])


def test_under_abort_the_first_is_named_and_no_more_is_tried() -> None:
    states = initial_states(8)
    solver = Counting(Failing(marks({2, 6}, states), crash))
    found = step_with_policy(solver, states, None, FailurePolicy())
    assert min(found.failures) == 2 and solver.calls == 5  # 8, 4, 2, 2, 1
    with pytest.raises(dz.SolverCrashError, match="down"):
        step_all(solver, states, None, FailurePolicy())


def test_a_call_that_hangs_is_not_looked_into_before_the_end() -> None:
    states = initial_states(8)
    solver = Counting(Failing(marks({2}, states), lambda: dz.SolverTimeoutError("slow")))
    assert step_with_policy(solver, states, None, FailurePolicy()).failures.keys() == set(range(8))
    assert solver.calls == 1
    assert step_with_policy(solver, states, None, FailurePolicy("drop")).failures.keys() == {2}


def test_a_batch_that_fails_without_a_reason_in_it() -> None:
    def step(states: Array) -> Array:
        if len(states) > 2:
            raise RuntimeError("too many")
        return Burgers().step(states)

    states, solver = initial_states(4), dz.as_solver(step, Burgers().spec)
    with pytest.raises(dz.SolverCrashError, match="too many"):
        step_all(solver, states, None, FailurePolicy())
    advanced, account = step_all(solver, states, None, FailurePolicy("retry(1)"))
    np.testing.assert_array_equal(advanced, Burgers().step(states))
    assert [(one.action, one.kind) for one in account.incidents] == [("retried", "exception")] and account.steps == 4 + 4


def test_results_of_a_wrong_shape_or_dtype_are_failures() -> None:
    for wrong in (lambda s: s[:, :, :-1], lambda s: s.astype("float32"), lambda s: None):
        found = step_with_policy(dz.as_solver(wrong, Burgers().spec), initial_states(3), None, FailurePolicy("drop"))
        assert {type(error) for error in found.failures.values()} == {dz.InvalidStateError} and len(found.failures) == 3


def test_what_comes_from_outside_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(stepping.time, "sleep", slept.append)
    states = initial_states(2)
    for error, pauses in ((dz.ConnectionLostError("cut"), [0.25, 0.5, 1.0]), (dz.ExitCodeError("3"), [])):
        slept.clear()
        solver = Failing(marks({0}, states), lambda error=error: error, 3, statewise=True)  # type: ignore[misc]
        assert not step_with_policy(solver, states, None, FailurePolicy("retry(3)")).failures
        assert slept == pauses


def test_settings_that_are_wrong_are_no_failures() -> None:
    def step(states: Array) -> Array:
        raise dz.MissingExtraError("a solver", "nothing", "none")

    with pytest.raises(dz.MissingExtraError):
        step_with_policy(dz.as_solver(step, Burgers().spec), initial_states(3), None, FailurePolicy("drop"))
    with pytest.raises(dz.InvalidStateError, match="must have shape"):
        step_with_policy(Burgers(), initial_states(3)[:, :, 1:], None, FailurePolicy("drop"))


def test_no_states_are_no_call() -> None:
    solver = Counting(Burgers())
    assert step_with_policy(solver, np.empty((0, 1, POINTS)), None, FailurePolicy()).steps == solver.calls == 0


def test_where_it_happened_is_said_once_whatever_the_error_holds() -> None:
    error = with_place(dz.SolverKilledError("a signal ended it.", signal.SIGSEGV), "at w[3] + 0.1")
    assert str(error) == "a signal ended it (failure: signal, at w[3] + 0.1)." and isinstance(error, dz.SolverKilledError)
    assert error.number == signal.SIGSEGV
