"""Scores of gradient signal preservation for single weights, and the layer ratios that a global threshold makes of them.

Removing weight `j` of a network at `theta` changes the squared norm of its gradient `g`, by which a small gradient step
lowers the loss, by `-2 theta_j (H g)_j` to first order, with `H` the Hessian. GraSP's score leaves out the factor,

    S = -theta * (H g)     elementwise

(Wang, Zhang and Grosse, Picking Winning Tickets Before Training by Preserving Gradient Flow, ICLR 2020). The higher the
score, the *less* gradient is lost with the weight, so GraSP removes the highest scores and keeps the lowest; its authors' code
keeps `S <= threshold`, with the threshold among the largest. DeepZero (ICLR 2024) writes the same score, but its authors' code
hands it to torch's `L1Unstructured`, which keeps the largest `|S|`: the weights that the gradient's norm depends on most,
whether it would shrink or grow without them. Both are here, as `rule`; the first is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from deepzero_sim.common.requirements import require_that
from deepzero_sim.common.types import NamedTensors
from deepzero_sim.errors import DivergedError
from deepzero_sim.estimators.sparsity.base import Densities
from deepzero_sim.solver.failure_policy import Incident

#: Which weights survive: those of the lowest scores (GraSP's paper), or of the largest magnitudes (DeepZero's code).
Rule: TypeAlias = Literal["signed", "magnitude"]


@dataclass(frozen=True)
class HessianGradient:
    """Product `H g` of Hessian and gradient, over the scored weights, and what it took.

    Args:
        values: Tensor of its shape for each scored tensor.
        queries: Number of losses that were asked for.
        solver_steps: Number of states advanced by one step to answer them.
        incidents: Failures on the way.
    """

    values: NamedTensors
    queries: int
    solver_steps: int
    incidents: tuple[Incident, ...] = ()


def grasp_densities(weights: Mapping[str, torch.Tensor], product: HessianGradient, sparsity: float, rule: Rule) -> Densities:
    """Find the share of every layer that a global threshold on the scores leaves: `sparsity` of them are on the wrong side.

    Raises:
        DivergedError: A score is not finite.
    """
    require_finite_tensors(product.values, "score")
    scores = {name: -(_to_float64(w).conj() * _to_float64(product.values[name])).real for name, w in weights.items()}
    if rule == "magnitude":
        scores = {name: -score.abs() for name, score in scores.items()}
    return Densities(lowest_shares(scores, sparsity), product.queries, product.solver_steps, product.incidents)


def _to_float64(tensor: torch.Tensor) -> torch.Tensor:
    """Convert to float64, or the complex type of that."""
    return tensor.detach().cpu().to(torch.promote_types(tensor.dtype, torch.float64))


def lowest_shares(scores: Mapping[str, torch.Tensor], sparsity: float) -> dict[str, float]:
    """Find the share of every tensor among the `k = round((1 - sparsity) n)` lowest of all `n` scores, at least one of them.

    Of scores that equal the threshold every tensor keeps the same share, so that `k` are kept, whatever the tensors' order.
    """
    everything = torch.cat([score.flatten() for score in scores.values()])
    kept = max(1, round((1 - sparsity) * len(everything)))
    threshold = everything.kthvalue(kept).values
    below = {name: int((score < threshold).sum()) for name, score in scores.items()}
    equal = {name: int((score == threshold).sum()) for name, score in scores.items()}
    share = (kept - sum(below.values())) / sum(equal.values())
    return {name: (below[name] + share * equal[name]) / score.numel() for name, score in scores.items()}


def require_finite_tensors(tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Refuse NaN and infinity."""
    for name, tensor in tensors.items():
        require_that(
            bool(torch.isfinite(tensor).all()),
            f"the {what} of {name!r} is not finite, so layers cannot be ranked: take a smaller step_size for the layer "
            "ratios, fewer unrolled steps, or uniform ratios.",
            DivergedError,
        )
