"""Steps of finite differences: as long as each channel allows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from deepzero_sim import InputField, SolverSpec, as_solver
from deepzero_sim.common.types import Array, Scheme
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp import Coloured, CoordinateProbes, ReferenceJacobian, StepTaken, VectorJacobianProduct
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.stepped_inputs import with_input_channels


def velocity_and_pressure(dtype: str) -> tuple[SolverProbe, Array]:
    """`u' = u - 0.1 u^3`, `p' = p + 1e5 sin(p / 1e5)`, and states of about 1 and 1e5."""

    def step(states: Array) -> Array:
        u, p = states[:, :1], states[:, 1:]
        return np.concatenate([u - 0.1 * u**3, p + 1e5 * np.sin(p / 1e5)], axis=1).astype(dtype)

    spec = SolverSpec(name="two sizes", state_shape=(2, 12), dt=1.0, dtype=dtype, stencil=0)
    states = np.random.default_rng(0).normal(size=(2, 2, 12)) * [[1.0], [1e5]]
    return SolverProbe(as_solver(step, spec)), states.astype(dtype)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 5e-3), ("float64", 1e-7)])
@pytest.mark.parametrize("make", [Coloured, ReferenceJacobian, lambda: CoordinateProbes(24)])
def test_channels_of_unlike_sizes(make: Callable[[], VectorJacobianProduct], dtype: str, error: float) -> None:
    probes, states = velocity_and_pressure(dtype)
    w = np.random.default_rng(1).normal(size=states.shape).astype(dtype)
    found = make().product(StepTaken(states, None, probes(states)), w, probes)
    slopes = np.concatenate([1 - 0.3 * states[:, :1] ** 2, 1 + np.cos(states[:, 1:] / 1e5)], axis=1)
    for channel in range(2):
        np.testing.assert_allclose(found[:, channel], (w * slopes)[:, channel], atol=20 * error)


@pytest.mark.parametrize(("dtype", "step_size"), [("float64", 1e308), ("float32", 1e37)])
def test_steps_beyond_the_numbers(dtype: str, step_size: float) -> None:
    probes, states = velocity_and_pressure(dtype)
    with pytest.raises(ConfigError, match=f"is beyond {dtype}: take a smaller one"):
        Coloured(step_size=step_size).product(StepTaken(states, None, states), states, probes)


def test_a_step_size_may_be_a_whole_number() -> None:
    probes, states = velocity_and_pressure("float64")
    taken = StepTaken(states, None, probes(states))
    found = [Coloured(step_size=size).product(taken, states, probes) for size in (10**20, 1e20)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("scheme", ["forward", "central"])
@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.02), ("float64", 1e-5)])
def test_inputs_that_do_little_in_a_step(scheme: Scheme, dtype: str, error: float) -> None:
    """A forcing of a fiftieth of the state's size, of which a step adds a hundredth: its derivative is not lost in rounding."""

    def step(states: Array, params: None, inputs: Array) -> Array:
        return (states + 0.01 * np.sin(inputs)).astype(dtype)

    spec = SolverSpec(name="forced", state_shape=(1, 64), dt=1.0, dtype=dtype, inputs=(InputField("forcing"),))
    probes = SolverProbe(with_input_channels(as_solver(step, spec)))
    state = np.random.default_rng(0).normal(size=(2, 64)) * [[1.0], [0.02]]
    state, directions = state.astype(dtype), np.zeros((64, 2, 64), dtype)
    directions[np.arange(64), 1, np.arange(64)] = 1
    found = Differences(None, scheme).jvp(probes, state, None, probes(state[None])[0], directions)[:, 0]
    np.testing.assert_allclose(np.diagonal(found), 0.01 * np.cos(state[1]), rtol=error)
