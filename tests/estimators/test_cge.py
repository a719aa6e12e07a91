"""CGE against autograd over networks and schemes, masks, and what an estimate leaves alone."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from problems import (
    NETWORKS,
    Burgers,
    Counting,
    LogisticSolver,
    assert_untouched,
    autograd,
    burgers_oracle,
    conv_corrector,
    initial_states,
    model_oracle,
    mse,
    network,
    relative_error,
    snapshot,
)
from torch import nn

from deepzero_sim.common.types import Mask, Scheme
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.errors import ConfigError, DivergedError
from deepzero_sim.estimators import CGE, RGE, BackPropagation, Estimator
from deepzero_sim.estimators.sparsity import LayerRatios, RandomMask, ZOGraSP
from deepzero_sim.models import resnet20
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.oracle.model import ModelOracle

#: For each scheme a step, and how far from autograd it may be: its bias is of order `mu` or `mu^2`.
SCHEMES: dict[Scheme, tuple[float, float]] = {"forward": (1e-6, 1e-4), "central": (1e-4, 1e-6)}
BOTH = pytest.mark.parametrize("scheme", ["forward", "central"])


def half_mask(model: nn.Module) -> Mask:
    """About half the coordinates of every parameter but the last, which is not active at all."""
    generator = torch.Generator().manual_seed(3)
    masks = {name: torch.rand(p.shape, generator=generator) < 0.5 for name, p in model.named_parameters()}
    masks.popitem()
    next(iter(masks.values())).view(-1)[0] = True
    return masks


@BOTH
@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_autograd(name: str, scheme: Scheme) -> None:
    model, inputs = network(name)
    oracle, batch = model_oracle(model, inputs)
    before = snapshot(model)
    step_size, tolerance = SCHEMES[scheme]
    estimate = CGE(step_size, scheme).estimate(oracle, batch)
    again = CGE(step_size, scheme).estimate(oracle, batch)
    assert_untouched(model, before)
    assert relative_error(estimate.grads, autograd(oracle, batch)) < tolerance
    assert all(torch.equal(again.grads[key], estimate.grads[key]) for key in again.grads)
    count = sum(p.numel() for p in model.parameters())
    assert estimate.queries == 1 + count * (2 if scheme == "central" else 1)
    assert estimate.solver_steps == 0


@BOTH
@pytest.mark.parametrize("unroll", [1, 4])
def test_agrees_with_autograd_through_a_solver(scheme: Scheme, unroll: int) -> None:
    loop = SolverLoop(LogisticSolver(), conv_corrector(), unroll, gradient="exact")
    batch = initial_states(3), np.linspace(0.2, 1, 3)[:, None], initial_states(3 * unroll).reshape(3, unroll, 1, -1)
    step_size, tolerance = SCHEMES[scheme]
    estimate = CGE(step_size, scheme).estimate(LoopOracle(loop, mse), batch)
    expected = BackPropagation().estimate(LoopOracle(loop, mse), batch)
    assert relative_error(estimate.grads, expected.grads) < tolerance
    assert estimate.loss == pytest.approx(expected.loss, rel=1e-12)
    assert expected.solver_steps == 3 * unroll


@pytest.mark.parametrize(
    "estimator", [CGE(1e-6, "forward"), CGE(1e-4), BackPropagation()], ids=["forward", "central", "autograd"]
)
@pytest.mark.parametrize("name", ["conv2d", "linear", "transposed", "batch norm"])
def test_a_mask_keeps_active_coordinates_and_zeroes_the_rest(name: str, estimator: Estimator) -> None:
    model, inputs = network(name)
    oracle, batch = model_oracle(model, inputs)
    mask = half_mask(model)
    dense = estimator.estimate(copy.deepcopy(oracle), batch)
    sparse = estimator.estimate(copy.deepcopy(oracle), batch, mask=mask)
    assert set(sparse.grads) == set(dense.grads)
    for key, grad in sparse.grads.items():
        active = mask.get(key, torch.zeros_like(grad, dtype=torch.bool))
        torch.testing.assert_close(grad, dense.grads[key] * active, rtol=1e-6, atol=1e-9)
        assert not grad[~active].any()
    if isinstance(estimator, CGE):
        per_coordinate = 2 if estimator.scheme == "central" else 1
        assert sparse.queries == 1 + per_coordinate * sum(int(m.sum()) for m in mask.values())


ESTIMATORS = [CGE(), RGE(num_directions=2), BackPropagation()]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"nope": torch.ones(3, dtype=torch.bool)}, "the mask names 'nope', which the network does not train: it has 0.weight"),
        (
            {"0.weight": torch.ones(3, dtype=torch.bool)},
            r"must be a bool tensor of shape \(4, 5\), not torch.bool of shape \(3,\)",
        ),
        ({"0.bias": torch.ones(4)}, r"must be a bool tensor of shape \(4,\), not torch.float32 of shape \(4,\)"),
        ({"0.bias": torch.zeros(4, dtype=torch.bool)}, "leaves no coordinate active"),
        ({}, "leaves no coordinate active"),
        (5, "a mask must be a bool tensor for each parameter by name, not int"),
        ({1: torch.ones(4) > 0, "q": torch.ones(4) > 0}, "the mask names 1, which the network does not train"),
        ({"0.bias": (torch.ones(4) > 0).to_sparse()}, "the mask of '0.bias' must be a dense tensor with values"),
        ({"0.bias": torch.ones(4, device="meta") > 0}, "the mask of '0.bias' must be a dense tensor with values"),
        ({"0.bias": None}, "the mask of '0.bias' must be a bool tensor, not NoneType"),
    ],
)
def test_a_wrong_mask_is_refused_in_one_sentence(estimator: Estimator, mask: Mask, words: str) -> None:
    model, inputs = network("linear")
    oracle, batch = model_oracle(model, inputs)
    with pytest.raises(ConfigError, match=words) as caught:
        estimator.estimate(oracle, batch, mask=mask)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [CGE, RGE])
@pytest.mark.parametrize("step", [0.0, -1e-3, float("inf"), float("nan"), "a", None, 10**400])
def test_a_step_size_must_be_positive(make: type[CGE | RGE], step: float) -> None:
    with pytest.raises(ConfigError, match="step_size must be a positive number"):
        make(step)


@pytest.mark.parametrize("estimator", [CGE, RGE, ZOGraSP])
@pytest.mark.parametrize(("dtype", "step"), [(torch.float32, 1e-20), (torch.float32, 1e20), (torch.float64, 1e-160)])
def test_a_step_size_must_suit_the_numbers(estimator: type[CGE | RGE | ZOGraSP], dtype: torch.dtype, step: float) -> None:
    model, inputs = network("linear")
    oracle, batch = model_oracle(model.to(dtype), inputs.to(dtype))
    with pytest.raises(
        ConfigError, match=f"step_size must be from .* for parameters of {dtype}.*, not {re.escape(f'{step:g}')}"
    ):
        ask(estimator(step), oracle, batch)


@pytest.mark.parametrize("estimator", [CGE(1e18), RGE(1e18), ZOGraSP(1e18)], ids=lambda e: type(e).__name__)
def test_a_step_to_where_the_loss_is_not_finite_is_said(estimator: CGE | RGE | ZOGraSP) -> None:
    class Steep(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).pow(4)

    oracle, batch = model_oracle(Steep(3, 2), torch.randn(4, 3))
    with pytest.raises(DivergedError, match=r"slopes over steps of 1e\+18 are not: take a smaller step_size"):
        ask(estimator, oracle, batch)


@pytest.mark.parametrize("estimator", [CGE(), RGE(), ZOGraSP()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
@pytest.mark.filterwarnings("ignore:Complex modules")
def test_coarse_and_complex_numbers_are_refused(estimator: CGE | RGE | ZOGraSP, dtype: torch.dtype) -> None:
    oracle = ModelOracle(nn.Linear(3, 2).to(dtype), lambda outputs, targets: outputs.abs().float().mean())
    with pytest.raises(ConfigError, match=f"parameter 'weight' must be of float32 or float64 to be queried, not {dtype}"):
        ask(estimator, oracle, (torch.randn(4, 3, dtype=dtype), torch.zeros(4)))


def ask(estimator: Estimator | LayerRatios, oracle: ModelOracle, batch: Any) -> object:
    if isinstance(estimator, LayerRatios):
        return estimator.densities(oracle, batch, 0.5)
    return estimator.estimate(oracle, batch)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_an_estimator_asks_oracles_only(estimator: Estimator) -> None:
    with pytest.raises(ConfigError, match=r"an estimator asks a dz\.ModelOracle or dz\.LoopOracle, not Linear"):
        estimator.estimate(nn.Linear(3, 2), (torch.zeros(1, 3), torch.zeros(1, 2)))  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.LazyLinear(2), "parameter 'weight' of the network LazyLinear has no values yet"),
        (nn.Linear(3, 2, device="meta"), "parameter 'weight' of the network Linear has no values yet"),
        (nn.ParameterList([nn.Parameter(torch.empty(0))]), "ParameterList has no parameters to train"),
    ],
    ids=["lazy", "meta", "empty"],
)
def test_parameters_without_values_are_refused(estimator: Estimator, model: nn.Module, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        estimator.estimate(ModelOracle(model, F.mse_loss), (torch.zeros(1, 3), torch.zeros(1, 2)))


@pytest.mark.parametrize("count", [0, -1, 1.5, float("inf"), float("nan"), "a", None])
def test_directions_are_counted_in_whole_numbers(count: Any) -> None:
    with pytest.raises(ConfigError, match="num_directions must be a positive whole number"):
        RGE(num_directions=count)


@pytest.mark.parametrize("seed", [-1, 1.5, "a", None, 2**63, float("nan")])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    model, inputs = network("linear")
    with pytest.raises(ConfigError, match=r"a seed must be a whole number from 0 to below 2\*\*63, not"):
        RGE(num_directions=2).estimate(*model_oracle(model, inputs), seed=seed)
    with pytest.raises(ConfigError, match="a seed must be a whole number"):
        RandomMask(0.5, seed=seed)


def test_settings_are_checked() -> None:
    for make in (CGE, RGE):
        with pytest.raises(ConfigError, match="scheme must be one of forward, central, not 'backward'"):
            make(scheme="backward")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="num_directions must be a positive whole number"):
        RGE(num_directions=0)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_nothing_to_train_and_a_diverged_loss_are_said(estimator: Estimator) -> None:
    model, inputs = network("linear")
    oracle, (_, targets) = model_oracle(model, inputs)
    with pytest.raises(DivergedError, match="the loss must be finite, got nan"):
        estimator.estimate(oracle, (inputs * np.nan, targets))
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="Sequential has no parameters to train"):
        estimator.estimate(oracle, (inputs, targets))


@pytest.mark.slow
def test_all_of_resnet20_agrees_with_autograd() -> None:
    """All 269,722 coordinates, in training mode."""
    model, batch = resnet20(), (torch.randn(2, 3, 8, 8), torch.randint(10, (2,)))
    oracle = ModelOracle(model, F.cross_entropy)
    estimate, exact = CGE(1e-6, "forward").estimate(oracle, batch), BackPropagation().estimate(oracle, batch)
    assert estimate.queries == 1 + 269_722
    for name, gradient in exact.grads.items():
        assert float((estimate.grads[name] - gradient).norm()) < 1e-3 * float(gradient.norm()), name
    assert relative_error(estimate.grads, exact.grads) < 1e-4


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_frozen_parameters_are_left_out(estimator: Estimator) -> None:
    model, inputs = network("linear")
    model.get_parameter("0.weight").requires_grad_(False)
    oracle, batch = model_oracle(model, inputs)
    estimate = estimator.estimate(oracle, batch)
    assert list(estimate.grads) == ["0.bias", "2.weight", "2.bias"]


def test_weights_in_another_memory_format_give_the_same_gradient() -> None:
    model, inputs = network("conv2d")
    oracle, batch = model_oracle(model, inputs)
    expected = autograd(oracle, batch)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert relative_error(CGE(1e-4).estimate(oracle, batch).grads, expected) < 1e-6
    strided = nn.Sequential(nn.ConvTranspose2d(2, 2, 2)).double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    oracle, batch = model_oracle(strided, inputs)
    assert relative_error(CGE(1e-4).estimate(oracle, batch).grads, autograd(oracle, batch)) < 1e-6


class LateZero(nn.Module):
    """Batch norm before a last layer of zeros, as in an untrained corrector: nothing before it has an effect yet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv1d(1, 2, 3, padding=1), nn.BatchNorm1d(2), nn.Conv1d(2, 1, 1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(torch.tanh(self.norm(self.first(x))))
        return result


def test_a_network_is_followed_after_a_layer_of_zeros_was_trained() -> None:
    model = LateZero().double()
    oracle, batch = model_oracle(model, torch.randn(4, 1, 8, dtype=torch.float64))
    CGE(1e-4).estimate(oracle, batch)
    nn.init.normal_(model.last.weight)
    assert relative_error(CGE(1e-4).estimate(oracle, batch).grads, autograd(oracle, batch)) < 1e-6


def test_a_network_is_followed_from_evaluation_to_training() -> None:
    model, inputs = network("batch norm, fixed")
    oracle, batch = model_oracle(model, inputs)
    fixed = CGE(1e-4).estimate(oracle, batch)
    model.train()
    estimate = CGE(1e-4).estimate(oracle, batch)
    assert relative_error(estimate.grads, autograd(oracle, batch)) < 1e-6
    assert relative_error(estimate.grads, fixed.grads) > 1e-2


def test_running_statistics_of_instance_norm_stay() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.InstanceNorm1d(2, track_running_stats=True), nn.Conv1d(2, 1, 1)).double()
    oracle, batch = model_oracle(model, torch.randn(3, 1, 8, dtype=torch.float64))
    before = snapshot(model)
    estimate = CGE(1e-4).estimate(oracle, batch)
    assert_untouched(model, before)
    assert relative_error(estimate.grads, autograd(oracle, batch)) < 1e-6


@pytest.mark.parametrize("unroll", [1, 3])
@pytest.mark.parametrize("known", [False, True], ids=["", "first step known"])
def test_solver_steps_are_counted_as_they_are_taken(unroll: int, known: bool) -> None:
    solver = Counting(Burgers())
    oracle, batch = burgers_oracle(batch=4, unroll=unroll, solver=solver)
    if known:
        batch = (*batch, Burgers().step(batch[0]))
    estimate = CGE().estimate(oracle, batch)
    assert estimate.queries == 2 * sum(p.numel() for p in oracle.model.parameters()) + 1
    assert estimate.solver_steps == solver.states == estimate.queries * (unroll - 1) * 4 + (0 if known else 4)
    for estimator in (RGE(num_directions=3), BackPropagation()):
        solver.states = 0
        estimate = estimator.estimate(oracle, batch)
        assert estimate.solver_steps == solver.states == estimate.queries * (unroll - 1) * 4 + (0 if known else 4)


@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_float32_is_close(scheme: Scheme) -> None:
    oracle, batch = burgers_oracle(corrector=conv_corrector().float())
    exact = copy.deepcopy(oracle)
    exact.model.double()
    estimate = CGE(1e-3, scheme).estimate(oracle, batch)
    assert all(g.dtype == torch.float32 for g in estimate.grads.values())
    assert relative_error(estimate.grads, CGE(1e-4).estimate(exact, batch).grads) < 2e-2
