"""Difference rules of losses, summed in double precision: a loss near 2 has no digits to spare for its difference.

cross entropy:  log sum exp(z + d) - log sum exp(z) - (t . d) = log(1 + sum(softmax(z) (exp(d) - 1))) - t . d
squared error:  (z + d - t)^2 - (z - t)^2 = d (2 (z - t) + d)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from deepzero_sim.oracle.difference.delta import Changed, Delta, Dense
from deepzero_sim.oracle.difference.rules.table import RuleResult, rule


@rule(F.cross_entropy)
def _cross_entropy(
    out: torch.Tensor,
    input: Any,  # noqa: A002 - torch's names
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> RuleResult:
    plain = weight is None and size_average is None and reduce is None and not isinstance(target, Changed)
    if not plain or input.base.dim() != 2 or input.cached("ignored", lambda: bool((target == ignore_index).any())):
        return NotImplemented

    def constants() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = input.base.double()
        wanted = target.double() if target.is_floating_point() else F.one_hot(target, logits.shape[1]).double()
        wanted = wanted * (1 - label_smoothing) + label_smoothing / logits.shape[1]
        return logits.softmax(1), wanted, wanted.sum(1)

    shares, wanted, total = input.cached("shares", constants)
    delta = input.delta.dense().double()
    growth = torch.log1p((shares * torch.expm1(delta)).sum(2))
    return _reduce(growth * total - (wanted * delta).sum(2), reduction, out)


@rule(F.mse_loss)
def _mse(
    out: torch.Tensor,
    input: Any,  # noqa: A002
    target: Any,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Any = None,
) -> RuleResult:
    plain = weight is None and size_average is None and reduce is None
    if not plain or isinstance(target, Changed) or input.base.shape != target.shape or target.dtype == torch.bool:
        return NotImplemented
    delta = input.delta.dense().double()
    return _reduce(delta * (2 * (input.base.double() - target) + delta), reduction, out)


def _reduce(each: torch.Tensor, reduction: str, out: torch.Tensor) -> Delta:
    if reduction == "none":
        return Dense(each.to(out.dtype))
    axes = list(range(1, each.dim()))
    return Dense(each.mean(axes) if reduction == "mean" else each.sum(axes))
