"""Frames that do not lie one solver step apart are found, and the steps that it takes are counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from problems import Burgers, Counting, LogisticSolver, initial_states

from deepzero_sim.common.types import Array
from deepzero_sim.datasets import Trajectories
from deepzero_sim.datasets.fitting.spacing import LONGEST, SAMPLES, spacing_of_first_steps, spacing_warning
from deepzero_sim.errors import ExitCodeError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import FailurePolicy


class Off(Burgers):
    """A coarse solver whose step is wrong by a tenth of what it changes."""

    def step(self, states: Array, params: Array | None = None) -> Array:
        return np.asarray(states + 0.9 * (super().step(states, params) - states))


def frames_of(solver: Solver, steps: int, params: Array | None = None, simulations: int = 3) -> Trajectories:
    states, frames = initial_states(simulations), []
    states = states if params is None else 0.5 + 0.2 * states
    for _ in range(steps + 1):
        frames.append(states)
        states = solver.step(states, params)
    given = np.zeros((simulations, 0)) if params is None else params
    return Trajectories(np.stack(frames, axis=1), given, np.ones((1, 16), dtype=bool))


def apart(data: Trajectories, every: int) -> Trajectories:
    return replace(data, frames=data.frames[:, ::every])


class Several(Solver):
    """Several steps of a solver at once."""

    def __init__(self, solver: Solver, steps: int) -> None:
        self.spec, self.solver, self.steps = solver.spec, solver, steps

    def step(self, states: Array, params: Array | None = None) -> Array:
        for _ in range(self.steps):
            states = self.solver.step(states, params)
        return states


@pytest.mark.parametrize("coarse", [Burgers, Off])
def test_frames_one_step_apart_pass(coarse: Any) -> None:
    solver = Counting(coarse())
    found = spacing_warning(solver, frames_of(Burgers(), 40))
    assert found.warning is None
    assert found.account.steps == solver.states == SAMPLES * LONGEST


@pytest.mark.parametrize("coarse", [Burgers, Off])
@pytest.mark.parametrize("every", [2, 3, 5])
def test_frames_several_steps_apart_are_found(coarse: Any, every: int) -> None:
    found = spacing_warning(coarse(), apart(frames_of(Burgers(), 60), every)).warning
    assert found is not None
    about = {every} if coarse is Burgers else {every, every + 1}
    assert any(found.startswith(f"frames seem to lie {number} steps of solver 'burgers' apart") for number in about)
    assert "store a frame of each step" in found and found.endswith(".") and "\n" not in found


@pytest.mark.parametrize("coarse", [Burgers, Off])
@pytest.mark.parametrize("steps", [2, 4])
def test_frames_too_close_in_time_are_found(coarse: Any, steps: int) -> None:
    found = spacing_warning(Several(coarse(), steps), frames_of(Burgers(), 60)).warning
    assert found is not None
    about = {steps} if coarse is Burgers else {steps, steps - 1}
    assert any(found.startswith(f"frames seem to lie 1/{number} of a step of solver 'burgers' apart") for number in about)
    assert "take every" in found and "standard deviations" in found


def test_far_too_close_is_said_as_such() -> None:
    for steps, said in (
        (17, "1/16 of a step of solver 'burgers' apart:"),
        (70, "1/64 of a step of solver 'burgers' apart, or less:"),
    ):
        found = spacing_warning(Several(Burgers(), steps), frames_of(Burgers(), 130)).warning
        assert found is not None and said in found


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_few_frames_are_enough(steps: int) -> None:
    data = frames_of(Burgers(), 6 * steps, simulations=1)
    assert spacing_warning(Burgers(), replace(data, frames=data.frames[:, :2])).warning is None
    found = spacing_warning(Burgers(), replace(data, frames=data.frames[:, :: 3 * steps][:, :2])).warning
    assert found is not None and found.startswith(f"frames seem to lie {min(3 * steps, 8)} ")
    assert spacing_warning(Burgers(), replace(data, frames=data.frames[:, :1])).account.steps == 0


def test_frames_that_nothing_moves_pass() -> None:
    data = Trajectories(np.ones((2, 12, 1, 16)), np.zeros((2, 0)), np.ones((1, 16), dtype=bool))
    assert spacing_warning(Burgers(), data).warning is None
    noise = np.random.default_rng(0).normal(size=(2, 12, 1, 16))
    assert spacing_warning(Burgers(), replace(data, frames=noise)).warning is None


class Growth(LogisticSolver):
    """Growth at each point by itself; masked points hold anything."""

    def step(self, states: Array, params: Array | None = None) -> Array:
        assert params is not None
        grown = states + 0.1 * params[:, :, None] * states * (1 - states)
        grown[:, :, :4] = 9.0
        return np.asarray(grown)


def test_parameters_are_given_and_masked_points_do_not_count() -> None:
    data = frames_of(Growth(), 30, np.array([[0.5], [1.0], [1.5]]))
    data.mask[0, :4] = False
    data.frames[:, :, :, :4] = np.random.default_rng(0).normal(size=(3, 31, 1, 4))
    assert spacing_warning(Growth(), data).warning is None
    found = spacing_warning(Growth(), apart(data, 3)).warning
    assert found is not None and "lie 3 steps" in found


class Failing(Burgers):
    """Fails at its third call."""

    calls = 0

    def step(self, states: Array, params: Array | None = None) -> Array:
        self.calls += 1
        if self.calls >= 3:
            raise ExitCodeError("ended with 1")
        return super().step(states, params)


@pytest.mark.parametrize("policy", ["abort", "drop"])
def test_steps_that_fail_leave_it_open_and_are_counted(policy: str) -> None:
    found = spacing_warning(Failing(), frames_of(Burgers(), 20), FailurePolicy(policy))
    assert found.warning is None and found.account.steps >= 3 * SAMPLES


@pytest.mark.parametrize("every", [2, 5])
def test_steps_that_were_taken_already_find_frames_that_lie_too_close(every: int) -> None:
    coarse = Several(Burgers(), every)
    data = frames_of(Burgers(), 60)
    starts = data.frames[:, :-1]
    steps = coarse.step(starts.reshape(-1, *starts.shape[2:])).reshape(starts.shape)
    found = spacing_of_first_steps("coarse", data, steps)
    assert found is not None and f"1/{every} of a step of solver 'coarse'" in found
    assert spacing_of_first_steps("coarse", apart(data, every), steps[:, ::every]) is None
    steps[0, 0] = np.nan  # a step that was dropped: nothing is known
    assert spacing_of_first_steps("coarse", data, steps) is None
