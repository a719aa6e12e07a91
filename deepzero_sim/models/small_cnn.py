"""Small convolutional networks, on which gradient estimates can be compared at few queries a gradient.

Chen et al. (DeepZero, ICLR 2024, section 3) compare CGE with RGE on networks of this kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from deepzero_sim.errors import ConfigError
from deepzero_sim.models.convolution import convolution, start_kaiming_normal
from deepzero_sim.models.sizes import require_whole


def small_cnn(classes: int = 10, widths: Sequence[int] = (16, 16, 24, 24)) -> nn.Sequential:
    """3 x 3 convolutions with batch norm and ReLU, the mean over all pixels, a linear layer: `(B, 3, H, W)` to `(B, classes)`.

    Each convolution but the first halves the resolution.

    11,786 parameters with the default widths and 10 classes; weights start Kaiming-normal.

    Args:
        classes: how many.
        widths: channels of the convolutions; multiples of 8 are fastest.

    Raises:
        ConfigError: no widths, or one that is not positive.
    """
    require_whole(classes=classes)
    if not widths or min(widths) < 1:
        raise ConfigError(f"widths must be positive numbers of channels, not {list(widths)}.")
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((3, *widths)):
        layers += [convolution(inputs, outputs, stride=2 if layers else 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
    start_kaiming_normal(network)
    return network
