"""Gradient by back-propagation: the first-order methods, as an estimator like the others."""

from __future__ import annotations

from typing import Any

import torch

from deepzero_sim.common.types import Mask
from deepzero_sim.errors import SolverError
from deepzero_sim.estimators.base import Estimator, GradientEstimate, parameters_of, require_gradient
from deepzero_sim.oracle.base import Oracle, require_finite
from deepzero_sim.solver.failure_policy import with_account


class BackPropagation(Estimator):
    """torch's own gradient of the oracle's loss, as far as autograd sees it.

    In a solver loop, the loop decides what autograd sees of the solver: with an exact solver gradient this is FO-SOL, the
    upper bound; unrolled one step it is NON.
    """

    def estimate(self, oracle: Oracle, batch: Any, mask: Mask | None = None, seed: int = 0) -> GradientEstimate:
        parameters = parameters_of(oracle, mask)
        before = oracle.backward_account
        loss, account = oracle.differentiable_loss(batch)
        value = float(loss.detach())
        require_finite(value)
        require_gradient(loss)
        try:
            grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        except SolverError as error:
            raise with_account(error, account + oracle.backward_account.since(before)) from error.__cause__
        account += oracle.backward_account.since(before)
        named = dict(zip(parameters, grads, strict=True))
        if mask is not None:
            named = {name: g * mask[name] if name in mask else torch.zeros_like(g) for name, g in named.items()}
        return GradientEstimate(named, value, 1, account.steps, incidents=account.incidents)
