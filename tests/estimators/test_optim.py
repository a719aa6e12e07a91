"""Estimators as optimisers with a closure: the same as by an oracle, groups, schedules, states, and what cannot be used."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import network, snapshot
from torch import nn

import deepzero_sim as dz
from deepzero_sim.oracle.parameters import trainable

OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "CGE": lambda params: dz.optim.CGE(params, 0.05, step_size=1e-5),
    "RGE": lambda params: dz.optim.RGE(params, 0.05, num_directions=20),
    "CoCD": lambda params: dz.optim.CoCD(params, 0.05, budget=6),
    "GaussNewton": dz.optim.GaussNewton,
    "EKI": lambda params: dz.optim.EKI(params, members=12),
    "EvolutionStrategies": lambda params: dz.optim.EvolutionStrategies(params, 1e-2, num_directions=20),
}


ESTIMATORS: dict[str, Callable[[], dz.Estimator]] = {
    "CGE": lambda: dz.CGE(1e-5),
    "RGE": lambda: dz.RGE(1e-4, 5),
    "CoCD": lambda: dz.CoCD(5, step_size=1e-5),
    "GaussNewton": lambda: dz.GaussNewton(scheme="central"),
    "EKI": lambda: dz.EKI(6),
    "EvolutionStrategies": lambda: dz.EvolutionStrategies(num_directions=9),
    "RGE of rows": lambda: dz.RGE(1e-5, 9, directions="rows"),
}


def case(name: str = "linear") -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    model, inputs = network(name)
    with torch.no_grad():
        targets = torch.randn_like(model(inputs))
    return model, inputs, targets


def residuals(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: (model(inputs) - targets).flatten() / targets.numel() ** 0.5


@pytest.mark.parametrize("name", ["linear", "conv2d", "tied"])
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_an_estimate_is_that_of_an_oracle(name: str, kind: str) -> None:
    model, inputs, targets = case(name)
    before = snapshot(model)
    estimator, other = ESTIMATORS[kind](), ESTIMATORS[kind]()
    found = dz.optim.fill_gradients(model.parameters(), residuals(model, inputs, targets), estimator, seed=4)
    for key, value in snapshot(model).items():
        assert torch.equal(value, before[key])
    expected = other.estimate(dz.ModelOracle(model, nn.functional.mse_loss), (inputs, targets), seed=4)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12) and found.queries == expected.queries
    for p, grad in zip(trainable(model).values(), expected.grads.values(), strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_losses_fall_and_a_restored_state_goes_on_with_the_same_bits(name: str) -> None:
    model, inputs, targets = case()
    optimiser = OPTIMISERS[name](model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 4, 0.5)
    losses = []
    for _ in range(6):
        losses.append(float(optimiser.step(residuals(model, inputs, targets))))  # type: ignore[arg-type]
        schedule.step()
    assert losses[-1] < losses[0] and optimiser.param_groups[0]["lr"] < optimiser.param_groups[0]["initial_lr"]
    other = copy.deepcopy(model)
    restored = OPTIMISERS[name](other.parameters())
    restored.load_state_dict(optimiser.state_dict())
    for one, net in ((optimiser, model), (restored, other)):
        for _ in range(2):
            one.step(residuals(net, inputs, targets))  # type: ignore[arg-type]
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_groups_have_rates_of_their_own_and_what_is_fixed_stays() -> None:
    model, inputs, targets = case()
    first, *others = model.parameters()
    others[-1].requires_grad_(False)
    before = [p.detach().clone() for p in model.parameters()]
    optimiser = dz.optim.CGE([{"params": [first], "lr": 0.0}, {"params": others}], 0.1)
    optimiser.step(residuals(model, inputs, targets))
    moved = [not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)]
    assert moved == [False, *[True] * (len(others) - 1), False]


def test_a_closure_of_a_loss_alone_is_enough_for_gradients() -> None:
    model, inputs, targets = case()
    optimiser = dz.optim.CGE(model.parameters(), 0.05, step_size=1e-5)
    before = float(residuals(model, inputs, targets)().detach().square().sum())
    loss = optimiser.step(lambda: nn.functional.mse_loss(model(inputs), targets))
    assert float(loss) == pytest.approx(before, rel=1e-12)
    with pytest.raises(dz.ConfigError, match="needs the residuals of the loss, but the closure returns the loss alone"):
        dz.optim.GaussNewton(model.parameters()).step(lambda: nn.functional.mse_loss(model(inputs), targets))


def test_what_cannot_be_used_is_said_in_a_sentence() -> None:
    model, inputs, targets = case()
    optimiser = dz.optim.CGE(model.parameters())
    with pytest.raises(dz.ConfigError, match=r"step of dz\.optim\.CGE needs a closure"):
        optimiser.step()
    with pytest.raises(dz.ConfigError, match=r"the closure must return a loss, .* not float"):
        optimiser.step(lambda: 3.0)  # type: ignore[arg-type,return-value]
    with pytest.raises(dz.ConfigError, match=r"not torch\.float64 of shape \(3, 2\)"):
        optimiser.step(lambda: model(inputs))
    with pytest.raises(dz.ConfigError, match="returns other numbers when it is called again"):
        optimiser.step(lambda: nn.functional.mse_loss(model(inputs), targets) * torch.rand(()))
    with pytest.raises(dz.DivergedError, match="the loss must be finite"):
        optimiser.step(lambda: nn.functional.mse_loss(model(inputs), targets * torch.nan))
    with pytest.raises(dz.ConfigError, match=r"the state of dz\.optim\.CGE must hold estimator, updates"):
        optimiser.load_state_dict(torch.optim.SGD(model.parameters(), 0.1).state_dict())
    with pytest.raises(TypeError, match="budget"):
        dz.optim.CGE(model.parameters(), budget=3)


def test_a_query_that_fails_leaves_the_parameters_as_they_were() -> None:
    model, inputs, targets = case()
    before = snapshot(model)
    calls: list[int] = []

    def closure() -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("lost")
        return nn.functional.mse_loss(model(inputs), targets)

    with pytest.raises(RuntimeError, match="lost"):
        dz.optim.CGE(model.parameters()).step(closure)
    for key, value in snapshot(model).items():
        assert torch.equal(value, before[key])
