"""Residuals of a loss: its quadratic model in outputs, from which queries tell more than by how much one number changes.

Around outputs `z`, a loss is modelled as

    l(z + dz) ~ l(z) + y . D(dz) + 1/2 |D(dz)|^2

with residuals `y`, `(m,)`, and their changes `D`, linear in `dz` to first order. For a sum of squares `|r|^2`, `y = sqrt(2) r`,
and the model is that of Gauss and Newton. For cross-entropy `|D|^2` is the Hessian in the logits (generalised Gauss-Newton:
Schraudolph, Neural Computation 14 (2002) 1723).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from deepzero_sim.common.randomness import new_generator
from deepzero_sim.coupling.losses.base import Residuals, residuals_of
from deepzero_sim.errors import ConfigError


@dataclass(frozen=True)
class ResidualRequest:
    """Request for the changes of residuals that queries make, besides those of the loss.

    Args:
        sketch: Number of sums that residuals are added up to, each with a random sign, in place of all of them (count sketch:
            Clarkson and Woodruff, J. ACM 63 (2017) 54); None for all.
        seed: Seed of the sums and signs.
    """

    sketch: int | None = None
    seed: int = 0

    def project(self, residuals: torch.Tensor) -> torch.Tensor:
        """Add residuals up, `(..., m)` to `(..., sketch)`; as they are where there are no more of them."""
        size = residuals.shape[-1]
        if self.sketch is None or size <= self.sketch:
            return residuals
        generator = new_generator(self.seed)
        sums = torch.randint(self.sketch, (size,), generator=generator)
        signs = 2 * torch.randint(2, (size,), generator=generator) - 1
        signed = residuals * signs.to(residuals)
        return residuals.new_zeros(*residuals.shape[:-1], self.sketch).index_add_(-1, sums.to(residuals.device), signed)

    def size(self, count: int) -> int:
        """Return how many numbers are left of so many residuals."""
        return count if self.sketch is None else min(count, self.sketch)


class ResidualModel(abc.ABC):
    """Quadratic model of a loss in outputs."""

    @abc.abstractmethod
    def base(self, outputs: torch.Tensor, targets: Any) -> torch.Tensor:
        """Compute the residuals `y`, float64 `(m,)`."""

    @abc.abstractmethod
    def changes(self, outputs: torch.Tensor, targets: Any, moved: torch.Tensor) -> torch.Tensor:
        """Compute the changes of residuals `D`, `(P, m)`, that changes of the outputs make, `(P, *outputs.shape)`."""


def residual_model(loss: Callable[..., Any]) -> ResidualModel:
    """Return the model of a loss that has residuals.

    Raises:
        ConfigError: It has none that are known.
    """
    if isinstance(loss, nn.CrossEntropyLoss) or loss is functional.cross_entropy:
        _require_plain(loss, weight=None, label_smoothing=0.0, ignore_index=-100)
        return _Softmax()
    if isinstance(loss, nn.MSELoss) or loss is functional.mse_loss:
        _require_plain(loss)
        return _Squares(_mean_squared_error)
    return _Squares(residuals_of(loss))


def _require_plain(loss: Any, **others: object) -> None:
    """Refuse settings of one of torch's losses that the model does not have."""
    for key, value in {"reduction": "mean", **others}.items():
        found = getattr(loss, key, value)
        if found is not value and found != value:
            raise ConfigError(
                f"residuals of {type(loss).__name__} are known for {key} {value!r}, not {found!r}: leave it out, or take CGE."
            )


def _mean_squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).flatten() / math.sqrt(outputs.numel())


@dataclass(frozen=True)
class _Squares(ResidualModel):
    """Model of a sum of squares `|r|^2`: `y = sqrt(2) r`.

    Args:
        residuals: Function of outputs and targets that returns `r`, `(m,)`.
    """

    residuals: Residuals

    def base(self, outputs: torch.Tensor, targets: Any) -> torch.Tensor:
        residuals: torch.Tensor = 2**0.5 * self.residuals(outputs.double(), _double(targets))
        return residuals

    def changes(self, outputs: torch.Tensor, targets: Any, moved: torch.Tensor) -> torch.Tensor:
        # in float64, where the difference of two residuals keeps the digits of what was moved
        base, wanted = self.base(outputs, targets), _double(targets)
        found = [2**0.5 * self.residuals(outputs.double() + one, wanted) - base for one in moved]
        return torch.stack(found).to(outputs.dtype)


class _Softmax(ResidualModel):
    """Model of the mean cross-entropy of logits `(B, K, ...)`, with `p` their softmax and `e` the target:

        D = sqrt(p / n) (dz - sum_k p_k dz_k),   y = (p - e) / sqrt(p n)

    so that `D^T D` is the Hessian `(diag(p) - p p^T) / n`, and `D^T y` the gradient `(p - e) / n`.
    """

    def base(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        p = self._softmax(outputs)
        wanted = targets.double()
        if not targets.is_floating_point():
            if bool((targets < 0).any()):
                raise ConfigError(
                    "residuals of cross-entropy need a class for every sample, not one to be ignored: leave it out."
                )
            wanted = functional.one_hot(targets, outputs.shape[1]).movedim(-1, 1).double()
        return ((p - wanted) / (p * self._count(outputs)).sqrt()).flatten()

    def changes(self, outputs: torch.Tensor, targets: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        p = self._softmax(outputs)
        centred = moved - (p * moved).sum(dim=2, keepdim=True)
        return ((p / self._count(outputs)).sqrt() * centred).flatten(1).to(outputs.dtype)

    @staticmethod
    def _softmax(outputs: torch.Tensor) -> torch.Tensor:
        """Compute probabilities in float64, none of which is 0: what is divided by their roots is multiplied by them again."""
        return outputs.double().softmax(dim=1).clamp(min=1e-30)

    @staticmethod
    def _count(outputs: torch.Tensor) -> int:
        return outputs.numel() // outputs.shape[1]


def _double(targets: Any) -> Any:
    return targets.double() if isinstance(targets, torch.Tensor) and targets.is_floating_point() else targets
