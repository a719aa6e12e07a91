"""Networks of the benchmarks, with random weights and data from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

from deepzero_sim import models
from deepzero_sim.oracle.base import Loss
from deepzero_sim.solvers.wake import WakeGrid

CLASSES = 10

#: Number of cells across the wake's domain, as in the demo.
WAKE_RESOLUTION = 32


@dataclass(frozen=True)
class Task:
    """Network with its loss and a batch.

    Args:
        model: Network in training mode.
        loss: Loss, `(outputs, targets) -> scalar`.
        batch: Inputs and targets.
    """

    model: nn.Module
    loss: Loss
    batch: tuple[torch.Tensor, torch.Tensor]


def make_task(name: str, batch: int, seed: int) -> Task:
    """Make the task of a name in `settings.BenchModel`."""
    torch.manual_seed(seed)
    return _regression(name, batch) if name in models.CORRECTORS else _classification(name, batch)


def _classification(name: str, batch: int) -> Task:
    """Make a task of noise images with random labels."""
    model: nn.Module = getattr(models, name)(CLASSES)
    return Task(model, F.cross_entropy, (torch.randn(batch, 3, 32, 32), torch.randint(CLASSES, (batch,))))


def _regression(name: str, batch: int) -> Task:
    """Make a task of a corrector's network alone, without solver and normalisation: noise states with squared errors."""
    spec = WakeGrid(WAKE_RESOLUTION).spec("wake", "float32")
    network = models.CORRECTORS[name](spec).network
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()  # an untrained corrector ends in zeros, which hide every gradient before them
    channels, *grid = spec.state_shape
    inputs = torch.randn(batch, channels + len(spec.parameters), *grid)
    return Task(network, F.mse_loss, (inputs, torch.randn(batch, channels, *grid)))
