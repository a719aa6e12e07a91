"""Accuracy of a classifier on images that it was not trained on."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

#: `(inputs (B, C, H, W), labels (B,))`
Labelled = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Accuracy:
    """Result of a network on some images.

    Args:
        accuracy: Share of the images that it puts into their class.
        loss: Mean cross-entropy.
        images: Number of images.
    """

    accuracy: float
    loss: float
    images: int


def calibrate(model: nn.Module, inputs: Iterable[torch.Tensor]) -> nn.Module:
    """Copy a network to evaluation mode, with running statistics of some inputs: the mean over their batches.

    While a network is queried its buffers stay as they are, running statistics too. So they are computed where they are needed.

    Args:
        model: Any network.
        inputs: Batches, as they are in training.
    """
    calibrated = copy.deepcopy(model)
    torch.optim.swa_utils.update_bn(inputs, calibrated)
    return calibrated.eval()


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Labelled]) -> Accuracy:
    """Classify images with a network in evaluation mode."""
    right = count = 0
    loss = 0.0
    for inputs, labels in batches:
        scores = model(inputs)
        right += int((scores.argmax(1) == labels).sum())
        loss += float(F.cross_entropy(scores, labels, reduction="sum"))
        count += len(labels)
    return Accuracy(right / count, loss / count, count)
