"""The plain loop: its gradient is right, and it leaves the network as it was."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import assert_untouched, autograd, model_oracle, mse, relative_error, snapshot
from torch import nn

from deepzero_sim.benchmarks.plain_loop import PlainLoop, blocks_of
from deepzero_sim.common.types import NamedTensors, Scheme
from deepzero_sim.models import ResNet, resnet20
from deepzero_sim.oracle.model import ModelOracle

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCH = IMAGES, torch.tensor([3, 1, 4, 1])
#: Finite differences stay this close to the true gradient: forward ones see the curvature.
ERRORS: dict[Scheme, float] = {"forward": 1e-4, "central": 1e-6}


def classifier() -> ResNet:
    """Make a residual network with every kind of block, small enough to differentiate coordinate by coordinate."""
    return ResNet(1).double()


def some_of(model: nn.Module, count: int = 4) -> NamedTensors:
    """Make a mask of some coordinates of every parameter."""
    mask = {}
    for name, parameter in model.named_parameters():
        active = torch.zeros(parameter.numel(), dtype=torch.bool)
        active[torch.randperm(parameter.numel())[:count]] = True
        mask[name] = active.view(parameter.shape)
    return mask


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("scheme", ERRORS)
def test_gradient_of_a_residual_network(scheme: Scheme, channels_last: bool) -> None:
    model = classifier()
    mask = some_of(model)
    grads = PlainLoop(model, F.cross_entropy, 1e-6, scheme, channels_last).estimate(BATCH, mask)
    exact = autograd(ModelOracle(model, F.cross_entropy), BATCH)
    assert relative_error(grads, {name: grad * mask[name] for name, grad in exact.items()}) < ERRORS[scheme]


def test_gradient_of_all_coordinates_of_a_sequence() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.LeakyReLU(0.3), nn.Conv2d(3, 1, 3)).double()
    oracle, batch = model_oracle(model, torch.randn(2, 2, 6, 6, dtype=torch.float64))
    grads = PlainLoop(model, mse, 1e-5, "central").estimate(batch)
    assert relative_error(grads, autograd(oracle, batch)) < 1e-6


def test_a_mask_may_leave_parameters_out() -> None:
    model = classifier()
    grads = PlainLoop(model, F.cross_entropy).estimate(BATCH, {"head.2.bias": torch.ones(10, dtype=torch.bool)})
    assert {name for name, grad in grads.items() if grad.any()} == {"head.2.bias"}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_and_buffers_are_left_bit_for_bit(dtype: torch.dtype, channels_last: bool) -> None:
    model = classifier().to(dtype)
    loop = PlainLoop(model, F.cross_entropy, 1e-3, "central", channels_last)
    before, given = snapshot(loop.model), snapshot(model)
    loop.estimate((IMAGES.to(dtype), BATCH[1]), some_of(model))
    assert_untouched(loop.model, before)
    assert_untouched(model, given)


def test_weights_are_put_back_after_a_failure() -> None:
    model, calls = classifier(), []
    before = snapshot(model)

    def fail(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(targets)
        if len(calls) > 2:
            raise RuntimeError
        return F.cross_entropy(outputs, targets)

    with pytest.raises(RuntimeError):
        PlainLoop(model, fail).estimate(BATCH, some_of(model))
    assert_untouched(model, before)


def test_a_query_runs_from_its_block_onwards() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    loop, called = PlainLoop(model, mse), []
    for number, block in enumerate(model):
        block.register_forward_hook(lambda *_, n=number: called.append(n))
    prepared = loop.prepare((torch.randn(4, 3, dtype=torch.float64), torch.zeros(4, 2)))
    called.clear()
    loop.slopes(prepared, [("2.bias", 1), ("0.weight", 8)])
    assert called == [2, 0, 1, 2]


def test_blocks() -> None:
    model = resnet20()
    assert blocks_of(model) == [model.stem, *model.blocks, model.head]
    layer = nn.Linear(2, 2)
    assert blocks_of(layer) == [layer] and blocks_of(nn.Sequential(layer)) == [layer]
