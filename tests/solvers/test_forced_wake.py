"""The wake with a forcing that a step reads: both solvers agree, and are as they were without it; its gradient is exact."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import deepzero_sim as dz
from deepzero_sim.solvers import PhiFlowWake, WakeFlow
from deepzero_sim.solvers.wake import initial_state


def case(solver: dz.Solver, count: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    params = np.array([[200.0], [1500.0], [600.0]], solver.spec.dtype)[:count]
    states = initial_state(solver.spec, params)
    inputs = 0.05 * np.random.default_rng(0).normal(size=states.shape).astype(solver.spec.dtype)
    return states, params, inputs * solver.spec.active_inputs().astype(solver.spec.dtype)


def test_without_forcing_a_step_is_what_it_was() -> None:
    plain, forced = WakeFlow(16), WakeFlow(16, forced=True)
    states, params, inputs = case(forced)
    assert plain.spec.inputs == () and [one.name for one in forced.spec.inputs] == ["forcing_y", "forcing_x"]
    assert np.array_equal(forced.step(states, params, 0 * inputs), plain.step(states, params))
    assert np.abs(forced.step(states, params, inputs) - plain.step(states, params)).max() > 1e-3
    again = copy.deepcopy(forced)
    assert np.array_equal(again.step(states, params, inputs), forced.step(states, params, inputs))


def test_a_force_that_is_a_gradient_is_taken_up_by_the_pressure() -> None:
    """`P(s, grad phi) = P(s, 0)` for a potential that vanishes at the obstacle and outside: nothing but pressure changes."""
    solver = WakeFlow(16, "float64", forced=True)
    states, params, inputs = case(solver)
    potential = np.zeros((1, 34, 18))
    potential[0, 20:30, 3:14] = np.random.default_rng(1).normal(size=(10, 11))
    inputs = np.zeros_like(inputs)
    inputs[:, 0, :, :-1] = potential[:, 1:, 1:-1] - potential[:, :-1, 1:-1]
    inputs[:, 1, :-1, :] = potential[:, 1:-1, 1:] - potential[:, 1:-1, :-1]
    np.testing.assert_allclose(solver.step(states, params, inputs), solver.step(states, params, 0 * inputs), atol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_solvers_take_the_same_forced_step(dtype: str) -> None:
    numpy, torch_ = WakeFlow(16, dtype, forced=True), PhiFlowWake(16, dtype, forced=True)
    states, params, inputs = case(numpy)
    for _ in range(3):
        ours, theirs = numpy.step(states, params, inputs), torch_.step(states, params, inputs)
        np.testing.assert_allclose(theirs, ours, atol=5e-5 if dtype == "float32" else 1e-11)
        states = ours


def test_the_gradient_of_the_forcing_is_that_of_the_twin() -> None:
    solver, twin = WakeFlow(16, "float64", forced=True), PhiFlowWake(16, "float64", forced=True)
    states, params, inputs = case(solver, 3)
    layer = dz.SolverLayer(twin, "exact")
    found = dz.check_gradient(layer, (states, params, inputs), of="inputs", directions=16)
    assert found.cosine is not None and found.cosine > 1 - 1e-6 and found.norm_ratio == pytest.approx(1, abs=1e-4)
    loop = dz.SolverLoop(twin, Forcing(), 2, "exact", coupling="inside")
    loop.rollout(torch.from_numpy(states), torch.from_numpy(params)).square().mean().backward()
    (weight, bias) = loop.corrector.parameters()
    assert float(weight.grad.abs().min()) > 0 and float(bias.grad.abs().min()) > 0


class Forcing(torch.nn.Conv2d):
    """A forcing that is a convolution of the velocities."""

    def __init__(self) -> None:
        super().__init__(2, 2, 3, padding=1, dtype=torch.float64)

    def forward(self, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:  # type: ignore[override]
        return 0.1 * super().forward(states)
