"""Root mean square errors: what training minimises, and what large errors weigh more in than in a mean of sizes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from deepzero_sim.training.runs.comparison import Comparison


def channel_rmse(comparison: Comparison, name: str) -> list[float]:
    """Return a method's root mean square error of each channel over simulations, steps and its active points.

    It is infinite if a rollout diverged, and NaN for a channel without active points.

    Args:
        comparison: Results.
        name: Method.
    """
    return [math.sqrt(square) for square in _mean_squares(comparison, name)]


def mean_rmse(comparison: Comparison, name: str) -> float:
    """Return a method's root mean square error over all channels, divided by their standard deviations if that is the measure.

    Args:
        comparison: Results.
        name: Method.
    """
    squares = torch.tensor(_mean_squares(comparison, name), dtype=torch.float64)
    if comparison.measure.is_relative:
        return float((squares.sqrt() / comparison.methods[name].evaluation.scales).nanmean())
    points = torch.from_numpy(comparison.spec.active()).flatten(1).sum(dim=1)
    return math.sqrt(float((squares * points)[points > 0].sum() / points.sum()))


def _mean_squares(comparison: Comparison, name: str) -> list[float]:
    evaluation, active = comparison.methods[name].evaluation, torch.from_numpy(comparison.spec.active())
    if bool(evaluation.given_up.any()):
        return [math.inf if bool(on.any()) else math.nan for on in active]
    sums = torch.zeros(len(active), dtype=torch.float64)
    for rollout, true in zip(evaluation.rollout, comparison.references, strict=True):
        differences = rollout.double() - true.double()
        squares = [differences[:, c, on].square() for c, on in enumerate(active)]
        sums += torch.stack([one.nanmean() if bool(one.isnan().any()) else one.mean() for one in squares])
    found: list[float] = (sums / len(comparison.references)).tolist()
    return found
