"""Queried networks: the answer in one batch is the answer one network at a time, and the network stays as it is."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import (
    NETWORKS,
    assert_untouched,
    autograd,
    burgers_oracle,
    conv_corrector,
    fallback_allowed,
    model_oracle,
    mse,
    network,
    relative_error,
    snapshot,
)
from torch import nn

from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators import CGE, BackPropagation
from deepzero_sim.oracle.difference.delta import Dense
from deepzero_sim.oracle.difference.rules.table import RULES
from deepzero_sim.oracle.model import ModelOracle
from deepzero_sim.oracle.parameters import row_displacements, trainable, unit_direction
from deepzero_sim.oracle.perturbed_network import PerturbedNetwork
from deepzero_sim.oracle.queries import (
    CoordinateBatch,
    Coordinates,
    Directions,
    Displacements,
    Perturbation,
    RowDirections,
)


@torch.no_grad()
def one_by_one(model: nn.Module, perturbation: Coordinates | RowDirections | Directions, inputs: torch.Tensor) -> torch.Tensor:
    """What the queries ask for, written out: change the weights of a copy, and call it."""
    outputs = []
    for query, (block, step) in enumerate(zip(inputs, perturbation.steps, strict=True)):
        changed = copy.deepcopy(model)
        if isinstance(perturbation, Coordinates):
            changed.get_parameter(perturbation.name).view(-1)[perturbation.indices[query]] += step
        elif isinstance(perturbation, RowDirections):
            parameter = changed.get_parameter(perturbation.name)
            parameter[perturbation.rows[query]] += row_displacements(parameter, perturbation)[query]
        else:
            for name, u in unit_direction(trainable(model), perturbation.seeds[query], perturbation.mask).items():
                changed.get_parameter(name).add_(step * u)
        outputs.append(changed(block))
    return torch.stack(outputs)


def check(model: nn.Module, perturbation: Coordinates | RowDirections | Directions, inputs: torch.Tensor) -> None:
    """Compare both answers, for inputs `(P, *shape)` that differ and for the same inputs, and see the network as it was."""
    before = snapshot(model)
    queried = PerturbedNetwork(model)
    base = queried.unperturbed_pass(inputs[0])
    for given_inputs, moved in ((inputs, [inputs - inputs[0]]), (inputs[:1].expand_as(inputs), [])):
        expected = one_by_one(model, perturbation, given_inputs)
        result = base.result + queried.changes(base, perturbation, moved)
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)
    assert_untouched(model, before)


def rows_of(
    model: nn.Module, name: str, picks: Sequence[int], steps: tuple[float, ...], mask: torch.Tensor | None = None
) -> RowDirections:
    """Directions of some rows of a parameter."""
    count = len(model.get_parameter(name))
    return RowDirections(name, tuple(pick % count for pick in picks), tuple(picks), steps, mask)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, torch.Tensor, list[int]]:
    """A convolution, transposed or not, with any hyperparameters, inputs for `P` queries, and coordinates they ask for."""
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    transposed = draw(st.booleans())
    sizes: dict[str, Any] = {
        name: tuple(draw(st.integers(*bounds)) for _ in range(dims))
        for name, bounds in {"kernel_size": (1, 3), "stride": (1, 3), "padding": (0, 2), "dilation": (1, 2)}.items()
    }
    bias = draw(st.booleans())
    if transposed:
        most = [max(s, d) - 1 for s, d in zip(sizes["stride"], sizes["dilation"], strict=True)]
        sizes["output_padding"] = tuple(draw(st.integers(0, m)) for m in most)
        sizes["padding"] = tuple(min(p, k) for p, k in zip(sizes["padding"], sizes["kernel_size"], strict=True))
    else:
        sizes["padding_mode"] = draw(st.sampled_from(["zeros", "circular", "replicate"]))
        if sizes["padding_mode"] == "zeros" and draw(st.booleans()) and all(k % 2 for k in sizes["kernel_size"]):
            sizes |= {"padding": "same", "stride": 1}
    points = [draw(st.integers(5, 7)) for _ in range(dims)]
    torch.manual_seed(draw(st.integers(0, 2**16)))
    plain, other = (nn.Conv1d, nn.Conv2d, nn.Conv3d), (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    layer = (other if transposed else plain)[dims - 1](inputs, outputs, groups=groups, bias=bias, **sizes)
    model = nn.Sequential(layer, nn.Tanh()).double()
    indices = draw(st.lists(st.integers(0, layer.weight.numel() - 1), min_size=1, max_size=4))
    batch = draw(st.integers(1, 3))
    return model, torch.randn(len(indices), batch, inputs, *points, dtype=torch.float64), indices


@settings(max_examples=80)
@given(convolutions())
def test_any_convolution_in_one_batch(case: tuple[nn.Module, torch.Tensor, list[int]]) -> None:
    model, inputs, indices = case
    steps = tuple((-1) ** i * 0.1 * (i + 1) for i in range(len(indices)))
    check(model, Coordinates("0.weight", tuple(indices), steps), inputs)  # a fallback would warn, and warnings are errors
    check(model, rows_of(model, "0.weight", indices, steps), inputs)
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
    inputs = torch.randn(len(picks), batch, *lead, features[0], dtype=torch.float64)
    check(model, Coordinates(parameter, tuple(i % size for i in picks), (0.3,) * len(picks)), inputs)
    if model.get_parameter(parameter).dim() > 1:
        check(model, rows_of(model, parameter, picks, (0.3,) * len(picks)), inputs)


@pytest.mark.parametrize("name", ["transposed", "batch norm", "batch norm, fixed", "tied", "scalar", "layer norm"])
def test_other_layers_in_one_batch(name: str) -> None:
    model, inputs = network(name)
    for parameter, values in model.named_parameters():
        size = values.numel()
        queries = Coordinates(parameter, (0, size // 2, size - 1), (0.1, -0.2, 0.3))
        check(model, queries, torch.stack([inputs, 2 * inputs, inputs.flip(0)]))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "one coordinate"])
def test_directions_of_rows_in_one_batch(name: str, masked: bool) -> None:
    model, inputs = network(name)
    for parameter, values in model.named_parameters():
        if values.dim() > 1:
            mask = torch.rand(values.shape, generator=torch.Generator().manual_seed(1)) < 0.7 if masked else None
            rows = [0, len(values) // 2, len(values) - 1]
            queries = rows_of(model, parameter, rows, (0.1, -0.2, 0.3), mask)
            check(model, queries, torch.stack([inputs, 2 * inputs, inputs.flip(0)]))


def test_a_direction_of_a_row_is_a_unit_vector_of_its_active_coordinates_drawn_from_its_seed() -> None:
    weight = torch.zeros(3, 2, 5, dtype=torch.float64)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    found = row_displacements(weight, RowDirections("w", (0, 2, 0, 0), (7, 7, 8, 7), (0.1, 0.1, -0.2, -0.1), mask))
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.tensor([0.1, 0.1, 0.2, 0.1], dtype=torch.float64))
    assert not bool(found[~mask[[0, 2, 0, 0]]].any())
    assert torch.equal(found[0], -found[3]) and not torch.allclose(found[0], found[2])


def test_directions_by_whole_passes() -> None:
    model, inputs = network("conv2d")
    mask = {"0.weight": torch.rand(3, 2, 3, 2) < 0.5}
    for queries in (Directions((3, 4), (0.1, -0.1)), Directions((3, 4), (0.1, -0.1), mask)):
        check(model, queries, torch.stack([inputs, inputs + 1]))
    queried = PerturbedNetwork(model)
    base = queried.unperturbed_pass(inputs)
    assert not queried.changes(base, Directions((0,), (0.0,))).any(), "a step of zero changes nothing"


def test_displacements_move_all_parameters_in_their_order() -> None:
    model, inputs = network("conv2d")
    before, sizes = snapshot(model), [p.numel() for p in trainable(model).values()]
    moves = 0.1 * torch.randn(3, sum(sizes), dtype=torch.float64)
    queried = PerturbedNetwork(model)
    base = queried.unperturbed_pass(inputs)
    found = base.result + queried.changes(base, Displacements(moves))
    for result, move in zip(found, moves, strict=True):
        changed = copy.deepcopy(model)
        with torch.no_grad():
            for p, part in zip(trainable(changed).values(), torch.split(move, sizes), strict=True):
                p.add_(part.view(p.shape))
            torch.testing.assert_close(result, changed(inputs), rtol=1e-10, atol=1e-10)
    assert not queried.changes(base, Displacements(torch.zeros(1, sum(sizes)))).any(), "no move changes nothing"
    assert_untouched(model, before)


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
    states = torch.randn(2, 2, 1, 6, dtype=torch.float64)
    params = torch.randn(2, 2, dtype=torch.float64) if given_params else None
    queried = PerturbedNetwork(model)
    base = queried.unperturbed_pass(states[0], params)
    changes = queried.changes(base, Coordinates(parameter, (0, 1), (0.1, -0.2)), [states - states[0], None])
    for block, change, index, step in zip(states, changes, (0, 1), (0.1, -0.2), strict=True):
        changed = copy.deepcopy(model)
        changed.get_parameter(parameter).view(-1)[index] += step
        torch.testing.assert_close(base.result + change, changed(block, params))


def test_a_network_that_insists_on_its_batch_size_is_queried_as_any_other() -> None:
    class Insists(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) != 3:
                raise ValueError("three, please")
            return super().forward(x)

    check(Insists(2, 2).double(), Coordinates("weight", (0, 3), (0.1, 0.1)), torch.randn(2, 3, 2, dtype=torch.float64))


def test_a_chunk_of_several_parameters_equals_its_parts() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 2)
    )
    model, x = model.double(), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    parts = tuple(Coordinates(name, (0, p.numel() - 1), (0.1, -0.2)) for name, p in model.named_parameters())
    queried = PerturbedNetwork(model)
    base = queried.unperturbed_pass(x)
    together = queried.changes(base, CoordinateBatch(parts))
    alone = torch.cat([queried.changes(base, part) for part in parts])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_a_parameter_that_is_not_used_changes_nothing() -> None:
    class Spare(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.spare = nn.Parameter(torch.ones(3))

    model, x = Spare().double(), torch.randn(4, 2, dtype=torch.float64)
    queried = PerturbedNetwork(model)
    changes = queried.changes(queried.unperturbed_pass(x), Coordinates("spare", (0, 2), (0.1, 0.1)))
    assert changes.shape == (2, 4, 2) and not changes.any()


# ---------------------------------------------------------------------------------------------------------------------
# what cannot be recorded is answered by whole passes


class Wrapped(nn.Module):
    """A linear layer, then any function, then another."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Linear(3, 4), function, nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(self.function(torch.tanh(self.first(x))))
        return result


def branching(x: torch.Tensor) -> torch.Tensor:
    return 2 * x if x.sum() > 0 else 3 * x


def by_item(x: torch.Tensor) -> torch.Tensor:
    return x * x.square().mean().item()


def by_float(x: torch.Tensor) -> torch.Tensor:
    return x * float(x.square().mean())


def by_list(x: torch.Tensor) -> torch.Tensor:
    return x + sum(x.sum(1).tolist())


def by_numpy(x: torch.Tensor) -> torch.Tensor:
    return x * float(np.square(x.detach().numpy()).mean())


def into_a_view_read_again(x: torch.Tensor) -> torch.Tensor:
    whole = x * 1.0
    whole[:, 0].mul_(2)
    return whole


def into_a_tensor_with_views(x: torch.Tensor) -> torch.Tensor:
    whole = x * 1.0
    part = whole[:, :1]
    whole.mul_(2)
    return whole + part


def with_out(x: torch.Tensor) -> torch.Tensor:
    result = torch.empty_like(x)
    torch.mul(x, 2 * x, out=result)
    return result


def by_setitem(x: torch.Tensor) -> torch.Tensor:
    result = torch.zeros_like(x)
    result[:, :2] = x[:, 2:].square()
    return result


def by_copy(x: torch.Tensor) -> torch.Tensor:
    result = torch.zeros(len(x), 4, dtype=x.dtype)
    result.copy_(x.square())
    return result


def by_argmax(x: torch.Tensor) -> torch.Tensor:
    return x * x.argmax(1, keepdim=True)


def by_mask(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, 2 * x, 3 * x)


def by_mask_times(x: torch.Tensor) -> torch.Tensor:
    return x * (x > 0)


def constant_written_afterwards(x: torch.Tensor) -> torch.Tensor:
    factor = torch.ones(4, dtype=x.dtype)
    result = x * factor
    factor.mul_(3)
    return result


UNRECORDABLE = [
    branching, by_item, by_float, by_list, by_numpy, into_a_view_read_again, into_a_tensor_with_views, with_out, by_setitem,
    by_copy, by_argmax, by_mask, by_mask_times, constant_written_afterwards,
]  # fmt: skip


class Squared(torch.autograd.Function):
    """Known to autograd as one function."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.square()


@pytest.mark.parametrize("function", UNRECORDABLE, ids=lambda f: f.__name__)
def test_what_cannot_be_recorded_is_still_answered_exactly(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = Wrapped(function).double()
    oracle, batch = model_oracle(model, torch.randn(5, 3, dtype=torch.float64))
    before = snapshot(model)
    with fallback_allowed() as caught:
        estimate = CGE(1e-5).estimate(oracle, batch)
        CGE(1e-5).estimate(oracle, batch)
    assert len(caught) == 1, "once, however often it is queried"
    assert str(caught[0].message).startswith("Wrapped is queried by whole forward passes")
    assert_untouched(model, before)
    exact = plain_differences(model, batch, 1e-5)
    assert relative_error(estimate.grads, exact) < 1e-7


@torch.no_grad()
def plain_differences(model: nn.Module, batch: Any, step: float) -> dict[str, torch.Tensor]:
    """Central differences, one network at a time: autograd would not see what numbers were read."""
    inputs, targets = batch
    grads = {}
    for name, parameter in model.named_parameters():
        losses = []
        for index in range(parameter.numel()):
            for sign in (1, -1):
                changed = copy.deepcopy(model)
                changed.get_parameter(name).view(-1)[index] += sign * step
                losses.append(mse(changed(inputs), targets))
        plus, minus = torch.stack(losses).view(-1, 2).unbind(1)
        grads[name] = ((plus - minus) / (2 * step)).view_as(parameter)
    return grads


@pytest.mark.parametrize("first", [lambda x: x.mul_(2), lambda x: x[:, 0].add_(1), F.relu_])
def test_a_network_that_writes_into_its_inputs(first: Callable[[torch.Tensor], Any]) -> None:
    class Greedy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first(x)
            return super().forward(x)

    model = Greedy(3, 2).double()
    inputs, targets = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    kept, oracle = inputs.clone(), ModelOracle(model, mse)
    with fallback_allowed() as caught:
        estimate = CGE(1e-4).estimate(oracle, (inputs, targets))
    assert len(caught) == 1
    assert torch.equal(inputs, kept)
    assert relative_error(estimate.grads, autograd(oracle, (inputs, targets))) < 1e-6


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.max(1, keepdim=True).values * x, lambda x: x.sort(1)[0], lambda x: x.topk(4, 1).values,
        lambda x: x.masked_fill(torch.tensor([True, False, False, True]), 0.5), lambda x: 2**x, lambda x: x**3,
        lambda x: torch.where(torch.tensor([True, False, False, True]), x, x.square()), lambda x: 1 / (x + 5), Squared.apply,
        lambda x: x.detach() * x.data, lambda x: torch.ops.aten.mul(x, x),
        lambda x: x.clone().add_(1).mul_(2).div_(3).sub_(x), lambda x: x * x.shape[1] / len(x),
        lambda x: x.unbind(1)[0][:, None] * x,
        lambda x: torch.addmm(x[0], x[:, :2], x[:2]), lambda x: x.cumprod(1), torch.nan_to_num,
    ],
)  # fmt: skip
def test_other_code_is_recorded(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = Wrapped(function).double()
    oracle, batch = model_oracle(model, torch.randn(5, 3, dtype=torch.float64))
    estimate = CGE(1e-5).estimate(oracle, batch)  # a fallback would warn, and warnings are errors
    assert relative_error(estimate.grads, plain_differences(model, batch, 1e-5)) < 1e-6


@pytest.mark.parametrize(
    "function",
    [
        lambda h: F.softmax(h, -1, dtype=torch.float32),
        lambda h: F.log_softmax(h, -1, dtype=torch.float32),
        lambda h: h.cumsum(-1, dtype=torch.float32),
        lambda h: h.type(torch.float32).tanh(),
        lambda h: h.to(torch.float16).float(),
        lambda h: h.half().float(),
        lambda h: h.bfloat16().float(),
        lambda h: h.double().tanh().float(),
        lambda h: torch.linalg.vector_norm(h, dim=1, keepdim=True, dtype=torch.float32) * h,
        lambda h: F.softmax(h, -1, dtype=torch.float64).float(),
    ],
    ids=["softmax", "log_softmax", "cumsum", "type", "to", "half", "bfloat16", "double", "norm", "float64"],
)
def test_dtypes_in_between_lose_no_digits(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """A conversion to fewer digits is taken as one that does not round, as autograd takes it."""
    model, batch = Wrapped(function), (torch.randn(5, 3), torch.randn(5, 2))
    exact = BackPropagation().estimate(ModelOracle(model, mse), batch).grads
    # which rounds to bfloat16 on its way back
    assert relative_error(CGE(1e-6).estimate(ModelOracle(model, mse), batch).grads, exact) < 1e-2


def test_a_row_of_padding_has_no_slope() -> None:
    model = nn.Sequential(nn.Embedding(5, 4, padding_idx=-4), nn.Flatten(), nn.Linear(8, 2)).double()
    batch = torch.tensor([[0, 1], [1, 4], [2, 3]]), torch.randn(3, 2, dtype=torch.float64)
    for queries_per_chunk in (3, 256):  # some chunks have coordinates of several parameters
        oracle = ModelOracle(model, mse, queries_per_chunk=queries_per_chunk)
        found = CGE(1e-5).estimate(oracle, batch).grads
        assert relative_error(found, BackPropagation().estimate(oracle, batch).grads) < 1e-6


class Graph(nn.Module):
    """Neighbours by a sparse matrix."""

    def __init__(self, layout: torch.layout) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("neighbours", torch.eye(5).roll(1, 0).double().to_sparse(layout=layout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(torch.sparse.mm(self.neighbours, torch.tanh(self.first(x))))
        return result


class Cholesky(nn.Module):
    """With a parameter that not all numbers suit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.covariance = nn.Linear(3, 2), nn.Parameter(torch.eye(2) + 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.first(x) @ torch.linalg.cholesky(self.covariance)
        return result


class Indexed(nn.Module):
    """With a parameter of whole numbers, which is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.order = nn.Linear(3, 2), nn.Parameter(torch.tensor([1, 0]), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.first(x)[:, self.order] * torch.tensor([1.0, 2.0], dtype=x.dtype)
        return result


class OneDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(5, 2))
        self.last = nn.Parameter(torch.randn(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.last, self.bias) + F.linear(x, self.weight)[:, None]


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize(
    "make",
    [lambda: Graph(torch.sparse_coo), lambda: Graph(torch.sparse_csr), Cholesky, Indexed, OneDimensional],
    ids=["sparse", "sparse rows", "Cholesky", "whole numbers", "one-dimensional"],
)
def test_uncommon_parameters_and_buffers(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().double()
    oracle, batch = ModelOracle(model, mse), (torch.randn(5, 3).double(), torch.randn(5, 2).double())
    if isinstance(model, Cholesky):  # whose gradient is by convention that of both halves of the matrix
        exact = plain_differences(model, batch, 1e-5)
    else:
        exact = BackPropagation().estimate(oracle, batch).grads
    assert relative_error(CGE(1e-5).estimate(oracle, batch).grads, exact) < 1e-6  # a fallback would warn


def test_targets_may_be_bool() -> None:
    model = nn.Linear(3, 2).double()
    oracle, batch = ModelOracle(model, F.mse_loss), (torch.randn(5, 3).double(), torch.randn(5, 2) > 0)
    exact = BackPropagation().estimate(oracle, batch).grads
    assert relative_error(CGE(1e-5).estimate(oracle, batch).grads, exact) < 1e-6


def mapped(x: torch.Tensor) -> torch.Tensor:
    return torch.vmap(lambda row: row * row.sum())(x)


def inner_gradient(x: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(point.pow(3).sum(), point)
    return x + slope


@pytest.mark.parametrize("function", [mapped, inner_gradient])
def test_what_fails_when_it_is_recorded_is_called_as_it_is(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = Wrapped(function).double()
    oracle, batch = model_oracle(model, torch.randn(5, 3, dtype=torch.float64))
    with fallback_allowed():
        estimate = CGE(1e-5).estimate(oracle, batch)
    assert relative_error(estimate.grads, plain_differences(model, batch, 1e-5)) < 1e-6


def test_another_thread_may_draw() -> None:
    """Such as one that fetches data."""
    done = threading.Event()

    def draw() -> None:
        while not done.is_set():
            torch.rand(10)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        for _ in range(5):
            PerturbedNetwork(nn.Linear(3, 2)).unperturbed_pass(torch.randn(4, 3))
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_what_torch_does_not_show_is_noticed_however_large_the_loss(offset: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it is old
        scripted = torch.jit.script(twice_tanh)
    model = Wrapped(scripted).double()
    oracle, batch = ModelOracle(model, mse), (torch.randn(5, 3).double(), torch.randn(5, 2).double() + offset)
    with fallback_allowed() as caught:
        estimate = CGE(1e-4).estimate(oracle, batch)
    assert len(caught) == 1
    assert relative_error(estimate.grads, gradient(model, *batch)) < 1e-5


def twice_tanh(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x) * 2


#: The same functions of torch by other names of their arguments.
BY_NAME: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cat": lambda h: torch.cat(tensors=[h[:, :1], h[:, 1:]], dim=1),
    "stack": lambda h: torch.stack(tensors=[h, h]).sum(0),
    "add": lambda h: torch.add(h, other=h.tanh()),
    "sub": lambda h: torch.sub(input=h, other=0.3 * h),
    "mul": lambda h: torch.mul(input=h, other=h),
    "mul by number": lambda h: torch.mul(input=h, other=2),
    "div": lambda h: h.div(other=2.0),
    "matmul": lambda h: torch.matmul(h, other=h.T @ h),
    "mean": lambda h: h - torch.mean(input=h, dim=1, keepdim=True),
    "square": lambda h: torch.square(input=h),
    "clone": lambda h: torch.clone(input=h),
    "reshape": lambda h: torch.reshape(input=h, shape=(-1, 2)).reshape(h.shape),
    "pow": lambda h: torch.pow(input=h, exponent=2),
    "exponent": lambda h: torch.pow(h, exponent=2),
    "tensor exponent": lambda h: h ** torch.tensor([2.0, 3.0, 2.0, 2.0], dtype=h.dtype),
    "changed exponent": lambda h: (h.detach() * 0 + 2) ** h,
    "softmax": lambda h: torch.softmax(input=h, dim=1),
    "softmax in doubles": lambda h: torch.softmax(h, 1, torch.float64),
    "relu": lambda h: torch.relu(input=h),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_arguments_by_whatever_name(name: str) -> None:
    test_other_code_is_recorded(BY_NAME[name])


def test_differences_that_are_nan_are_a_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, torch.tanh, lambda out, x: Dense(x.delta.dense() * torch.nan))
    oracle, batch = model_oracle(Wrapped(torch.tanh).double(), torch.randn(5, 3, dtype=torch.float64))
    with fallback_allowed() as caught:
        estimate = CGE(1e-4).estimate(oracle, batch)
    assert len(caught) == 1
    assert relative_error(estimate.grads, autograd(oracle, batch)) < 1e-6


class Traced(nn.Module):
    """Holds a traced function, which can be neither copied nor seen into."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.traced = torch.jit.trace(lambda x: torch.tanh(x) * 2, torch.zeros(5, 4))  # type: ignore[no-untyped-call]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(self.traced(self.first(x)))
        return result


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_traced_code_gives_the_exact_gradient() -> None:
    model = Traced().double()
    oracle, batch = ModelOracle(model, mse), (torch.randn(5, 3).double(), torch.randn(5, 2).double())
    with fallback_allowed() as caught:
        estimate = CGE(1e-4).estimate(oracle, batch)
    assert relative_error(estimate.grads, gradient(model, *batch)) < 1e-6
    assert len(caught) <= 1


def test_a_network_need_not_be_copied() -> None:
    class Locked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            self.lock = threading.Lock()

    model = Locked().double()
    oracle, batch = ModelOracle(model, mse), (torch.randn(5, 3).double(), torch.randn(5, 2).double())
    estimate = CGE(1e-4).estimate(oracle, batch)
    assert relative_error(estimate.grads, gradient(model, *batch)) < 1e-6


def gradient(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """By autograd, of a network that cannot be copied."""
    found = torch.autograd.grad(mse(model(inputs), targets), list(model.parameters()))
    return dict(zip(dict(model.named_parameters()), found, strict=True))


class Dropping(nn.Module):
    def __init__(self, make: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.linear, self.make = nn.Linear(3, 2), make

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.make(self.linear(x))


@pytest.mark.parametrize(
    "draw",
    [
        nn.Dropout(0.3),
        lambda x: F.dropout(x, 0.3),
        lambda x: F.dropout(x, p=0.3, training=True),
        lambda x: x + torch.randn_like(x),
        lambda x: x + torch.randn(2),
        lambda x: x + torch.rand(x.shape, dtype=x.dtype),
        lambda x: x * torch.bernoulli(torch.full_like(x, 0.5)),
        lambda x: x + torch.empty(2, dtype=x.dtype).normal_(),
        lambda x: F.rrelu(x, training=True),
        lambda x: F.alpha_dropout(x, 0.3, True),
        lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.5)[0],
        F.gumbel_softmax,
        lambda x: x[torch.randperm(len(x))],
        lambda x: x + torch.zeros(2, dtype=x.dtype).exponential_(),
        lambda x: x * torch.normal(x.detach() * 0, 1.0),
        lambda x: x + torch.poisson(torch.full_like(x, 3.0)),
        lambda x: x + torch.distributions.Normal(0.0, 1.0).sample(x.shape),
    ],
    ids=["Dropout", "dropout", "dropout by name", "randn_like", "randn", "rand", "bernoulli", "normal_", "rrelu", "alpha",
         "attention", "gumbel", "randperm", "exponential_", "normal", "poisson", "distribution"],
)  # fmt: skip
def test_a_network_that_draws_random_numbers_is_refused(draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Two passes of it differ by more than any query changes, or will once it is trained."""
    torch.manual_seed(0)
    network = PerturbedNetwork(Dropping(draw).double())
    with pytest.raises(ConfigError, match="Dropping draws random numbers") as caught:
        network.unperturbed_pass(torch.randn(4, 3, dtype=torch.float64))
    assert "\n" not in str(caught.value)


def hidden_dropout() -> nn.Module:
    """Before a layer of zeros, as the last ones of untrained correctors are."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    nn.init.zeros_(model[2].weight)  # type: ignore[arg-type]
    return model


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x)[0]
        return result


class OwnGenerator(nn.Linear):
    """Draws, though it uses nothing of it yet."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 0 * torch.rand(2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "make",
    [
        hidden_dropout,
        lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout(1e-4)),
        lambda: Recurrent(nn.LSTM(3, 2, 2, dropout=0.01)),
        lambda: Recurrent(nn.GRU(3, 2, 2, dropout=0.01)),
        lambda: nn.TransformerEncoderLayer(3, 1, 4, dropout=1e-3),
        lambda: nn.Sequential(nn.Linear(3, 2), nn.FractionalMaxPool2d((1, 1), output_size=1)),
        lambda: OwnGenerator(3, 2),
    ],
    ids=["before zeros", "rarely", "LSTM", "GRU", "transformer", "pooling", "its own generator"],
)
@pytest.mark.parametrize("memory", [2**30, 1], ids=["recorded", "whole passes"])
def test_draws_that_leave_two_passes_the_same_are_refused_too(make: Callable[[], nn.Module], memory: int) -> None:
    torch.manual_seed(0)
    network = PerturbedNetwork(make(), memory=memory)
    with pytest.raises(ConfigError, match="draws random numbers"):
        network.unperturbed_pass(torch.randn(1, 4, 3))


@pytest.mark.parametrize(
    "module",
    [nn.Dropout(0.3).eval(), nn.Dropout(0.0), nn.RReLU().eval(), nn.AlphaDropout(0.2).eval(), nn.Dropout1d(0.3).eval()],
    ids=repr,
)
def test_dropout_that_drops_nothing_is_recorded(module: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), module, nn.Linear(2, 2)).double()
    oracle, batch = model_oracle(model, torch.randn(4, 3, dtype=torch.float64))
    assert relative_error(CGE(1e-4).estimate(oracle, batch).grads, autograd(oracle, batch)) < 1e-6


# ---------------------------------------------------------------------------------------------------------------------
# the network stays as it is


class Writing(nn.Module):
    """Every buffer that layers write, and one of its own that it replaces."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.ReLU(inplace=True), nn.Conv1d(2, 2, 1),
            nn.InstanceNorm1d(2, track_running_stats=True), nn.BatchNorm1d(2, affine=False),
        )  # fmt: skip
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        self.calls = self.calls + 1
        result: torch.Tensor = self.layers(x)
        return result


QUERIES: tuple[Perturbation, ...] = (
    Coordinates("layers.0.weight", (0, 3), (0.1, -0.1)),
    Coordinates("layers.1.weight", (1,), (0.1,)),
    Directions((1, 2), (0.1, 0.1)),
)


@pytest.mark.parametrize("training", [True, False])
def test_weights_and_buffers_stay(training: bool) -> None:
    model = Writing().double().train(training)
    oracle, batch = model_oracle(model, torch.randn(4, 1, 8, dtype=torch.float64))
    before, objects = snapshot(model), dict(model.named_buffers()) | dict(model.named_parameters())
    prepared = oracle.prepare(batch)
    assert_untouched(model, before)
    oracle.ask(prepared, QUERIES)
    assert_untouched(model, before)
    CGE().estimate(oracle, batch)
    assert_untouched(model, before)
    after = dict(model.named_buffers()) | dict(model.named_parameters())
    assert all(after[name] is tensor for name, tensor in objects.items())


class Failing:
    """A loss that raises at a call of its own choosing."""

    def __init__(self) -> None:
        self.calls_left = 10**9

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise RuntimeError("no loss")
        return mse(outputs, targets)


@pytest.mark.filterwarnings("ignore:.*whole")
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_weights_and_buffers_stay_when_the_loss_raises(calls: int) -> None:
    model, loss = Writing().double(), Failing()
    x = torch.randn(4, 1, 8, dtype=torch.float64)
    oracle, batch = ModelOracle(model, loss), (x, torch.zeros(4, 2, 6, dtype=torch.float64))
    before = snapshot(model)
    loss.calls_left = calls
    with pytest.raises(ConfigError, match=r"the loss raised RuntimeError on shapes \(4, 2, 6\), \(4, 2, 6\): no loss"):
        for _ in range(2):
            oracle.ask(oracle.prepare(batch), QUERIES)
    assert_untouched(model, before)


def test_a_corrector_with_statistics_stays() -> None:
    inner = nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), nn.BatchNorm1d(2), nn.Tanh(), nn.Conv1d(2, 1, 1))
    corrector = conv_corrector()
    corrector.layers = inner.double()
    oracle, batch = burgers_oracle(corrector=corrector)
    before = snapshot(corrector)
    CGE().estimate(oracle, batch)
    assert_untouched(corrector, before)


def test_an_embedding_that_writes_its_weights_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(5, 3, max_norm=1.0), nn.Flatten(), nn.Linear(6, 1))
    kept = snapshot(model)
    with pytest.raises(ConfigError, match="an embedding with max_norm writes its weights in every pass"):
        ModelOracle(model, mse).prepare((torch.tensor([[0, 1]]), torch.zeros(1, 1)))
    assert_untouched(model, kept)


def test_empty_parameters_have_an_empty_gradient() -> None:
    model = nn.Linear(3, 2)
    model.extra = nn.Parameter(torch.empty(0, 3))
    estimate = CGE().estimate(ModelOracle(model, mse), (torch.randn(4, 3), torch.randn(4, 2)))
    assert estimate.grads["extra"].shape == (0, 3)
    assert estimate.queries == 1 + 2 * 8
