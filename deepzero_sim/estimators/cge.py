"""Coordinate-wise gradient estimation: finite differences along each active coordinate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from deepzero_sim.common.types import Mask, Scheme
from deepzero_sim.estimators.base import (
    Estimator,
    GradientEstimate,
    active_coordinates,
    as_gradient,
    ask_slopes,
    coordinate_queries,
    parameters_of,
    require_scheme,
)
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.ledger import Ledger
from deepzero_sim.oracle.queries import Coordinates


class CGE(Estimator):
    """Finite differences along every active coordinate (Chen et al., DeepZero, ICLR 2024, eq. 2 and its sparse form):

        g = sum_{j in S} (l(theta + mu e_j) - l(theta)) / mu * e_j

    or, central, `(l(theta + mu e_j) - l(theta - mu e_j)) / (2 mu)`. Its bias is of order `mu`, central `mu^2`; rounding
    adds noise of order `eps * l / mu`. One query a coordinate, central two, and one for the loss itself.

    Args:
        step_size: Length of a step in units of the parameters, `mu`.
        scheme: Finite differences, ``"forward"`` or ``"central"``.
    """

    def __init__(self, step_size: float = 1e-3, scheme: Scheme = "central") -> None:
        require_scheme(step_size, scheme)
        self.step_size = step_size
        self.scheme: Scheme = scheme

    def estimate(
        self, oracle: Oracle, batch: Any, mask: Mask | None = None, seed: int = 0, ledger: Ledger | None = None
    ) -> GradientEstimate:
        parameters = parameters_of(oracle, mask)
        active = active_coordinates(parameters, mask)
        slopes = ask_slopes(oracle, batch, self.queries(active), self.step_size, self.scheme, ledger)
        return replace(slopes.estimate, grads=as_gradient(slopes.values, active, parameters))

    def queries(self, active: Mapping[str, torch.Tensor]) -> list[Coordinates]:
        """List the perturbations that an oracle is asked for, given the flat positions of active coordinates, `(n,)`."""
        return coordinate_queries(active, self.step_size, self.scheme)
