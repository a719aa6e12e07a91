"""Random gradient estimation: finite differences along random directions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.requirements import is_count, require
from deepzero_sim.common.types import Mask, Scheme
from deepzero_sim.estimators.base import Estimator, GradientEstimate, ask_slopes, parameters_of, query_steps, require_scheme
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.ledger import Ledger
from deepzero_sim.oracle.parameters import unit_direction
from deepzero_sim.oracle.queries import Directions


class RGE(Estimator):
    """Finite differences along random directions (Chen et al., DeepZero, ICLR 2024, eq. 1):

        g = d/q * sum_{i=1..q} (l(theta + mu u_i) - l(theta)) / mu * u_i

    with `u_i` of unit norm, uniform on the sphere of the `d` active coordinates. The factor `d` makes the estimate
    unbiased for the smoothed loss: with unit directions, the mean of `u u^T` is the identity divided by `d`.

    Args:
        step_size: Length of a step in parameter space, `mu`.
        num_directions: Number of directions, `q`; one query each, central two.
        scheme: Finite differences, ``"forward"`` or ``"central"``.
    """

    def __init__(self, step_size: float = 1e-3, num_directions: int = 192, scheme: Scheme = "central") -> None:
        require_scheme(step_size, scheme)
        require(is_count(num_directions), "num_directions must be a positive whole number", num_directions)
        self.step_size = step_size
        self.num_directions = int(num_directions)
        self.scheme: Scheme = scheme

    def estimate(
        self, oracle: Oracle, batch: Any, mask: Mask | None = None, seed: int = 0, ledger: Ledger | None = None
    ) -> GradientEstimate:
        parameters = parameters_of(oracle, mask)
        seeds = torch.randint(2**62, (self.num_directions,), generator=new_generator(seed)).tolist()
        steps = query_steps(self.step_size, self.scheme)
        queries = Directions(tuple(s for s in seeds for _ in steps), steps * len(seeds), mask)
        slopes, known, estimate = ask_slopes(oracle, batch, [queries], self.step_size, self.scheme, ledger)
        grads = {name: torch.zeros_like(p) for name, p in parameters.items()}
        active = [p.numel() for p in parameters.values()] if mask is None else [int(part.sum()) for part in mask.values()]
        dimension = sum(active)
        answered = max(1, int(known.sum()))  # the mean of those that are there is as unbiased
        for direction_seed, slope in zip(seeds, slopes.tolist(), strict=True):
            for name, u in unit_direction(parameters, direction_seed, mask).items():
                grads[name].add_(u, alpha=slope * dimension / answered)
        return replace(estimate, grads=grads)
