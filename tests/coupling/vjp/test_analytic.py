"""Products that ask the solver nothing: none, the identity, and what torch's autograd gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import Burgers, DifferentiableBurgers, LogisticSolver, conv_corrector, initial_states

from deepzero_sim import SolverLoop, vjp
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.errors import ConfigError, NonFiniteError
from deepzero_sim.solver.contract import DifferentiableSolver
from deepzero_sim.solver.spec import SolverSpec


def logistic() -> tuple[LogisticSolver, Array, Array, Array]:
    """A solver, three states, their parameters and their cotangents."""
    states, params = initial_states(3), np.array([[0.5], [0.8], [1.2]])
    return LogisticSolver(), states, params, np.random.default_rng(1).normal(size=states.shape)


def by_autograd(solver: DifferentiableSolver, states: Array, params: Array | None, w: Array) -> Array:
    start = torch.from_numpy(states.copy()).requires_grad_()
    advanced = solver.differentiable_step(start, None if params is None else torch.from_numpy(params))
    return torch.autograd.grad(advanced, start, torch.from_numpy(w))[0].numpy()


def test_the_exact_product_is_autograd_s() -> None:
    solver, states, params, w = logistic()
    probes, before = SolverProbe(solver), w.copy()
    product = vjp.Exact().product(vjp.StepTaken(states, params, solver.step(states, params)), w, probes)
    np.testing.assert_array_equal(product, by_autograd(solver, states, params, w))
    np.testing.assert_array_equal(w, before)
    assert probes.steps == len(states)


@pytest.mark.parametrize("with_control", [vjp.CoordinateProbes, vjp.RandomProbes])
def test_an_exact_control_leaves_probes_nothing_to_add(with_control: type[vjp.VectorJacobianProduct]) -> None:
    solver, states, params, w = logistic()
    taken = vjp.StepTaken(states, params, solver.step(states, params))
    product = with_control(control=vjp.Exact()).product(taken, w, SolverProbe(solver))  # type: ignore[call-arg]
    np.testing.assert_allclose(product, by_autograd(solver, states, params, w), rtol=1e-7, atol=1e-9)


def test_the_exact_step_is_recorded_by_autograd_and_takes_no_other() -> None:
    solver, states, params, w = logistic()
    start = torch.from_numpy(states.copy()).requires_grad_()
    advanced = vjp.Exact().differentiable_step(solver, start, torch.from_numpy(params))
    (product,) = torch.autograd.grad(advanced, start, torch.from_numpy(w))
    np.testing.assert_array_equal(product, by_autograd(solver, states, params, w))


def test_an_exact_loop_is_torch_s_own_rollout_bit_for_bit() -> None:
    solver, corrector, states = DifferentiableBurgers(), conv_corrector(), torch.from_numpy(initial_states(2))
    expected = states
    for _ in range(3):
        advanced = solver.differentiable_step(expected)
        expected = advanced + corrector(advanced)
    rollout = SolverLoop(solver, corrector, 3, "exact").rollout(states)
    gradients = [torch.autograd.grad(last.square().sum(), list(corrector.parameters())) for last in (expected, rollout[:, -1])]
    assert torch.equal(rollout[:, -1], expected)
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("method", [vjp.Detached(), vjp.StraightThrough(), vjp.Coloured()])
def test_other_products_record_no_step(method: vjp.VectorJacobianProduct) -> None:
    assert method.differentiable_step(Burgers(), torch.zeros(1, 1, 16), None) is None


def test_a_solver_without_gradient_has_no_exact_product() -> None:
    states = initial_states(1)
    with pytest.raises(
        ConfigError, match="solver 'burgers' offers no gradient: use a DifferentiableSolver for gradient='exact'"
    ):
        vjp.Exact().bind(Burgers())
    with pytest.raises(ConfigError, match="solver 'burgers' offers no gradient"):
        vjp.Exact().product(vjp.StepTaken(states, None, states), states, SolverProbe(Burgers()))


def test_a_step_that_leaves_the_finite_numbers_says_so() -> None:
    solver, states = LogisticSolver(), torch.full((1, 1, 16), 1e200, dtype=torch.float64)
    with pytest.raises(NonFiniteError, match="what solver 'logistic' returned must be finite, but it holds NaN or infinity"):
        vjp.Exact().differentiable_step(solver, states, torch.ones(1, 1, dtype=torch.float64))


def test_a_step_without_a_graph_is_refused() -> None:
    class Cut(DifferentiableSolver):
        spec = SolverSpec(name="cut", state_shape=(1, 4), dt=1.0, dtype="float64")

        def step(self, states: Array, params: Array | None = None) -> Array:
            return states

        def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
            return states.detach().clone()

    states = np.ones((1, 1, 4))
    with pytest.raises(ConfigError, match="the differentiable step of solver 'cut' has no gradient: look for detach"):
        vjp.Exact().product(vjp.StepTaken(states, None, states), states, SolverProbe(Cut()))
