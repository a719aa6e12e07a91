"""The error of a corrected rollout: by hand, and infinite where a rollout diverged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import Burgers, Counting, Network, conv_corrector, initial_states, snapshot

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.evaluation import Evaluation, evaluate
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.errors import ConfigError, DataError
from deepzero_sim.models.corrector import NoCorrection
from deepzero_sim.solver.contract import as_solver

ACTIVE = torch.ones(1, 16, dtype=torch.bool)


def burgers_frames(count: int, viscosity: float = 0.05) -> torch.Tensor:
    frames = [initial_states(3)]
    for _ in range(count - 1):
        frames.append(Burgers().step(frames[-1], np.full((3, 1), viscosity)))
    return torch.from_numpy(np.stack(frames, axis=1))


def test_a_solver_that_is_right_has_no_error() -> None:
    solver = Counting(Burgers())
    found = evaluate(SolverLoop(solver, NoCorrection()), burgers_frames(9), None, ACTIVE, steps=8)
    assert found.errors.shape == (3, 8) and found.mae == 0 and found.mae_std == 0
    assert found.solver_steps == solver.states == 24
    assert torch.equal(found.rollout, burgers_frames(9)[:, 1:])


def test_errors_are_means_over_active_points() -> None:
    step = as_solver(lambda states: states + 1, Burgers().spec)
    frames, active = torch.zeros(2, 4, 1, 16, dtype=torch.float64), torch.zeros(1, 16, dtype=torch.bool)
    active[0, :2] = True
    frames[1, 0] = 1.0
    frames[:, :, ~active] = 50.0
    found = evaluate(SolverLoop(step, NoCorrection()), frames, None, active, steps=3)
    assert found.errors.tolist() == [[1, 2, 3], [2, 3, 4]]
    assert found.mae == 2.5 and found.mae_std == 0.5 and found.seconds > 0


def test_the_network_corrects_and_is_left_as_it_is() -> None:
    corrector = conv_corrector()
    before = snapshot(corrector)
    loop = SolverLoop(Burgers(), corrector, unroll=2)
    frames = burgers_frames(6, viscosity=0.2)
    found = evaluate(loop, frames, None, ACTIVE, steps=5)
    with torch.no_grad():
        expected = loop.rollout(frames[:, 0], None, steps=5)
    assert torch.equal(found.rollout, expected) and not found.rollout.requires_grad
    assert all(torch.equal(snapshot(corrector)[name], before[name]) for name in before)


def test_parameters_reach_the_solver() -> None:
    params = torch.full((3, 1), 0.2, dtype=torch.float64)
    found = evaluate(SolverLoop(Burgers(), NoCorrection()), burgers_frames(5, 0.2), params, ACTIVE, steps=4)
    assert found.mae == 0


@pytest.mark.parametrize("diverges_at", [0, 2])
def test_a_rollout_that_diverges_has_an_infinite_error(diverges_at: int) -> None:
    def step(states: Array) -> Array:
        return np.where(states >= diverges_at, np.inf, states + 1)

    found = evaluate(
        SolverLoop(as_solver(step, Burgers().spec), NoCorrection()),
        torch.zeros(2, 6, 1, 16, dtype=torch.float64),
        None,
        ACTIVE,
        5,
    )
    assert found.errors.isfinite().sum(dim=1).tolist() == [diverges_at, diverges_at]
    assert found.errors[:, diverges_at:].isposinf().all()
    assert math.isinf(found.mae) and math.isinf(found.mae_std)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")
def test_a_network_that_explodes_has_an_infinite_error() -> None:
    linear = torch.nn.Conv1d(1, 1, 1).double()
    torch.nn.init.constant_(linear.weight, 1e200)
    found = evaluate(SolverLoop(Burgers(), Network(linear)), burgers_frames(6), None, ACTIVE, 5)
    assert math.isinf(found.mae) and not found.errors.isnan().any()


def test_there_must_be_frames_for_every_step() -> None:
    with pytest.raises(DataError, match="9 steps of evaluation need 10 frames, the data have 9: evaluate fewer steps"):
        evaluate(SolverLoop(Burgers(), NoCorrection()), burgers_frames(9), None, ACTIVE, steps=9)


@pytest.mark.parametrize("steps", [0, -1])
def test_an_evaluation_has_steps(steps: int) -> None:
    with pytest.raises(ConfigError, match="positive number"):
        evaluate(SolverLoop(Burgers(), NoCorrection()), burgers_frames(9), None, ACTIVE, steps=steps)


def test_one_simulation_has_no_spread() -> None:
    assert Evaluation(torch.ones(1, 4), torch.zeros(1, 4, 1, 2), 4, 0.0).mae_std == 0
