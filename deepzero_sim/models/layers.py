"""Pieces that the built-in networks share: their convolution, their first weights, and the check of their sizes."""

from __future__ import annotations

from torch import nn

from deepzero_sim.common.requirements import is_count, require


def require_sizes(least: int = 1, **sizes: object) -> None:
    """Refuse sizes of which torch would make networks without weights, or none.

    Args:
        least: Smallest number that will do.
        sizes: Sizes by name.

    Raises:
        ConfigError: A size is no whole number, or too small.
    """
    for name, size in sizes.items():
        require(is_count(size, least), f"{name} must be a whole number of at least {least}", size)


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Make a 3 x 3 convolution with a border of zeros, without a bias because a norm follows."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def init_kaiming_normal(network: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers (He et al., "Delving deep into rectifiers", ICCV 2015)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
