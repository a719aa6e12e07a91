"""Residual networks for CIFAR-10's images of 32 x 32 (He et al., "Deep residual learning for image recognition", CVPR 2016,
section 4.2).

A 3 x 3 convolution to 16 channels, then three stages of `n` residual blocks with 16, 32 and 64 channels, each stage at half
the resolution of the one before, the mean over all pixels, and a linear layer: `6 n + 2` layers with weights. Shortcuts are
option A, without parameters. No operation works in place.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

from deepzero_sim.models.layers import conv3x3, init_kaiming_normal, require_sizes

#: Channels of the three stages.
WIDTHS = (16, 32, 64)


class ShrinkingShortcut(nn.Module):
    """Option A between two stages: every other pixel, padded with channels of zeros.

    Args:
        inputs: Channels in.
        outputs: Channels out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(B, inputs, H, W)` to `(B, outputs, H/2, W/2)`."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class ResidualBlock(nn.Module):
    """Residual block, `relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))`.

    Args:
        inputs: Channels in.
        outputs: Channels out; if they differ from `inputs`, the block halves the resolution.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        shrinking = inputs != outputs
        self.conv1 = conv3x3(inputs, outputs, stride=2 if shrinking else 1)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = ShrinkingShortcut(inputs, outputs) if shrinking else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(B, inputs, H, W)` to `(B, outputs, H, W)`, or to half that height and width."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """Residual network for small images, ``head(blocks(stem(images)))``: `(B, 3, 32, 32)` to `(B, classes)`.

    Weights of convolutions and of the linear layer start Kaiming-normal.

    Args:
        blocks_per_stage: Number `n` of residual blocks in each stage.
        classes: Number of classes.
    """

    def __init__(self, blocks_per_stage: int, classes: int = 10) -> None:
        require_sizes(blocks_per_stage=blocks_per_stage, classes=classes)
        super().__init__()
        channels = (WIDTHS[0], *(width for width in WIDTHS for _ in range(blocks_per_stage)))
        self.stem = nn.Sequential(conv3x3(3, WIDTHS[0]), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
        self.blocks = nn.Sequential(*(ResidualBlock(i, o) for i, o in pairwise(channels)))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes))
        init_kaiming_normal(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map `(B, 3, H, W)` to `(B, classes)`."""
        scores: torch.Tensor = self.head(self.blocks(self.stem(images)))
        return scores


def resnet20(classes: int = 10) -> ResNet:
    """Make ResNet-20: 269,722 parameters with 10 classes."""
    return ResNet(3, classes)


def resnet32(classes: int = 10) -> ResNet:
    """Make ResNet-32: 464,154 parameters with 10 classes."""
    return ResNet(5, classes)


def resnet44(classes: int = 10) -> ResNet:
    """Make ResNet-44: 658,586 parameters with 10 classes."""
    return ResNet(7, classes)


def resnet56(classes: int = 10) -> ResNet:
    """Make ResNet-56: 853,018 parameters with 10 classes."""
    return ResNet(9, classes)
