"""Small convolutional networks, to compare gradient estimates at few queries a gradient.

Chen et al. (DeepZero, ICLR 2024, section 3) compare CGE with RGE on networks of this kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from deepzero_sim.common.requirements import require
from deepzero_sim.models.layers import conv3x3, init_kaiming_normal, require_sizes


def small_cnn(classes: int = 10, widths: Sequence[int] = (16, 16, 24, 24)) -> nn.Sequential:
    """Make a classifier of images, `(B, 3, H, W)` to `(B, classes)`: 11,786 parameters with the defaults.

    3 x 3 convolutions with batch norm and ReLU, each but the first at half the resolution of the one before, then the mean
    over all pixels and a linear layer. Weights start Kaiming-normal.

    Args:
        classes: Number of classes.
        widths: Channels of the convolutions; multiples of 8 are fastest.

    Raises:
        ConfigError: There are no widths, or one of them is not positive.
    """
    require_sizes(classes=classes)
    require(bool(widths) and min(widths) >= 1, "widths must be positive numbers of channels", list(widths))
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((3, *widths)):
        layers += [conv3x3(inputs, outputs, stride=2 if layers else 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
    init_kaiming_normal(network)
    return network
