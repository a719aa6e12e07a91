"""First-order GraSP: its product of Hessian and gradient is the exact one."""

from __future__ import annotations

import pytest
import torch
from problems import POINTS, Burgers, LinearSolver, LogisticSolver, conv_corrector, initial_states, model_oracle, mse
from quadratic import Quadratic
from torch import nn
from torch.autograd.functional import hessian

from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators import BackPropagation
from deepzero_sim.estimators.sparsity import GraSP
from deepzero_sim.oracle.base import Loss
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.oracle.model import ModelOracle


def test_the_product_of_a_quadratic_is_known() -> None:
    quadratic = Quadratic()
    found = GraSP().hessian_gradient(quadratic.oracle, quadratic.batch)
    assert torch.allclose(quadratic.joined(found.values), quadratic.product, rtol=1e-12)
    assert found.queries == 1 and found.solver_steps == 0


def test_only_the_block_of_the_scored_weights_counts() -> None:
    """Biases lend neither their gradient nor their rows of the Hessian: with `H` and `g` of the weight alone."""
    network = nn.Linear(4, 1).double()
    inputs, targets = torch.randn(7, 4, dtype=torch.float64), torch.randn(7, 1, dtype=torch.float64)
    weight, bias = (p.detach() for p in network.parameters())

    def loss(w: torch.Tensor) -> torch.Tensor:
        return mse(nn.functional.linear(inputs, w[None], bias), targets)

    (gradient,) = torch.autograd.grad(loss(leaf := weight[0].clone().requires_grad_()), leaf)
    found = GraSP().hessian_gradient(ModelOracle(network, mse), (inputs, targets)).values
    assert list(found) == ["weight"]
    assert torch.allclose(found["weight"][0], hessian(loss, weight[0]) @ gradient, rtol=1e-12)  # type: ignore[no-untyped-call]


def test_a_loss_that_is_linear_in_the_weights_has_no_product() -> None:
    network = nn.Linear(3, 2, bias=False)
    oracle = ModelOracle(network, lambda outputs, targets: outputs.mean())
    found = GraSP().hessian_gradient(oracle, (torch.randn(4, 3), torch.zeros(4)))
    assert torch.equal(found.values["weight"], torch.zeros(2, 3))
    assert GraSP().densities(oracle, (torch.randn(4, 3), torch.zeros(4)), 0.5).by_layer == {"weight": 0.5}


def test_a_weight_that_the_loss_does_not_see_has_no_product() -> None:
    quadratic = Quadratic()
    oracle = ModelOracle(quadratic.model, lambda outputs, targets: mse(quadratic.model.a(quadratic.inputs[:, :3]), targets))
    found = GraSP().hessian_gradient(oracle, quadratic.batch).values
    assert found["a.weight"].abs().min() > 0 and torch.equal(found["b.weight"], torch.zeros(1, 5, dtype=torch.float64))


def test_through_a_differentiable_solver_the_product_is_that_of_the_whole_loop() -> None:
    corrector, solver = conv_corrector(2), LogisticSolver()
    oracle = LoopOracle(SolverLoop(solver, corrector, 3, "exact"), mse)
    rate, references = torch.full((2, 1), 0.7, dtype=torch.float64), 0.1 * torch.randn(2, 3, 1, POINTS, dtype=torch.float64)
    batch = (torch.from_numpy(initial_states(2)), rate, references)
    found = GraSP().hessian_gradient(oracle, batch)
    assert found.solver_steps == 2 * 3

    def gradient() -> list[torch.Tensor]:
        grads = BackPropagation().estimate(oracle, batch).grads
        return [grads[name] for name in found.values]

    weights = [corrector.get_parameter(name) for name in found.values]
    direction, change = gradient(), []
    for sign in (1, -1):
        with torch.no_grad():
            for weight, along in zip(weights, direction, strict=True):
                weight.add_(along, alpha=sign * 1e-4)
        change.append(gradient())
        with torch.no_grad():
            for weight, along in zip(weights, direction, strict=True):
                weight.sub_(along, alpha=sign * 1e-4)
    for product, plus, minus in zip(found.values.values(), *change, strict=True):
        assert torch.allclose(product, (plus - minus) / 2e-4, rtol=1e-5, atol=1e-8)


def test_a_detached_solver_is_taken_as_constant() -> None:
    """One step of a linear solver: what it returns is the same for the loop and for a solver that is not differentiated."""
    matrix = torch.eye(POINTS, dtype=torch.float64).numpy() * 0.5
    products = []
    for gradient in ("detached", "exact"):
        torch.manual_seed(1)
        loop = SolverLoop(LinearSolver(matrix), conv_corrector(2), 1, gradient)  # type: ignore[arg-type]
        references = torch.zeros(2, 1, 1, POINTS, dtype=torch.float64)
        found = GraSP().hessian_gradient(LoopOracle(loop, mse), (initial_states(2), None, references))
        products.append(found.values)
    assert all(torch.allclose(products[0][name], products[1][name]) for name in products[0])


class Once(torch.autograd.Function):
    """The identity, which can be differentiated once."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0]


@pytest.mark.parametrize(
    "loss",
    [
        lambda outputs, targets: mse(Once.apply(outputs), targets),  # type: ignore[no-untyped-call]
        lambda outputs, targets: mse(2 * Once.apply(outputs).exp(), targets) + outputs.square().sum(),  # type: ignore[no-untyped-call]
        lambda outputs, targets: torch.cdist(outputs, targets).sum(),
    ],
)
def test_a_loss_that_cannot_be_differentiated_twice_is_said(loss: Loss) -> None:
    network = nn.Linear(3, 2)
    oracle, batch = model_oracle(network, torch.randn(4, 3))
    assert GraSP().densities(oracle, batch, 0.5)
    with pytest.raises(ConfigError, match=r"part of it can be differentiated only once.*: take ZO-GraSP"):
        GraSP().densities(ModelOracle(network, loss), batch, 0.5)


def test_a_loss_without_a_gradient_is_said() -> None:
    network = nn.Linear(3, 2)
    flat = ModelOracle(network, lambda outputs, targets: mse(outputs.detach(), targets))
    with pytest.raises(ConfigError, match="the loss has no gradient: look for detach"):
        GraSP().densities(flat, (torch.randn(4, 3), torch.zeros(4, 2)), 0.5)


def test_an_opaque_solver_is_not_differentiated() -> None:
    loop = SolverLoop(Burgers(), conv_corrector(2), 3)
    batch = (initial_states(2), None, torch.zeros(2, 3, 1, POINTS, dtype=torch.float64))
    assert GraSP().densities(LoopOracle(loop, mse), batch, 0.5).solver_steps == 2 * 3
