"""Evolution strategies: random directions that are judged by the rank of their losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import torch

from deepzero_sim.common.requirements import is_count, require, require_one_of
from deepzero_sim.common.types import Mask
from deepzero_sim.estimators.base import Estimator, GradientEstimate, ask_slopes, parameters_of, query_steps, require_scheme
from deepzero_sim.estimators.random_directions import Kind, draw_directions
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.ledger import Ledger


class EvolutionStrategies(Estimator):
    """Ranks of losses along antithetic pairs of random directions (Salimans et al. 2017, arXiv 1703.03864):

        g = d/q * sum_{i=1..q} (r(theta + mu u_i) - r(theta - mu u_i)) / (2 mu) * u_i

    with `r` the centred rank of a loss among all that are asked for, from -1/2 for the least to 1/2. What is large counts no
    more than what is larger than others, so that rare failures and spikes do no harm; the length of `g` says nothing of the
    loss's slope, and a learning rate that suits one loss suits its multiples.

    Args:
        step_size: Length of a step in parameter space, `mu`.
        num_directions: Number of directions, `q`; two queries each.
        directions: Directions, ``"rows"`` for ones of single rows of parameters, or ``"network"`` for ones of all of them.
    """

    def __init__(self, step_size: float = 1e-2, num_directions: int = 96, *, directions: Kind = "rows") -> None:
        require_scheme(step_size, "central")
        require(is_count(num_directions), "num_directions must be a positive whole number", num_directions)
        require_one_of(directions, get_args(Kind), "directions")
        self.step_size = step_size
        self.num_directions = int(num_directions)
        self.directions: Kind = directions

    def estimate(
        self, oracle: Oracle, batch: Any, mask: Mask | None = None, seed: int = 0, ledger: Ledger | None = None
    ) -> GradientEstimate:
        parameters = parameters_of(oracle, mask)
        drawn = draw_directions(self.directions, self.num_directions, parameters, mask, seed)
        queries = drawn.queries(query_steps(self.step_size, "central"))
        found = ask_slopes(oracle, batch, queries, self.step_size, "central", ledger, shape=centred_ranks)
        weights = found.values * (drawn.dimension / max(1, int(found.known.sum())))
        return replace(found.estimate, grads=drawn.combine(weights, parameters))


def centred_ranks(losses: torch.Tensor) -> torch.Tensor:
    """Rank losses `(n,)` by equally spaced numbers from -1/2 to 1/2; equal ones share the mean of theirs."""
    ordered = losses.sort().values
    below, through = (torch.searchsorted(ordered, losses, right=right).double() for right in (False, True))
    return (below + through - 1) / 2 / max(1, len(losses) - 1) - 0.5
