"""Residual networks for images of 32 x 32, the classifiers of CIFAR-10 (He et al., "Deep residual learning for image
recognition", CVPR 2016, section 4.2).

A 3 x 3 convolution to 16 channels, then three stages of `n` residual blocks with 16, 32 and 64 channels, each stage at half
the resolution of the one before, the mean over all pixels, and a linear layer: `6 n + 2` layers with weights. Shortcuts are
option A, without parameters. Nothing is written in place.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

from deepzero_sim.models.convolution import convolution, start_kaiming_normal
from deepzero_sim.models.sizes import require_whole

#: Channels of the three stages.
WIDTHS = (16, 32, 64)


class ShrinkingShortcut(nn.Module):
    """Option A between two stages: every other pixel, and channels of zeros before and after those that are there.

    Args:
        inputs: channels in.
        outputs: channels out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, H/2, W/2)`."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class ResidualBlock(nn.Module):
    """`relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))`; where the number of channels changes, at half the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        shrinking = inputs != outputs
        self.conv1 = convolution(inputs, outputs, stride=2 if shrinking else 1)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = ShrinkingShortcut(inputs, outputs) if shrinking else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, H, W)`, or half as high and wide."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network for small images: ``head(blocks(stem(images)))``, `(B, 3, 32, 32)` to `(B, classes)`.

    Weights of convolutions and of the linear layer start Kaiming-normal.

    Args:
        blocks_per_stage: `n` above.
        classes: how many.
    """

    def __init__(self, blocks_per_stage: int, classes: int = 10) -> None:
        require_whole(blocks_per_stage=blocks_per_stage, classes=classes)
        super().__init__()
        channels = (WIDTHS[0], *(width for width in WIDTHS for _ in range(blocks_per_stage)))
        self.stem = nn.Sequential(convolution(3, WIDTHS[0]), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
        self.blocks = nn.Sequential(*(ResidualBlock(i, o) for i, o in pairwise(channels)))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes))
        start_kaiming_normal(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, 3, H, W)` to `(B, classes)`."""
        scores: torch.Tensor = self.head(self.blocks(self.stem(images)))
        return scores


def resnet20(classes: int = 10) -> ResNet:
    """ResNet-20: 269,722 parameters with 10 classes."""
    return ResNet(3, classes)


def resnet32(classes: int = 10) -> ResNet:
    """ResNet-32: 464,154 parameters with 10 classes."""
    return ResNet(5, classes)


def resnet44(classes: int = 10) -> ResNet:
    """ResNet-44: 658,586 parameters with 10 classes."""
    return ResNet(7, classes)


def resnet56(classes: int = 10) -> ResNet:
    """ResNet-56: 853,018 parameters with 10 classes."""
    return ResNet(9, classes)
