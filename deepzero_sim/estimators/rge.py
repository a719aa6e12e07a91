"""Random gradient estimation: finite differences along random directions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import torch

from deepzero_sim.common.requirements import is_count, require, require_one_of, require_type
from deepzero_sim.common.types import Mask, Scheme
from deepzero_sim.estimators.base import Estimator, GradientEstimate, ask_slopes, parameters_of, query_steps, require_scheme
from deepzero_sim.estimators.random_directions import Kind, draw_directions
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.ledger import Ledger


class RGE(Estimator):
    """Finite differences along random directions (Chen et al., DeepZero, ICLR 2024, eq. 1):

        g = d/q * sum_{i=1..q} (l(theta + mu u_i) - l(theta)) / mu * u_i

    with `u_i` of unit norm, isotropic over the `d` active coordinates. The factor `d` makes the estimate unbiased for the
    smoothed loss: the mean of `u u^T` is the identity divided by `d`.

    Args:
        step_size: Length of a step in parameter space, `mu`.
        num_directions: Number of directions, `q`; one query each, central two.
        scheme: Finite differences, ``"forward"`` or ``"central"``, which are antithetic pairs.
        directions: Directions, ``"network"`` for uniform ones of all parameters, or ``"rows"`` for ones of single rows of them:
            as noisy, for queries that cost what a coordinate's do, since they begin at their layer.
        normalise: True to divide by the spread of slopes, `sqrt(d) std_i`, about the gradient's length, so that the learning
            rate is about the length of an update (FZOO, arXiv 2506.09034).
    """

    def __init__(
        self,
        step_size: float = 1e-3,
        num_directions: int = 192,
        scheme: Scheme = "central",
        *,
        directions: Kind = "network",
        normalise: bool = False,
    ) -> None:
        require_scheme(step_size, scheme)
        require(is_count(num_directions), "num_directions must be a positive whole number", num_directions)
        require_one_of(directions, get_args(Kind), "directions")
        require_type(normalise, bool, "normalise must be True or False")
        enough = num_directions > 1 or not normalise
        require(enough, "normalise needs two directions or more to have a spread", num_directions, "raise num_directions")
        self.step_size = step_size
        self.num_directions = int(num_directions)
        self.scheme: Scheme = scheme
        self.directions: Kind = directions
        self.normalise = normalise

    def estimate(
        self, oracle: Oracle, batch: Any, mask: Mask | None = None, seed: int = 0, ledger: Ledger | None = None
    ) -> GradientEstimate:
        parameters = parameters_of(oracle, mask)
        drawn = draw_directions(self.directions, self.num_directions, parameters, mask, seed)
        queries = drawn.queries(query_steps(self.step_size, self.scheme))
        slopes, known, estimate = ask_slopes(oracle, batch, queries, self.step_size, self.scheme, ledger)
        answered = max(1, int(known.sum()))  # the mean of those that are there is as unbiased
        weights = slopes * (drawn.dimension / answered)
        if self.normalise:
            weights = weights / _spread(slopes[known], drawn.dimension)
        return replace(estimate, grads=drawn.combine(weights, parameters))


def _spread(slopes: torch.Tensor, dimension: int) -> float:
    """Compute `sqrt(d) std`, which is about the length of the gradient; 1 where slopes have no spread."""
    spread = float(slopes.std()) * dimension**0.5 if len(slopes) > 1 else 0.0
    return spread or 1.0
