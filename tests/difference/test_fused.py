"""Batch normalisation, a sum and a ReLU together give what they give one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from problems import autograd, mse, relative_error
from torch import nn

from deepzero_sim.difference import kernels
from deepzero_sim.difference.network import fused
from deepzero_sim.difference.recording import record
from deepzero_sim.estimator import CGE
from deepzero_sim.oracle import ModelOracle


class Block(nn.Module):
    """A convolution, its norm, something added, a ReLU; everything before them has its own ReLU."""

    def __init__(self, join: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor], **norm: Any) -> None:
        super().__init__()
        self.first, self.conv, self.last = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1)
        self.norm, self.norm2, self.join = nn.BatchNorm2d(3, **norm), nn.BatchNorm2d(3), join
        self.shift = nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.first(x))
        result: torch.Tensor = self.last(self.join(self, self.norm(self.conv(hidden)), hidden))
        return result


def added_in_place(self: Any, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y += x
    return F.relu_(y)


def read_twice(self: Any, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return F.relu(y + x) * y


#: name: (what lies behind the norm, whether the three go together)
JOINS: dict[str, tuple[Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor], bool]] = {
    "relu": (lambda self, y, x: F.relu(y), True),
    "method": (lambda self, y, x: y.relu(), True),
    "in place": (lambda self, y, x: F.relu(y, inplace=True), True),
    "sum": (lambda self, y, x: F.relu(y + x), True),
    "sum, reversed": (lambda self, y, x: torch.relu(x + y), True),
    "sum in place": (added_in_place, True),
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


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    """The functions as plain torch, whatever their size; what was called."""
    called: list[Callable[..., Any]] = []

    def call(function: Callable[..., Any], *args: Any) -> Any:
        called.append(function)
        return function(*args)

    monkeypatch.setattr(kernels, "SMALLEST", 1)
    monkeypatch.setattr(kernels, "available", lambda device: True)
    monkeypatch.setattr(kernels, "call", call)
    return called


def problem(model: nn.Module, dtype: torch.dtype = torch.float32) -> tuple[ModelOracle, tuple[torch.Tensor, torch.Tensor]]:
    model = model.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ModelOracle(model, mse), (torch.randn(4, 2, 4, 4, dtype=dtype), torch.randn(4, 2, 4, 4, dtype=dtype))


@pytest.mark.parametrize("name", JOINS)
def test_agrees_with_autograd(name: str, uncompiled: list[Any]) -> None:
    join, together = JOINS[name]
    oracle, batch = problem(Block(join))
    estimate = CGE(1e-6).estimate(oracle, batch)  # a small step seldom crosses a kink of the ReLU
    assert relative_error(estimate.grads, autograd(oracle, batch)) < 2e-5
    if not together:
        assert not uncompiled


@pytest.mark.parametrize("name", ["relu", "sum"])
def test_they_do_go_together(name: str, uncompiled: list[Any]) -> None:
    CGE(1e-4).estimate(*problem(Block(JOINS[name][0])))
    assert {kernels.normalised_relu if name == "relu" else kernels.normalised_add_relu} <= set(uncompiled)


@pytest.mark.parametrize("name", ["relu", "sum", "sum of two norms"])
@pytest.mark.parametrize("norm", [{}, {"affine": False}, {"eps": 0.1}, {"track_running_stats": False}], ids=str)
def test_together_or_apart_is_the_same(name: str, norm: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    oracle, batch = problem(Block(JOINS[name][0], **norm))
    apart = CGE(1e-3).estimate(oracle, batch)
    monkeypatch.setattr(kernels, "SMALLEST", 1)
    monkeypatch.setattr(kernels, "available", lambda device: True)
    monkeypatch.setattr(kernels, "call", lambda function, *args: function(*args))
    together = CGE(1e-3).estimate(oracle, batch)
    assert relative_error(together.grads, apart.grads) < 1e-5


def test_in_float64_they_are_as_exact_together(uncompiled: list[Any]) -> None:
    oracle, batch = problem(Block(JOINS["sum"][0]), torch.float64)
    estimate = CGE(1e-5).estimate(oracle, batch)
    assert relative_error(estimate.grads, autograd(oracle, batch)) < 1e-9


def test_in_evaluation_they_are_apart(uncompiled: list[Any]) -> None:
    oracle, batch = problem(Block(JOINS["sum"][0]).eval())
    estimate = CGE(1e-6).estimate(oracle, batch)
    assert relative_error(estimate.grads, autograd(oracle, batch)) < 2e-5


def test_a_norm_that_is_the_result_stays_apart() -> None:
    """The group would hide it."""
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
    x = torch.randn(2, 2, 3, 3)
    recording = record(model, [x], list(model.parameters()))
    groups = fused(recording, recording.operations)
    assert [len(group) for group in groups] == [1, 2]
    (recording.output,) = (slot for slot in recording.operations[1].outputs if slot is not None)
    assert [len(group) for group in fused(recording, recording.operations)] == [1, 1, 1]


@pytest.mark.slow
def test_compiled_they_agree_with_autograd() -> None:
    """Compiling takes some 20 s."""
    if not kernels.available("cpu"):
        pytest.skip("torch finds no C++ compiler")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16),
        nn.ReLU(), nn.Conv2d(16, 2, 1),
    )  # fmt: skip
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    oracle = ModelOracle(model, mse)
    batch = torch.randn(64, 2, 16, 16), torch.randn(64, 2, 16, 16)
    mask = {name: torch.rand(p.shape) < 8 / p.numel() for name, p in model.named_parameters()}
    estimate = CGE(1e-3).estimate(oracle, batch, mask)
    exact = autograd(oracle, batch)
    expected = {name: grad * mask[name] for name, grad in exact.items()}
    assert relative_error(estimate.grads, expected) < 1e-3
