"""Perturbed networks: the answer in one batch is the answer one network at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import assert_untouched, fallback_allowed, network, snapshot
from torch import nn

from deepzero_sim.perturbation import (
    UNPERTURBED,
    CoordinateBatch,
    Coordinates,
    Directions,
    trainable,
    unit_direction,
)
from deepzero_sim.perturbed_model import PerturbedModel


@torch.no_grad()
def one_by_one(model: nn.Module, perturbation: Coordinates | Directions, inputs: torch.Tensor) -> torch.Tensor:
    """What the queries ask for, written out: change the weights, call, and change them back."""
    outputs = []
    for query, block in enumerate(inputs.chunk(len(perturbation))):
        before = snapshot(model)
        step = perturbation.steps[query]
        if isinstance(perturbation, Coordinates):
            model.get_parameter(perturbation.name).view(-1)[perturbation.indices[query]] += step
        else:
            for name, u in unit_direction(trainable(model), perturbation.seeds[query], perturbation.mask).items():
                model.get_parameter(name).add_(step * u)
        outputs.append(model(block))
        for name, parameter in model.named_parameters():
            parameter.copy_(before[name])
    return torch.cat(outputs)


@torch.no_grad()
def check(model: nn.Module, perturbation: Coordinates | Directions, inputs: torch.Tensor) -> None:
    """Compare both answers, and see that the network is as it was."""
    before = snapshot(model)
    expected = one_by_one(model, perturbation, inputs)
    result = PerturbedModel(model, perturbation)(inputs)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)
    assert_untouched(model, before)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, torch.Tensor, list[int]]:
    """A convolution with any hyperparameters, inputs for `P` queries, and which coordinates they ask for."""
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    sizes: dict[str, Any] = {
        name: tuple(draw(st.integers(*bounds)) for _ in range(dims))
        for name, bounds in {"kernel_size": (1, 3), "stride": (1, 3), "padding": (0, 2), "dilation": (1, 2)}.items()
    }
    mode = draw(st.sampled_from(["zeros", "circular", "replicate"]))
    if mode == "zeros" and draw(st.booleans()) and all(k % 2 for k in sizes["kernel_size"]):
        sizes |= {"padding": "same", "stride": 1}
    points = [draw(st.integers(5, 7)) for _ in range(dims)]
    torch.manual_seed(draw(st.integers(0, 2**16)))
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    layer = kind(inputs, outputs, groups=groups, bias=draw(st.booleans()), padding_mode=mode, **sizes)
    model = nn.Sequential(layer, nn.Tanh()).double()
    indices = draw(st.lists(st.integers(0, layer.weight.numel() - 1), min_size=1, max_size=4))
    batch = draw(st.integers(1, 3))
    return model, torch.randn(len(indices) * batch, inputs, *points, dtype=torch.float64), indices


@settings(max_examples=60)
@given(convolutions())
def test_any_convolution_in_one_batch(case: tuple[nn.Module, torch.Tensor, list[int]]) -> None:
    model, inputs, indices = case
    steps = tuple((-1) ** i * 0.1 * (i + 1) for i in range(len(indices)))
    check(model, Coordinates("0.weight", tuple(indices), steps), inputs)  # a fallback would warn, and warnings are errors
    bias = model[0].bias  # type: ignore[index]
    if bias is not None:
        check(model, Coordinates("0.bias", tuple(i % bias.numel() for i in indices), steps), inputs)


@settings(max_examples=30)
@given(
    features=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    lead=st.lists(st.integers(1, 3), max_size=2),
    batch=st.integers(1, 3),
    picks=st.lists(st.integers(0, 10**6), min_size=1, max_size=4),
    parameter=st.sampled_from(["0.weight", "0.bias", "2.weight"]),
)
def test_any_linear_layer_in_one_batch(
    features: tuple[int, int], lead: list[int], batch: int, picks: list[int], parameter: str
) -> None:
    model = nn.Sequential(nn.Linear(*features), nn.Tanh(), nn.Linear(features[1], 2)).double()
    size = model.get_parameter(parameter).numel()
    inputs = torch.randn(len(picks) * batch, *lead, features[0], dtype=torch.float64)
    check(model, Coordinates(parameter, tuple(i % size for i in picks), (0.3,) * len(picks)), inputs)


@pytest.mark.parametrize("name", ["transposed", "batch norm", "tied", "scalar", "layer norm"])
def test_anything_else_one_network_at_a_time(name: str) -> None:
    model, inputs, fallbacks = network(name)
    parameter = min(fallbacks)
    size = model.get_parameter(parameter).numel()
    if name == "batch norm":  # its statistics are those of the query's own batch; written out, they would be updated
        for module in model.modules():
            module.track_running_stats = False
    queries = Coordinates(parameter, (0, size // 2, size - 1), (0.1, -0.2, 0.3))
    with fallback_allowed() as caught:
        check(model, queries, torch.cat([inputs, 2 * inputs, inputs.flip(0)]))
    assert len(caught) == 1


def test_directions_one_network_at_a_time() -> None:
    model, inputs, _ = network("conv2d")
    mask = {"0.weight": torch.rand(3, 2, 3, 2) < 0.5}
    for queries in (Directions((3, 4), (0.1, -0.1)), Directions((3, 4), (0.1, -0.1), mask)):
        check(model, queries, torch.cat([inputs, inputs + 1]))
    with torch.no_grad():
        assert torch.equal(PerturbedModel(model, UNPERTURBED)(inputs), model(inputs))


class TwoInputs(nn.Module):
    """Like a corrector: states, and parameters that may be None."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv1d(1, 2, 3, padding=1), nn.Linear(2, 2)

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        hidden: torch.Tensor = self.conv(states)
        return hidden if params is None else hidden * self.linear(params)[:, :, None]


@torch.no_grad()
@pytest.mark.parametrize("parameter", ["conv.weight", "linear.weight", "linear.bias"])
@pytest.mark.parametrize("given_params", [False, True])
def test_several_inputs(parameter: str, given_params: bool) -> None:
    model = TwoInputs().double()
    states = torch.randn(4, 1, 6, dtype=torch.float64)
    params = torch.randn(4, 2, dtype=torch.float64) if given_params else None
    queries = Coordinates(parameter, (0, 1), (0.1, -0.2))
    result = PerturbedModel(model, queries)(states, params)
    for block, index, step in ((slice(0, 2), 0, 0.1), (slice(2, 4), 1, -0.2)):
        weight = model.get_parameter(parameter).view(-1)
        before = weight[index].clone()
        weight[index] += step
        torch.testing.assert_close(result[block], model(states[block], None if params is None else params[block]))
        weight[index] = before


def test_a_network_that_insists_on_its_batch_size_is_queried_one_at_a_time() -> None:
    class Insists(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) != 3:
                raise ValueError("three, please")
            return super().forward(x)

    with fallback_allowed() as caught:
        check(Insists(2, 2).double(), Coordinates("weight", (0, 3), (0.1, 0.1)), torch.randn(6, 2, dtype=torch.float64))
    assert len(caught) == 1


def test_a_chunk_of_several_parameters_equals_its_parts() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 2)
    )
    model, x = model.double(), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    parts = tuple(Coordinates(name, (0, p.numel() - 1), (0.1, -0.2)) for name, p in model.named_parameters())
    with torch.no_grad():
        together = PerturbedModel(model, CoordinateBatch(parts))(x.repeat(2 * len(parts), 1, 1, 1))
        alone = torch.cat([PerturbedModel(model, part)(x.repeat(2, 1, 1, 1)) for part in parts])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
