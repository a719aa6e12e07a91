"""Coordinate-wise gradient estimation: finite differences along each active coordinate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from deepzero_sim.common.types import Mask, NamedTensors, Scheme
from deepzero_sim.estimators.base import Estimator, GradientEstimate, ask_slopes, parameters_of, query_steps, require_scheme
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
        active = _active_indices(parameters, mask)
        slopes, estimate = ask_slopes(oracle, batch, self.queries(active), self.step_size, self.scheme, ledger)
        grads = {name: torch.zeros_like(p, memory_format=torch.contiguous_format) for name, p in parameters.items()}
        parts = torch.split(slopes, [len(indices) for indices in active.values()])
        for (name, indices), part in zip(active.items(), parts, strict=True):
            grads[name].view(-1)[indices.to(grads[name].device)] = part.to(grads[name])
        return replace(estimate, grads=grads)

    def queries(self, active: Mapping[str, torch.Tensor]) -> list[Coordinates]:
        """List the perturbations that an oracle is asked for, given the flat positions of active coordinates, `(n,)`."""
        steps = query_steps(self.step_size, self.scheme)
        return [
            Coordinates(name, tuple(indices.repeat_interleave(len(steps)).tolist()), steps * len(indices))
            for name, indices in active.items()
        ]


def _active_indices(parameters: Mapping[str, torch.Tensor], mask: Mask | None) -> NamedTensors:
    """Find the flat positions of active coordinates, `(n,)`, for each parameter that has any."""
    if mask is None:
        return {name: torch.arange(p.numel()) for name, p in parameters.items()}
    active = {name: mask[name].cpu().reshape(-1).nonzero().view(-1) for name in parameters if name in mask}
    return {name: indices for name, indices in active.items() if len(indices)}
