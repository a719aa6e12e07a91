"""A convolution, batch normalisation, a sum and a ReLU give the same together as one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from problems import autograd, mse, relative_error
from torch import nn

from deepzero_sim.estimators import CGE
from deepzero_sim.oracle.difference.fusion import FusedGroup, group_operations
from deepzero_sim.oracle.difference.kernels import gpu, native
from deepzero_sim.oracle.difference.trace import Operation, record
from deepzero_sim.oracle.model import ModelOracle


class Block(nn.Module):
    """A convolution, its norm, something added, a ReLU; everything before them has its own ReLU."""

    def __init__(self, join: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor], **norm: Any) -> None:
        super().__init__()
        self.first, self.conv, self.last = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
        self.norm, self.norm2, self.join = nn.BatchNorm2d(8, **norm), nn.BatchNorm2d(8), join
        self.shift = nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.first(x))
        result: torch.Tensor = self.last(self.join(self, self.norm(self.conv(hidden)), hidden))
        return result


def add_in_place(self: Any, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y += x
    return F.relu_(y)


def read_twice(self: Any, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return F.relu(y + x) * y


#: name: (operations after the norm, whether the three are computed together)
JOINS: dict[str, tuple[Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor], bool]] = {
    "relu": (lambda self, y, x: F.relu(y), True),
    "method": (lambda self, y, x: y.relu(), True),
    "in place": (lambda self, y, x: F.relu(y, inplace=True), True),
    "sum": (lambda self, y, x: F.relu(y + x), True),
    "sum, reversed": (lambda self, y, x: torch.relu(x + y), True),
    "sum in place": (add_in_place, True),
    "sum of two norms": (lambda self, y, x: F.relu(y + self.norm2(x)), True),
    "sum with a parameter": (lambda self, y, x: F.relu(y + self.shift), True),
    "sum with means": (lambda self, y, x: F.relu(y + x.mean((2, 3), keepdim=True)), True),
    "sum with a mean": (lambda self, y, x: F.relu(y + x.mean()), True),
    "sum with one channel": (lambda self, y, x: F.relu(y + x[:, :1]), True),
    "weighted sum": (lambda self, y, x: F.relu(torch.add(y, x, alpha=2)), False),
    "constant": (lambda self, y, x: F.relu(y + 1), False),
    "itself": (lambda self, y, x: F.relu(y + y), False),
    "read twice": (read_twice, False),
    "other activation": (lambda self, y, x: torch.tanh(y + x), False),
    "two sums": (lambda self, y, x: F.relu(y + x + x), False),
}


#: What takes one pass, and how it is made to.
WAYS = ("C", "compiled for GPUs")


@pytest.fixture
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Collect, for each call of a kernel in C or of the one for GPUs as plain torch, whether a skip was added."""
    added: list[bool] = []
    if getattr(request, "param", "C") == "C":
        for name in ("norm_relu", "norm_relu_mean", "layer"):
            original = getattr(native, name)
            monkeypatch.setattr(native, name, lambda d, sums, skip, *rest, original=original: (
                added.append(skip is not None), original(d, sums, skip, *rest))[1])  # fmt: skip
        return added
    compiled = gpu.norm_relu
    monkeypatch.setattr(gpu, "norm_relu", lambda d, skip, base: (
        added.append(skip is not None), compiled(d, skip, base))[1])  # fmt: skip
    monkeypatch.setattr(native, "supports", lambda *tensors: False)
    monkeypatch.setattr(gpu, "available", lambda device: True)
    monkeypatch.setattr(gpu, "_compile", lambda function: function)
    return added


in_both_ways = pytest.mark.parametrize("calls", WAYS, indirect=True)


def problem(model: nn.Module, dtype: torch.dtype = torch.float32) -> tuple[ModelOracle, tuple[torch.Tensor, torch.Tensor]]:
    model = model.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ModelOracle(model, mse), (torch.randn(4, 2, 4, 4, dtype=dtype), torch.randn(4, 2, 4, 4, dtype=dtype))


@in_both_ways
@pytest.mark.parametrize("name", JOINS)
def test_agrees_with_autograd(name: str, calls: list[bool]) -> None:
    join, together = JOINS[name]
    oracle, batch = problem(Block(join))
    estimate = CGE(1e-6).estimate(oracle, batch)  # a small step seldom crosses a kink of the ReLU
    assert relative_error(estimate.grads, autograd(oracle, batch)) < 2e-5
    if not together:
        assert not calls


@in_both_ways
@pytest.mark.parametrize("name", ["relu", "sum"])
def test_they_are_computed_together(name: str, calls: list[bool]) -> None:
    CGE(1e-4).estimate(*problem(Block(JOINS[name][0])))
    assert set(calls) == {name == "sum"}


@pytest.mark.parametrize("name", ["relu", "sum", "sum of two norms"])
@pytest.mark.parametrize("norm", [{}, {"affine": False}, {"eps": 0.1}, {"track_running_stats": False}], ids=str)
def test_together_or_apart_is_the_same(name: str, norm: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    oracle, batch = problem(Block(JOINS[name][0], **norm))
    together = CGE(1e-3).estimate(oracle, batch)
    monkeypatch.setattr(native, "supports", lambda *tensors: False)
    apart = CGE(1e-3).estimate(oracle, batch)
    assert relative_error(together.grads, apart.grads) < 1e-5


@pytest.mark.parametrize("calls", WAYS[1:], indirect=True)
def test_in_float64_they_are_as_exact_together(calls: list[bool]) -> None:
    oracle, batch = problem(Block(JOINS["sum"][0]), torch.float64)
    estimate = CGE(1e-5).estimate(oracle, batch)
    assert relative_error(estimate.grads, autograd(oracle, batch)) < 1e-9


def test_in_evaluation_they_are_apart(calls: list[bool]) -> None:
    oracle, batch = problem(Block(JOINS["sum"][0]).eval())
    estimate = CGE(1e-6).estimate(oracle, batch)
    assert relative_error(estimate.grads, autograd(oracle, batch)) < 2e-5


def test_a_norm_that_is_the_result_stays_apart() -> None:
    """The group would hide it."""
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
    x = torch.randn(2, 2, 3, 3)
    recording = record(model, [x], list(model.parameters()))
    groups = group_operations(recording, recording.operations)
    assert [len(group.operations) for group in groups if isinstance(group, FusedGroup)] == [1, 2] and len(groups) == 2
    (recording.output,) = (slot for slot in recording.operations[1].outputs if slot is not None)
    assert [type(group) for group in group_operations(recording, recording.operations)] == [Operation] * 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch has some for its own code
def test_compiled_it_is_the_same() -> None:
    """The kernel for GPUs, compiled for this CPU in some 20 s."""
    torch.manual_seed(0)
    d, skip, y, before = (torch.randn(2, 40, 8) for _ in range(4))
    base = native.BaseActivation(y[0], torch.rand(8) + 0.5, torch.randn(8), before[0])
    for added in (None, skip):
        expected = gpu._norm_relu(d, added, *base)
        torch.testing.assert_close(gpu.norm_relu(d, added, base), expected, rtol=1e-5, atol=1e-6)


def test_a_weight_with_gaps_is_read_right() -> None:
    """Kernels in C expect memory without gaps."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 2, 1),
    )
    model[3].weight = nn.Parameter(torch.linspace(0.5, 1, 16)[::2])
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    oracle, batch = ModelOracle(model, mse), (torch.randn(2, 3, 5, 5), torch.randn(2, 2, 5, 5))
    estimate = CGE(1e-5).estimate(oracle, batch)
    assert relative_error(estimate.grads, autograd(oracle, batch)) < 1e-4
