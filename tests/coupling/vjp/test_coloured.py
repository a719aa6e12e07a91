"""Local steps whose reach nobody has declared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from jacobians import advection, exact_jacobian, projection, random_states

from deepzero_sim import SolverSpec, as_solver
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp import Coloured, StepTaken
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import Solver


def undeclared(steps: int) -> Solver:
    """Some steps of advection, which reach as many points."""
    inner = advection((13, 17), 2)

    def step(states: Array) -> Array:
        for _ in range(steps):
            states = inner.step(states)
        return states

    return as_solver(step, replace(inner.spec, stencil=None))


@pytest.mark.parametrize("steps", [1, 2])
def test_the_reach_is_found(steps: int) -> None:
    solver = undeclared(steps)
    states = np.asarray(random_states(solver, 2).numpy())
    method, probes = Coloured(), SolverProbe(solver)
    method.prepare(states, None, probes)
    assert method.state_dict()["radius"] == steps
    assert probes.steps == 2 * (1 + 2 * 2 * 8)  # at both states, 8 points of both channels
    w = np.random.default_rng(0).normal(size=states.shape)
    found = method.product(StepTaken(states, None, solver.step(states)), w, probes)
    for state, cotangent, product in zip(states, w, found, strict=True):
        expected = cotangent.reshape(-1) @ exact_jacobian(solver, state)
        np.testing.assert_allclose(product.reshape(-1), expected, atol=1e-6)
    again, counted = Coloured(), SolverProbe(solver)
    again.load_state_dict(method.state_dict())
    np.testing.assert_array_equal(again.product(StepTaken(states, None, solver.step(states)), w, counted), found)
    assert counted.steps == probes.steps - 2 * 33, "it is not looked for again"


def test_a_global_step_is_refused() -> None:
    solver = projection()
    states = np.asarray(random_states(solver, 1).numpy())
    with pytest.raises(ConfigError, match=r"solver 'projection' carries information over 4 points or more of 9, too far"):
        Coloured().prepare(states, None, SolverProbe(solver))


@pytest.mark.parametrize("hidden", [slice(1), slice(0)])
def test_rest_does_not_hide_the_reach(hidden: slice) -> None:
    spec = SolverSpec(name="flow", state_shape=(1, 64), dt=1.0, dtype="float64")
    solver = as_solver(lambda s: s - 0.3 * s * (s - np.roll(s, 1, -1)), spec)
    states = np.zeros((3, 1, 64))
    states[1:, 0, 10:16] = np.random.default_rng(0).normal(size=(2, 6))  # elsewhere a point answers alone
    states[hidden] = 0
    method = Coloured()
    method.prepare(states, None, SolverProbe(solver))
    assert method.state_dict()["radius"] == 1
