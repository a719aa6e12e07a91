"""Coordinate-wise gradient estimation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from deepzero_sim.common.types import Mask, NamedTensors, Scheme
from deepzero_sim.estimators.base import (
    Estimator,
    GradientEstimate,
    ask_slopes,
    check_scheme,
    parameters_of,
    signed_steps,
)
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.queries import Coordinates


class CGE(Estimator):
    """Finite differences along every active coordinate (Chen et al., DeepZero, ICLR 2024, eq. 2 and its sparse form):

        g = sum_{j in S} (l(theta + mu e_j) - l(theta)) / mu * e_j

    or, central, `(l(theta + mu e_j) - l(theta - mu e_j)) / (2 mu)`. Its bias is of order `mu`, central `mu^2`; rounding
    adds noise of order `eps * l / mu`. One query a coordinate, central two, and one for the loss itself.

    Args:
        step_size: `mu`, in units of the parameters.
        scheme: ``"forward"`` or ``"central"``.
    """

    def __init__(self, step_size: float = 1e-3, scheme: Scheme = "central") -> None:
        check_scheme(step_size, scheme)
        self.step_size = step_size
        self.scheme: Scheme = scheme

    def estimate(self, oracle: Oracle, batch: Any, mask: Mask | None = None, seed: int = 0) -> GradientEstimate:
        parameters = parameters_of(oracle, mask)
        active = _active_indices(parameters, mask)
        slopes = ask_slopes(oracle, batch, self.queries(active), self.step_size, self.scheme)
        grads = {name: torch.zeros_like(p, memory_format=torch.contiguous_format) for name, p in parameters.items()}
        parts = torch.split(slopes.values, [len(indices) for indices in active.values()])
        for (name, indices), part in zip(active.items(), parts, strict=True):
            grads[name].view(-1)[indices.to(grads[name].device)] = part.to(grads[name])
        return GradientEstimate(grads, slopes.loss, slopes.queries, slopes.solver_steps, slopes.dropped)

    def queries(self, active: Mapping[str, torch.Tensor]) -> list[Coordinates]:
        """What an oracle is asked for.

        Args:
            active: by parameter, flat positions of its active coordinates, `(n,)`.
        """
        steps = signed_steps(self.step_size, self.scheme)
        return [
            Coordinates(name, tuple(indices.repeat_interleave(len(steps)).tolist()), steps * len(indices))
            for name, indices in active.items()
        ]


def _active_indices(parameters: Mapping[str, torch.Tensor], mask: Mask | None) -> NamedTensors:
    """For each parameter with active coordinates their flat positions, `(n,)`."""
    if mask is None:
        return {name: torch.arange(p.numel()) for name, p in parameters.items()}
    active = {name: mask[name].cpu().reshape(-1).nonzero().view(-1) for name in parameters if name in mask}
    return {name: indices for name, indices in active.items() if len(indices)}
