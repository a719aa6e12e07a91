"""The gradient by back-propagation: the first-order methods, through the same door as the estimators."""

from __future__ import annotations

from typing import Any

import torch

from deepzero_sim.common.types import Mask
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators.base import Estimator, GradientEstimate, parameters_of
from deepzero_sim.oracle.base import Oracle, require_finite


class BackPropagation(Estimator):
    """torch's own gradient of the oracle's loss, as far as autograd sees it.

    In a solver loop, what it sees of the solver is the loop's choice: with an exact solver gradient this is FO-SOL, the
    upper bound; unrolled one step it is NON.
    """

    def estimate(self, oracle: Oracle, batch: Any, mask: Mask | None = None, seed: int = 0) -> GradientEstimate:
        parameters = parameters_of(oracle, mask)
        before = oracle.backward_steps
        loss, solver_steps = oracle.differentiable_loss(batch)
        value = float(loss.detach())
        require_finite(value)
        if not loss.requires_grad:
            raise ConfigError("the loss has no gradient: look for detach(), no_grad() or numpy in the network and the loss.")
        grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        named = {name: g if mask is None else _masked(name, g, mask) for name, g in zip(parameters, grads, strict=True)}
        return GradientEstimate(named, value, 1, solver_steps + oracle.backward_steps - before)


def _masked(name: str, grad: torch.Tensor, mask: Mask) -> torch.Tensor:
    return grad * mask[name] if name in mask else torch.zeros_like(grad)
