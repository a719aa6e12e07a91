"""What classifiers of images are made of, and how their weights start."""

from __future__ import annotations

from torch import nn


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """3 x 3, with a border of zeros, without a bias: a norm follows."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def start_kaiming_normal(network: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers (He et al., "Delving deep into rectifiers", ICCV 2015)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
