"""A network and its loss as one module, whose result is one number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from deepzero_sim.errors import ConfigError, DeepZeroError
from deepzero_sim.oracle.difference.trace import CannotRecordError


class NetworkWithLoss(nn.Module):
    """`(inputs, targets) -> loss`, as one network.

    Args:
        network: Network whose outputs the loss takes; None if the inputs are outputs already.
        loss: Function `(outputs, targets) -> scalar`.
    """

    def __init__(self, network: nn.Module | None, loss: Any) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, inputs: Any, targets: Any) -> torch.Tensor:
        outputs = inputs
        if self.network is not None:
            with _explain_errors("the network", inputs):
                outputs = self.network(*inputs)
        with _explain_errors("the loss", (outputs, targets)):
            return _scalar(self.loss(outputs, targets))


@contextmanager
def _explain_errors(what: str, given: Any) -> Iterator[None]:
    """Turn an exception inside into one that says whose code raised it, and what it was called with."""
    try:
        yield
    except (DeepZeroError, CannotRecordError):
        raise
    except Exception as error:
        shapes = ", ".join(f"{tuple(x.shape)}" for x in pytree.tree_leaves(given) if isinstance(x, torch.Tensor))
        raise ConfigError(
            f"{what} raised {type(error).__name__} on shapes {shapes or 'of no tensor'}: {error}; check that they fit."
        ) from error


def _scalar(loss: Any) -> torch.Tensor:
    """Convert a loss to a tensor without axes; refuse what is not one floating-point number."""
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        what = f"{loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise ConfigError(
            f"the loss must return a tensor of one floating-point number, not {what}: reduce it, as .mean() does."
        )
    return loss.reshape(())
