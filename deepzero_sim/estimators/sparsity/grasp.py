"""GraSP by back-propagation: the first-order baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final, get_args

import torch

from deepzero_sim.common.module_state import preserve_state
from deepzero_sim.common.requirements import require_one_of, require_sparsity, require_that
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators.base import require_gradient
from deepzero_sim.estimators.sparsity.base import Densities, LayerRatios, layer_weights
from deepzero_sim.estimators.sparsity.scores import HessianGradient, Rule, grasp_densities
from deepzero_sim.oracle.base import Oracle, require_finite

_TWICE = "GraSP differentiates the loss twice, but part of it can be differentiated only once"


@final
class GraSP(LayerRatios):
    """Layer ratios from a global threshold on `S = -theta * (H g)`, with the exact gradient `g` and product `H g`.

    `g` and `H` are those of the scored weights, as far as autograd sees the loss: in a solver loop with a detached solver,
    they take the solver's Jacobian to be zero. A differentiable solver must allow two differentiations: one that computes
    its vector-Jacobian product outside torch is taken to be linear. Wang, Zhang and Grosse, ICLR 2020; see
    :mod:`deepzero_sim.estimators.sparsity.scores`.

    Args:
        rule: Weights that survive: ``"signed"`` keeps the lowest scores, as GraSP does; ``"magnitude"`` the largest `|S|`, as
            DeepZero's code does.
    """

    def __init__(self, rule: Rule = "signed") -> None:
        require_one_of(rule, get_args(Rule), "rule")
        self.rule: Rule = rule

    def densities(self, oracle: Oracle, batch: Any, sparsity: float, seed: int = 0) -> Densities:
        require_sparsity(sparsity)
        product = self.hessian_gradient(oracle, batch)
        return grasp_densities(layer_weights(oracle.model), product, sparsity, self.rule)

    def hessian_gradient(self, oracle: Oracle, batch: Any) -> HessianGradient:
        """Compute `H g` by differentiating `<g(theta), g>` with the second `g` held fixed (Pearlmutter, 1994).

        Raises:
            ConfigError: The loss cannot be differentiated, or not twice.
            DivergedError: The loss is not finite.
        """
        weights = layer_weights(oracle.model)
        with preserve_state(oracle.model):
            loss, account = oracle.differentiable_loss(batch)
            require_finite(float(loss.detach()))
            products = _product(loss, list(weights.values()))
        named = dict(zip(weights, products, strict=True))
        return HessianGradient(named, 1, account.steps, account.incidents)


def _product(loss: torch.Tensor, weights: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    require_gradient(loss)
    grads = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True, materialize_grads=True)
    inner = torch.stack([(g * g.detach().conj()).real.sum() for g in grads]).sum()
    if not inner.requires_grad:  # the loss is linear in every weight
        return [torch.zeros_like(w) for w in weights]
    _require_twice_differentiable(inner)
    try:
        return torch.autograd.grad(inner, weights, allow_unused=True, materialize_grads=True)
    except RuntimeError as error:
        raise ConfigError(f"{_TWICE} ({error}): take ZO-GraSP, which differentiates nothing.") from error


def _require_twice_differentiable(gradient: torch.Tensor) -> None:
    """Refuse a gradient through functions that can be differentiated only once: torch leaves them out without a word."""
    waiting, seen = [gradient.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        require_that(not node.name().endswith("::Error"), f"{_TWICE}: take ZO-GraSP, which differentiates nothing.")
        waiting += [following for following, _ in node.next_functions]
