"""The PhiFlow wake solver: against `WakeFlow`, against finite differences, and where it must refuse."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

from deepzero_sim.common.types import Array
from deepzero_sim.errors import ConfigError, InvalidStateError, MissingExtraError, NonFiniteError, SolverCrashError
from deepzero_sim.solvers import wake_phiflow
from deepzero_sim.solvers.wake import TEST_REYNOLDS, TRAIN_REYNOLDS, WakeFlow, initial_state
from deepzero_sim.solvers.wake_phiflow import PhiFlowWake

pytest.importorskip("phi")

REYNOLDS = np.array([TRAIN_REYNOLDS[0], *TEST_REYNOLDS], dtype=np.float32)[:, None]


def develop(resolution: int, reynolds: Array, dtype: str = "float32", steps: int = 100) -> Array:
    """`(B, 2, H+1, W+1)`, one state for each Reynolds number."""
    solver = WakeFlow(resolution, dtype)
    states = initial_state(solver.spec, np.ones((len(reynolds), 1)))
    for _ in range(steps):
        states = solver.step(states, reynolds)
    return states


def rough(resolution: int, reynolds: Array) -> Array:
    """Developed float64 states with noise, so that no backtrace ends exactly on a point, where interpolation has a kink."""
    states = develop(resolution, reynolds, "float64", 30)
    noise = 0.05 * np.random.default_rng(3).normal(size=states.shape)
    return np.asarray(states + noise * WakeFlow(resolution).spec.active())


@pytest.mark.parametrize(("pressure", "resolution"), [("direct", 32), ("cg", 16)])
def test_agrees_with_wake_flow_over_fifty_steps(pressure: wake_phiflow.Pressure, resolution: int) -> None:
    ours, phiflow = WakeFlow(resolution), PhiFlowWake(resolution, pressure=pressure)
    expected = states = develop(resolution, REYNOLDS)
    for _ in range(50):
        expected, states = ours.step(expected, REYNOLDS), phiflow.step(states, REYNOLDS)
    assert states.dtype == np.float32
    assert np.abs(states - expected).max() < 1e-3
    assert np.abs(states - develop(resolution, REYNOLDS)).max() > 0.01, "the flow should have moved on"


def test_conjugate_gradients_agree_with_the_factorisation_at_full_resolution() -> None:
    states = develop(32, REYNOLDS)
    direct, iterated = (PhiFlowWake(32, pressure=pressure).step(states, REYNOLDS) for pressure in ("direct", "cg"))
    assert 0 < np.abs(direct - iterated).max() < 1e-4


def test_float64_agrees_to_rounding() -> None:
    states = rough(16, REYNOLDS)
    expected = WakeFlow(16, "float64").step(states, REYNOLDS)
    assert np.abs(PhiFlowWake(16, "float64").step(states, REYNOLDS) - expected).max() < 1e-12
    assert np.abs(PhiFlowWake(16, "float64", "cg", 1e-12).step(states, REYNOLDS) - expected).max() < 1e-9


@pytest.mark.parametrize("pressure", ["direct", "cg"])
def test_gradient_agrees_with_central_differences(pressure: wake_phiflow.Pressure) -> None:
    reynolds = REYNOLDS[:3].astype(np.float64)
    states, rng = rough(16, reynolds), np.random.default_rng(0)
    solver = PhiFlowWake(16, "float64", pressure, tolerance=1e-12)
    for _ in range(2):
        cotangent, direction = rng.normal(size=(2, *states.shape)) * solver.spec.active()
        product = float((vector_jacobian(solver, states, reynolds, cotangent) * direction).sum())
        for step in (solver.step, WakeFlow(16, "float64").step):
            ahead, behind = (step(states + sign * 1e-7 * direction, reynolds) for sign in (1, -1))
            assert product == pytest.approx(float((cotangent * (ahead - behind)).sum()) / 2e-7, rel=1e-4)


def vector_jacobian(solver: PhiFlowWake, states: Array, reynolds: Array, cotangent: Array) -> Array:
    inputs = torch.tensor(states, requires_grad=True)
    output = solver.differentiable_step(inputs, torch.tensor(reynolds))
    (product,) = torch.autograd.grad(output, inputs, torch.tensor(cotangent))
    return np.asarray(product.numpy())


def test_gradient_with_respect_to_the_reynolds_number() -> None:
    states, reynolds = rough(16, REYNOLDS[:2]), REYNOLDS[:2].astype(np.float64)
    solver = PhiFlowWake(16, "float64")
    inputs = torch.tensor(reynolds, requires_grad=True)
    (slope,) = torch.autograd.grad(solver.differentiable_step(torch.tensor(states), inputs).square().sum(), inputs)
    shift = np.array([[1e-3], [0.0]])
    ahead, behind = ((WakeFlow(16, "float64").step(states, reynolds + sign * shift) ** 2).sum() for sign in (1, -1))
    assert float(slope[0, 0]) == pytest.approx((ahead - behind) / 2e-3, rel=1e-5)


def test_gradient_does_not_depend_on_how_it_is_computed() -> None:
    states, rng = rough(16, REYNOLDS).astype(np.float32), np.random.default_rng(1)
    cotangent = rng.normal(size=states.shape).astype(np.float32)
    compiled, eager, iterated = (
        vector_jacobian(solver, states, REYNOLDS, cotangent)
        for solver in (PhiFlowWake(16), PhiFlowWake(16, jit=False), PhiFlowWake(16, pressure="cg"))
    )
    np.testing.assert_allclose(compiled, eager, rtol=0, atol=1e-5)
    np.testing.assert_allclose(compiled, iterated, rtol=0, atol=1e-3)
    assert not compiled[:, ~PhiFlowWake(16).spec.active()].any(), "padding has no influence"


def test_gradient_after_compiling_in_inference_mode() -> None:
    states, solver = rough(16, REYNOLDS).astype(np.float32), PhiFlowWake(16)
    with torch.inference_mode():
        solver.step(states, REYNOLDS)
    product = vector_jacobian(solver, states, REYNOLDS, np.ones_like(states))
    np.testing.assert_array_equal(product, vector_jacobian(PhiFlowWake(16), states, REYNOLDS, np.ones_like(states)))


def test_a_batch_is_its_states_one_by_one_in_any_order_of_sizes() -> None:
    states, solver = develop(16, REYNOLDS), PhiFlowWake(16)
    together = solver.step(states, REYNOLDS)
    alone = [solver.step(states[i : i + 1], REYNOLDS[i : i + 1]) for i in range(len(states))]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(together, solver.step(states, REYNOLDS))


def test_pickling_keeps_the_settings_and_drops_what_was_compiled() -> None:
    states, solver = develop(16, REYNOLDS), PhiFlowWake(16, tolerance=1e-3, jit=True)
    before = solver.step(states, REYNOLDS)
    restored = pickle.loads(pickle.dumps(solver))  # noqa: S301
    np.testing.assert_array_equal(restored.step(states, REYNOLDS), before)
    assert restored.__reduce__() == solver.__reduce__()


def test_the_spec_is_that_of_wake_flow_but_for_threads() -> None:
    spec, other = PhiFlowWake(16).spec, WakeFlow(16).spec
    assert (spec.state_shape, spec.channels, spec.parameters) == (other.state_shape, other.channels, other.parameters)
    assert not spec.thread_safe
    np.testing.assert_array_equal(spec.active(), other.active())


def test_input_and_global_settings_are_left_alone() -> None:
    from phi import math  # noqa: PLC0415

    states = rough(16, REYNOLDS)
    copy, backend, filters = states.copy(), math.get_precision(), list(warnings.filters)
    for pressure in ("direct", "cg"):
        PhiFlowWake(16, "float64", pressure).step(states, REYNOLDS)
    np.testing.assert_array_equal(states, copy)
    assert torch.get_default_dtype() == torch.float32
    assert math.get_precision() == backend
    assert list(warnings.filters) == filters


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_a_diverged_state_is_refused(value: float) -> None:
    states, solver = develop(16, REYNOLDS, steps=1), PhiFlowWake(16)
    states[2, 1, 4, 5] = value
    with pytest.raises(NonFiniteError, match="wake-phiflow"):
        solver.step(states, REYNOLDS)
    with pytest.raises(NonFiniteError, match="wake-phiflow"):
        solver.differentiable_step(torch.tensor(states), torch.tensor(REYNOLDS))


def test_conjugate_gradients_that_do_not_converge_are_an_error_of_ours() -> None:
    states, solver = develop(16, REYNOLDS, steps=1), PhiFlowWake(16, pressure="cg", tolerance=1e-30)
    with pytest.raises(SolverCrashError, match="conjugate gradients"):
        solver.step(states, REYNOLDS)


def test_a_gradient_that_does_not_converge_is_an_error_of_ours() -> None:
    states = torch.tensor(develop(16, REYNOLDS, steps=1), requires_grad=True)
    output = PhiFlowWake(16, pressure="cg").differentiable_step(states, torch.tensor(REYNOLDS))
    with pytest.raises(SolverCrashError, match="conjugate gradients"):
        torch.autograd.grad(output, states, torch.full_like(output, torch.nan))


def wrong_shape(states: Array) -> tuple[Array, Array | None]:
    return states[:, :, 1:], REYNOLDS


def wrong_dtype(states: Array) -> tuple[Array, Array | None]:
    return states.astype(np.float64), REYNOLDS


@pytest.mark.parametrize("change", [wrong_shape, wrong_dtype])
def test_wrong_states_are_refused(change: Callable[[Array], tuple[Array, Array | None]]) -> None:
    with pytest.raises(InvalidStateError):
        PhiFlowWake(16).step(*change(develop(16, REYNOLDS, steps=1)))


def test_wrong_settings_are_refused() -> None:
    states = develop(16, REYNOLDS, steps=1)
    with pytest.raises(ConfigError, match="params"):
        PhiFlowWake(16).step(states)
    with pytest.raises(ConfigError, match="at least"):
        PhiFlowWake(16).step(states, 0 * REYNOLDS + 0.1)
    with pytest.raises(ConfigError, match="direct, cg"):
        PhiFlowWake(16, pressure="multigrid")  # type: ignore[arg-type]


def test_without_phiflow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(wake_phiflow, "import_module", refuse)
    with pytest.raises(MissingExtraError, match=r"deepzero-sim\[phiflow\]"):
        PhiFlowWake(16)
