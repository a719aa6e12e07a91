"""Loss of a corrected rollout."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RolloutLoss:
    """Mean squared error of a rollout in units of the data's standard deviation (Um et al. 2020, eq. 5, as a mean):

        l = 1/(B T A) * sum_{b, t, points} ((s - r) / scale)^2

    with `A` the number of active points; padding does not count. Unobserved values do not count either: the mean is over the
    others then, and zero where there are none.

    Args:
        scale: Standard deviation of every channel, `(C,)`, or anything that broadcasts to `(C, *N)`.
        active: Mask `(C, *N)`, 1 where a state holds values and 0 where it is padding.
        unobserved: True if NaN among the references stands for a value that was not observed.
    """

    scale: torch.Tensor
    active: torch.Tensor
    unobserved: bool = False

    def __call__(self, rollout: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        """Compute the loss, a scalar, of a rollout and its references, `(B, T, C, *N)` each."""
        weight = self._weight(rollout)
        if self.unobserved:
            seen = (0 * references + 1).nan_to_num(0.0)  # in numbers, through which differences can be carried
            squared = ((rollout - references.nan_to_num(0.0)) * (weight * seen)).square()
            return squared.sum() / (self.active * seen).sum().clamp(min=1).to(rollout)
        squared = ((rollout - references) * weight).square()
        return squared.sum() / (rollout.shape[0] * rollout.shape[1] * self.active.sum().to(rollout))

    def residuals(self, rollout: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        """Compute the residuals `r` of which the loss is the sum of squares, `(m,)`, one for each active point."""
        weight, active = self._weight(rollout), torch.as_tensor(self.active, dtype=torch.bool).expand(rollout.shape[2:])
        seen = torch.isfinite(references) if self.unobserved else torch.ones_like(references, dtype=torch.bool)
        count = (active & seen).sum().clamp(min=1)
        errors = torch.where(seen, rollout - references.nan_to_num(0.0), 0) * weight
        return errors[..., active].flatten() / count.to(rollout).sqrt()

    def _weight(self, rollout: torch.Tensor) -> torch.Tensor:
        scale = self.scale.view(-1, *[1] * (self.active.dim() - 1)) if self.scale.dim() == 1 else self.scale
        return (self.active / scale).to(rollout)
