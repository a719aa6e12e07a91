"""Residual networks: their sizes, their shortcuts, and that they can be traced."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from deepzero_sim.models import ResNet, resnet20, resnet32, resnet44, resnet56
from deepzero_sim.models.resnet import ResidualBlock, ShrinkingShortcut

COUNTS = {resnet20: 269_722, resnet32: 464_154, resnet44: 658_586, resnet56: 853_018}
ALL = pytest.mark.parametrize("make", COUNTS, ids=lambda make: make.__name__)
Make = Callable[..., ResNet]


@ALL
def test_parameter_counts(make: Make) -> None:
    assert sum(p.numel() for p in make().parameters()) == COUNTS[make]


@ALL
def test_layers_with_weights_are_as_many_as_the_name_says(make: Make) -> None:
    layers = [module for module in make().modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert make.__name__ == f"resnet{len(layers)}"


def test_classes_are_as_many_as_asked_for() -> None:
    model = resnet20(classes=7)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[resnet20] - 3 * 65


def test_stages_halve_the_resolution() -> None:
    model, shapes = resnet20(), []
    x = model.stem(torch.randn(2, 3, 32, 32))
    for block in model.blocks:
        shapes.append(tuple(x.shape[1:]))
        x = block(x)
    assert shapes == [(16, 32, 32)] * 4 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 2
    assert x.shape == (2, 64, 8, 8) and model.head(x).shape == (2, 10)


def test_images_of_odd_size() -> None:
    assert resnet20()(torch.randn(2, 3, 9, 7)).shape == (2, 10)


def test_a_shrinking_shortcut_takes_every_other_pixel_and_adds_channels_of_zeros() -> None:
    x = torch.randn(2, 3, 6, 8)
    y = ShrinkingShortcut(3, 8)(x)
    assert y.shape == (2, 8, 3, 4)
    assert torch.equal(y[:, 2:5], x[:, :, ::2, ::2])
    assert not y[:, :2].any() and not y[:, 5:].any()


def test_a_block_whose_branch_is_zero_is_its_shortcut() -> None:
    x = torch.randn(2, 16, 8, 8)
    for outputs in (16, 32):
        block = ResidualBlock(16, outputs)
        nn.init.zeros_(block.norm2.weight)
        assert torch.equal(block(x), F.relu(block.shortcut(x)))


def test_weights_start_kaiming_normal() -> None:
    model = resnet20()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.numel() > 2000:
            fan_in = module.weight[0].numel()
            assert float(module.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)


def test_convolutions_have_no_bias() -> None:
    assert all(module.bias is None for module in resnet20().modules() if isinstance(module, nn.Conv2d))


@ALL
def test_gradients_are_finite(make: Make) -> None:
    model = make()
    F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()) and bool(parameter.grad.any())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_can_be_traced_and_nothing_is_done_in_place() -> None:
    model = resnet20().eval()
    traced = torch.fx.symbolic_trace(model)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(traced(images), model(images))
    for node in traced.graph.nodes:
        assert not str(node.target).endswith("_") and not node.kwargs.get("inplace", False)
    assert not any(getattr(module, "inplace", False) for module in model.modules())
