"""ZO-GraSP: GraSP from forward passes alone."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, final, get_args

import torch

from deepzero_sim.common.module_state import preserve_state
from deepzero_sim.common.requirements import require_one_of, require_sparsity
from deepzero_sim.common.types import Mask, NamedTensors, Scheme
from deepzero_sim.errors import DivergedError, NonFiniteError
from deepzero_sim.estimators.base import Estimator, GradientEstimate
from deepzero_sim.estimators.cge import CGE
from deepzero_sim.estimators.rge import RGE
from deepzero_sim.estimators.sparsity.base import Densities, LayerRatios, layer_weights
from deepzero_sim.estimators.sparsity.scores import HessianGradient, Rule, grasp_densities, require_finite_tensors
from deepzero_sim.oracle.base import Oracle

#: Estimators of `g`: the random one of DeepZero, or the coordinate-wise one.
Gradient: TypeAlias = Literal["rge", "cge"]


@final
class ZOGraSP(LayerRatios):
    """Layer ratios from a global threshold on scores that need losses only (Chen et al., DeepZero, ICLR 2024, section 4):

        S = -theta * (g(theta + mu g(theta)) - g(theta)) / mu     elementwise

    with `g` an estimate of the gradient of the `d` scored weights. For small `mu` the difference quotient is `H g`.

    With `g` of random directions, both are taken along the same `q`, because the difference of estimates along different
    directions is mostly the difference of the directions. So `H g` is estimated as `A H A g`, `A = d/q sum_i u_i u_i^T`, which
    on average is the identity. The average of the whole is off by `(trace(H) g + H g) / q` for large `d`, and its scatter,
    relative to `H g`, is of order `sqrt(d / q)` and more: with fewer directions than weights the scores are mostly noise, and
    the ratios mostly say where the weights are large. Where `2 (d + 1)` losses can be paid for, the coordinate-wise gradient
    has neither fault.

    Args:
        step_size: Length of steps along a direction or coordinate, `mu`; the step along the gradient is `mu |g|` long.
        num_directions: Number of directions, `q`.
        scheme: Finite differences of the gradients, ``"forward"`` or ``"central"``.
        gradient: Estimator of `g`: ``"rge"``, :class:`~deepzero_sim.RGE` with `q` directions, or ``"cge"``,
            :class:`~deepzero_sim.CGE`.
        rule: Weights that survive: ``"signed"`` keeps the lowest scores, as GraSP does; ``"magnitude"`` the largest `|S|`, as
            DeepZero's code does.

    It asks for `2 (n + 1)` losses, `n` the directions or coordinates; for `2 (2 n + 1)` with the central scheme. The defaults
    are DeepZero's settings.

    Raises:
        ConfigError: An argument cannot be used.
    """

    def __init__(
        self,
        step_size: float = 5e-3,
        num_directions: int = 192,
        scheme: Scheme = "forward",
        gradient: Gradient = "rge",
        rule: Rule = "signed",
    ) -> None:
        require_one_of(rule, get_args(Rule), "rule")
        require_one_of(gradient, get_args(Gradient), "gradient")
        random = RGE(step_size, num_directions, scheme)
        self._gradient: Estimator = random if gradient == "rge" else CGE(step_size, scheme)
        self.step_size = step_size
        self.rule: Rule = rule

    def densities(self, oracle: Oracle, batch: Any, sparsity: float, seed: int = 0) -> Densities:
        require_sparsity(sparsity)
        product = self.hessian_gradient(oracle, batch, seed)
        return grasp_densities(layer_weights(oracle.model), product, sparsity, self.rule)

    def hessian_gradient(self, oracle: Oracle, batch: Any, seed: int = 0) -> HessianGradient:
        """Compute `(g(theta + mu g(theta)) - g(theta)) / mu`; the network is at `theta` again afterwards, whatever happens.

        Raises:
            DivergedError: A loss on the way is not finite.
            SolverError: The solver failed.
        """
        weights = layer_weights(oracle.model)
        scored = {name: torch.ones(w.shape, dtype=torch.bool) for name, w in weights.items()}
        here = self._gradient.estimate(oracle, batch, scored, seed)
        require_finite_tensors(here.grads, "gradient")
        with preserve_state(oracle.model):
            there = self._gradient_beyond(oracle, batch, scored, seed, {name: here.grads[name] for name in weights})
        values = {name: (there.grads[name] - here.grads[name]) / self.step_size for name in weights}
        queries, solver_steps = here.queries + there.queries, here.solver_steps + there.solver_steps
        return HessianGradient(values, queries, solver_steps, here.incidents + there.incidents)

    def _gradient_beyond(self, oracle: Oracle, batch: Any, scored: Mask, seed: int, along: NamedTensors) -> GradientEstimate:
        """Estimate the gradient at `theta + mu * along`, where the network is left."""
        with torch.no_grad():
            for name, direction in along.items():
                oracle.model.get_parameter(name).add_(direction, alpha=self.step_size)
        try:
            return self._gradient.estimate(oracle, batch, scored, seed)
        except (DivergedError, NonFiniteError) as error:
            raise DivergedError(
                f"one step of {self.step_size} times the gradient leads ZO-GraSP to where the loss is not finite ({error}): "
                "take a smaller step_size for the layer ratios."
            ) from error
