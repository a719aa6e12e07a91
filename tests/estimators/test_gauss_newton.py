"""Gauss-Newton steps against those of autograd's Jacobian, over networks and losses; what is kept, dropped and refused."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from problems import (
    NETWORKS,
    Burgers,
    DifferentiableBurgers,
    FailingBurgers,
    LogisticSolver,
    assert_untouched,
    conv_corrector,
    initial_states,
    mse,
    network,
    snapshot,
)
from torch import nn
from training_cases import assert_same_tensors, line_data, tensors, train_killed_after, train_settings

import deepzero_sim as dz
from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Mask, NamedTensors, Scheme
from deepzero_sim.estimators.gauss_newton import FLOOR
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.oracle.residuals import ResidualRequest, residual_model
from deepzero_sim.training.runs.training import train

#: Steps of queries for each scheme, and how far from autograd they may be: the bias is of order `mu` or `mu^2`.
SCHEMES: dict[Scheme, tuple[float, float]] = {"forward": (1e-7, 1e-5), "central": (1e-5, 1e-6)}
DAMPING = 0.1


def flat(tensors: NamedTensors) -> torch.Tensor:
    return torch.cat([one.flatten() for one in tensors.values()])


def step_of(estimate: dz.GradientEstimate) -> torch.Tensor:
    return -flat(estimate.grads)


def damped(curvature: torch.Tensor, gradient: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """The step of a curvature and a gradient, by another solver."""
    diagonal = curvature.diagonal()
    return -torch.linalg.solve(curvature + torch.diag(damping * (diagonal + FLOOR * diagonal.mean())), gradient)


def by_autograd(
    outputs: Callable[[NamedTensors], torch.Tensor], loss: Callable[[torch.Tensor], torch.Tensor], parameters: NamedTensors
) -> tuple[torch.Tensor, torch.Tensor]:
    """The Gauss-Newton curvature `J^T H J` of a loss of outputs, and its gradient, all by autograd."""
    sizes = [p.numel() for p in parameters.values()]

    def of_vector(vector: torch.Tensor) -> torch.Tensor:
        parts = torch.split(vector, sizes)
        return outputs({name: part.view(p.shape) for (name, p), part in zip(parameters.items(), parts, strict=True)})

    at = flat(parameters).detach()
    z = of_vector(at).detach()
    jacobian = torch.autograd.functional.jacobian(of_vector, at).reshape(-1, len(at))
    hessian = torch.autograd.functional.hessian(lambda v: loss(v.view(z.shape)), z.flatten())
    gradient = torch.autograd.functional.jacobian(lambda v: loss(of_vector(v)), at)
    return jacobian.T @ hessian @ jacobian, gradient


def of_network(model: nn.Module, inputs: torch.Tensor) -> Callable[[NamedTensors], torch.Tensor]:
    return lambda named: torch.func.functional_call(model, named, (inputs,))


CLASSES = {"mse": F.mse_loss, "nn.MSELoss": nn.MSELoss(), "logits": F.cross_entropy, "probabilities": nn.CrossEntropyLoss()}


def targets_of(loss: str, outputs: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    if loss in ("mse", "nn.MSELoss"):
        return torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
    if loss == "probabilities":
        return torch.rand(outputs.shape, generator=generator, dtype=torch.float64).softmax(1)
    return torch.randint(outputs.shape[1], outputs.movedim(1, -1).shape[:-1], generator=generator)


@pytest.mark.parametrize("scheme", ["forward", "central"])
@pytest.mark.parametrize("loss", CLASSES)
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "scalar"])
def test_a_step_is_that_of_autograds_jacobian(name: str, loss: str, scheme: Scheme) -> None:
    torch.manual_seed(2)
    model, inputs = network(name)
    with torch.no_grad():
        outputs = copy.deepcopy(model)(inputs)
    if outputs.shape[1] == 1 and loss in ("logits", "probabilities"):
        pytest.skip("of one class there is nothing to learn")
    targets = targets_of(loss, outputs)
    before = snapshot(model)
    mu, tolerance = SCHEMES[scheme]
    estimator = dz.GaussNewton(DAMPING, 0.0, mu, scheme)
    estimate = estimator.estimate(dz.ModelOracle(model, CLASSES[loss]), (inputs, targets))
    assert_untouched(model, before)
    measure = CLASSES[loss]
    expected = damped(*by_autograd(of_network(model, inputs), lambda z: measure(z, targets), trainable(model)))
    assert float((step_of(estimate) - expected).norm()) <= tolerance * float(expected.norm())
    count = sum(p.numel() for p in model.parameters())
    assert (estimate.queries, estimate.solver_steps) == (1 + count * (2 if scheme == "central" else 1), 0)
    assert estimate.loss == pytest.approx(float(measure(outputs, targets)), rel=1e-12)


def loop_case(unroll: int = 4, **options: Any) -> tuple[dz.LoopOracle, tuple[Any, ...], dz.SolverLoop]:
    torch.manual_seed(0)
    loop = dz.SolverLoop(LogisticSolver(), conv_corrector(), unroll, gradient="exact")
    references = initial_states(3 * unroll, seed=1).reshape(3, unroll, 1, -1)
    batch = initial_states(3), np.linspace(0.2, 1, 3)[:, None], references
    return dz.LoopOracle(loop, F.mse_loss, **options), batch, loop


def curvature_of_loop(loop: dz.SolverLoop, batch: tuple[Any, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    states, params, references = (torch.as_tensor(one) for one in batch)
    parameters = trainable(loop.model)

    def rollout(named: NamedTensors) -> torch.Tensor:
        for name, value in named.items():  # tensors that autograd follows take the places of parameters
            module, _, key = name.rpartition(".")
            place = loop.model.get_submodule(module)
            place.__dict__[key] = value
            place._parameters.pop(key, None)
        return loop.rollout(states, params)

    kept = {name: p.detach().clone() for name, p in parameters.items()}
    found = by_autograd(rollout, lambda z: F.mse_loss(z, references), kept)
    for name, value in kept.items():
        module, _, key = name.rpartition(".")
        place = loop.model.get_submodule(module)
        place.__dict__.pop(key)
        place.register_parameter(key, nn.Parameter(value))
    return found


@pytest.mark.parametrize("unroll", [1, 4])
def test_a_step_through_a_solver_is_that_of_autograds_jacobian_for_the_steps_of_cge(unroll: int) -> None:
    oracle, batch, loop = loop_case(unroll)
    estimate = dz.GaussNewton(DAMPING, 0.0, 1e-7).estimate(oracle, batch)
    cge = dz.CGE(1e-7, "forward").estimate(oracle, batch)
    assert (estimate.queries, estimate.solver_steps) == (cge.queries, cge.solver_steps)
    expected = damped(*curvature_of_loop(loop, batch))
    assert float((step_of(estimate) - expected).norm()) < 1e-6 * float(expected.norm())


def test_a_mask_is_a_step_of_the_active_coordinates_alone() -> None:
    oracle, batch, loop = loop_case()
    generator = torch.Generator().manual_seed(3)
    mask: Mask = {name: torch.rand(p.shape, generator=generator) < 0.5 for name, p in trainable(loop.model).items()}
    mask.pop(next(iter(mask)))
    estimate = dz.GaussNewton(DAMPING, 0.0, 1e-7).estimate(oracle, batch, mask)
    none = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in trainable(loop.model).items()}
    active = flat(none | mask)
    curvature, gradient = curvature_of_loop(loop, batch)
    expected = torch.zeros_like(gradient)
    expected[active] = damped(curvature[active][:, active], gradient[active])
    assert float((step_of(estimate) - expected).norm()) < 1e-6 * float(expected.norm())


def test_blocks_are_steps_of_their_own_coordinates() -> None:
    oracle, batch, loop = loop_case()
    curvature, gradient = curvature_of_loop(loop, batch)
    estimate = dz.GaussNewton(DAMPING, 0.0, 1e-7, block=7).estimate(oracle, batch)
    parts = [slice(start, start + 7) for start in range(0, len(gradient), 7)]
    expected = torch.cat([damped(curvature[part, part], gradient[part]) for part in parts])
    assert float((step_of(estimate) - expected).norm()) < 1e-6 * float(expected.norm())
    assert estimate.solver_steps == dz.GaussNewton(DAMPING, 0.0, 1e-7).estimate(oracle, batch).solver_steps


def test_curvature_is_a_mean_over_batches() -> None:
    oracle, batch, loop = loop_case()
    other = (batch[0][::-1].copy(), batch[1], 0.5 * batch[2])
    (first, _), (second, gradient) = curvature_of_loop(loop, batch), curvature_of_loop(loop, other)
    estimator = dz.GaussNewton(DAMPING, 0.8, 1e-7)
    estimator.estimate(oracle, batch)
    found = step_of(estimator.estimate(oracle, other))
    expected = damped((0.8 * 0.2 * first + 0.2 * second) / (0.8 * 0.2 + 0.2), gradient)
    assert float((found - expected).norm()) < 1e-6 * float(expected.norm())
    restored = dz.GaussNewton(DAMPING, 0.8, 1e-7)
    restored.load_state_dict(estimator.state_dict())
    assert torch.equal(step_of(restored.estimate(oracle, batch)), step_of(estimator.estimate(oracle, batch)))


def test_curvature_begins_anew_where_other_coordinates_are_active() -> None:
    oracle, batch, loop = loop_case()
    kept, fresh = dz.GaussNewton(DAMPING, 0.8, 1e-7), dz.GaussNewton(DAMPING, 0.8, 1e-7)
    name = next(iter(trainable(loop.model)))
    some = {name: torch.ones_like(trainable(loop.model)[name], dtype=torch.bool)}
    kept.estimate(oracle, batch)
    assert torch.equal(step_of(kept.estimate(oracle, batch, some)), step_of(fresh.estimate(oracle, batch, some)))


def test_a_sketch_of_all_residuals_is_near_and_one_of_more_is_the_same() -> None:
    oracle, batch, _ = loop_case()
    exact = step_of(dz.GaussNewton(DAMPING, 0.0, 1e-7).estimate(oracle, batch))
    residuals = 3 * 4 * batch[0].shape[-1]
    assert torch.equal(step_of(dz.GaussNewton(DAMPING, 0.0, 1e-7, sketch=residuals).estimate(oracle, batch)), exact)
    near = [step_of(dz.GaussNewton(DAMPING, 0.0, 1e-7, sketch=96).estimate(oracle, batch, seed=s)) for s in range(8)]
    assert len(exact) < 96 < residuals
    assert all(float(F.cosine_similarity(one, exact, dim=0)) > 0.5 for one in near)
    assert float(F.cosine_similarity(torch.stack(near).mean(0), exact, dim=0)) > 0.9
    assert not torch.equal(near[0], near[1])


@pytest.mark.parametrize("size", [3, 50])
def test_a_sketch_keeps_products_on_average(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 200, generator=generator, dtype=torch.float64)
    found = [float(ResidualRequest(size, s).project(a) @ ResidualRequest(size, s).project(b)) for s in range(4000)]
    spread = float(np.std(found)) / len(found) ** 0.5
    assert abs(np.mean(found) - float(a @ b)) < 4 * spread


def test_workers_change_no_bit() -> None:
    serial, batch, _ = loop_case(queries_per_chunk=5)
    expected = step_of(dz.GaussNewton(DAMPING, 0.0, 1e-7).estimate(serial, batch))
    with open_executor("process", 2) as executor:
        oracle, _, _ = loop_case(queries_per_chunk=5, executor=executor)
        found = dz.GaussNewton(DAMPING, 0.0, 1e-7).estimate(oracle, batch)
    assert torch.equal(step_of(found), expected)


def test_dropped_coordinates_are_left_out_of_the_equations() -> None:
    batch = initial_states(2), None, 0.1 * np.random.default_rng(1).normal(size=(2, 4, 1, initial_states(1).shape[-1]))

    def found(limit: float) -> dz.GradientEstimate:
        torch.manual_seed(0)
        loop = dz.SolverLoop(FailingBurgers(limit), conv_corrector(), 4, on_failure="drop")
        return dz.GaussNewton(DAMPING, 0.0, 0.3).estimate(dz.LoopOracle(loop, F.mse_loss), batch)

    limit = 8.0
    while not (some := found(limit)).dropped:
        limit *= 0.998
    whole = found(np.inf)
    lost = step_of(some) == 0
    assert 1 <= int(lost.sum()) == some.dropped < len(lost) and bool((step_of(whole) != 0).all())
    assert some.queries == whole.queries and {one.action for one in some.incidents} == {"dropped"}


@pytest.mark.parametrize("optimiser", [None, Component("torch.optim.SGD", {"lr": 0.5, "momentum": 0.9})])
def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path: Path, optimiser: Component | None) -> None:
    data = line_data(tmp_path / "line.h5")
    named = optimiser or Component("torch.optim.Adam", {"lr": "suitable"})
    settings = train_settings(
        tmp_path / "whole", data, estimator=Component("GaussNewton", {"decay": 0.7}), optimiser=named, checkpoint_every=1
    )
    train(settings)
    train_killed_after(replace(settings, run=tmp_path / "broken"), 2)
    assert_same_tensors(tensors(tmp_path / "whole"), tensors(tmp_path / "broken"))
    assert any(name.startswith("estimator.curvature") for name in tensors(tmp_path / "whole"))


def test_it_follows_a_loss_further_than_a_gradient_does(tmp_path: Path) -> None:
    data = line_data(tmp_path / "line.h5")
    ours = train_settings(tmp_path / "gn", data, estimator=Component("GaussNewton"), updates=12)
    steps = train(replace(ours, optimiser=Component("torch.optim.SGD", {"lr": 1.0})))
    theirs = train_settings(tmp_path / "cge", data, updates=12)
    slopes = train(replace(theirs, optimiser=Component("torch.optim.Adam", {"lr": 0.01})))
    assert steps.loss < 0.5 * slopes.loss


def test_what_cannot_be_used_is_said_in_a_sentence() -> None:
    oracle, batch, loop = loop_case()
    for arguments, words in (
        ({"damping": 0.0}, "damping must be a positive number, not 0.0"),
        ({"decay": 1.0}, "decay must be a number from 0 to below 1, not 1.0"),
        ({"block": 0}, "block must be a positive whole number of coordinates, not 0"),
        ({"sketch": 0}, "sketch must be a positive whole number of sums, or None, not 0"),
        ({"memory": 0}, "memory must be a positive whole number of bytes, not 0"),
        ({"scheme": "backward"}, "scheme must be one of forward, central, not 'backward'"),
    ):
        with pytest.raises(dz.ConfigError, match=re.escape(words)):
            dz.GaussNewton(**arguments)  # type: ignore[arg-type]
    with pytest.raises(
        dz.ConfigError,
        match=r"slopes of 192 residuals along \d+ coordinates must fit into memory, 1.0 kB, not",
    ):
        dz.GaussNewton(memory=1000).estimate(oracle, batch)
    without = dz.LoopOracle(loop, mse)
    with pytest.raises(dz.ConfigError, match=r"loss mse has no residuals, .* give it a method residuals\(outputs, targets\)"):
        dz.GaussNewton().estimate(without, batch)
    for loss, key in (
        (nn.CrossEntropyLoss(label_smoothing=0.1), "label_smoothing"),
        (nn.MSELoss(reduction="sum"), "reduction"),
    ):
        with pytest.raises(dz.ConfigError, match=f"are known for {key}"):
            residual_model(loss)
    with pytest.raises(dz.ConfigError, match="need a class for every sample"):
        residual_model(F.cross_entropy).base(torch.randn(2, 3), torch.tensor([0, -100]))
    with pytest.raises(dz.ConfigError, match="the state of a GaussNewton must hold 'coordinates'"):
        dz.GaussNewton().load_state_dict({"slopes": torch.zeros(2)})


def test_the_models_change_of_a_loss_is_that_of_the_loss_to_second_order() -> None:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    moved = 1e-3 * torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    for name, loss in CLASSES.items():
        targets, model = targets_of(name, z), residual_model(loss)
        found = model.changes(z, targets, moved)
        predicted = found @ model.base(z, targets) + found.square().sum(1) / 2
        expected = torch.stack([loss(z + one, targets) - loss(z, targets) for one in moved])
        torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=1e-10)


def test_a_solver_of_its_own_gradient_changes_nothing() -> None:
    found = []
    for solver in (Burgers(), DifferentiableBurgers()):
        torch.manual_seed(0)
        loop = dz.SolverLoop(solver, conv_corrector(), 2)
        batch = initial_states(2), None, np.zeros((2, 2, 1, initial_states(1).shape[-1]))
        found.append(step_of(dz.GaussNewton().estimate(dz.LoopOracle(loop, F.mse_loss), batch)))
    assert torch.equal(*found)


def test_the_same_positions_of_another_parameter_are_other_coordinates() -> None:
    oracle, batch, loop = loop_case()
    first, second = [name for name, p in trainable(loop.model).items() if p.dim() == 3][:2]

    def some(name: str) -> Mask:
        parameter = trainable(loop.model)[name]
        return {name: (torch.arange(parameter.numel()) < 4).view(parameter.shape)}

    kept = dz.GaussNewton(DAMPING, 0.8, 1e-7)
    kept.estimate(oracle, batch, some(first))
    fresh = dz.GaussNewton(DAMPING, 0.8, 1e-7).estimate(oracle, batch, some(second))
    assert torch.equal(step_of(kept.estimate(oracle, batch, some(second))), step_of(fresh))
