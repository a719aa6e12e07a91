"""Vector-Jacobian products that are known without probing the solver: zero, the identity, and torch's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
import torch

from deepzero_sim.common.requirements import require_that
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.errors import ConfigError, NonFiniteError
from deepzero_sim.solver.contract import DifferentiableSolver, Solver
from deepzero_sim.solver.failure_policy import Account
from deepzero_sim.solver.stepping import differentiable_step

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe


@final
class Detached(VectorJacobianProduct):
    """`J = 0`: the gradient stops at the solver. Costs nothing.

    Where the network of a loop acts before or inside a step, its own gradient passes that one step, and stops at the state that
    the step began with: see :class:`~deepzero_sim.SolverLoop`.
    """

    self_adjoint = True

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        return np.zeros_like(cotangents)


@final
class StraightThrough(VectorJacobianProduct):
    """`J = I`: a step changes a state by little. Costs nothing (Bengio et al., arXiv 1308.3432, of thresholds).

    Where the network of a loop acts inside a step, the identity stands for the Jacobian with respect to the state alone.
    """

    self_adjoint = True

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        return cotangents.copy()

    def jvp(self, taken: StepTaken, directions: Array, probes: SolverProbe) -> Array:
        return directions.copy()


@final
class Exact(VectorJacobianProduct):
    """`J` itself, by torch's autograd through the step of a :class:`~deepzero_sim.DifferentiableSolver`.

    A layer takes the step by :meth:`differentiable_step`, whose graph holds all that the way back needs, so that the gradient
    takes no solver steps of its own. :meth:`product` has no such graph: it takes each step once more, and counts it.
    """

    def bind(self, solver: Solver) -> None:
        _require_differentiable(solver)
        super().bind(solver)

    def differentiable_step(self, solver: Solver, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
        advanced = differentiable_step(_require_differentiable(solver), states, params)
        require_that(
            bool(torch.isfinite(advanced).all()),
            f"what solver {solver.spec.name!r} returned must be finite, but it holds NaN or infinity: "
            "use a smaller learning rate or fewer unrolled steps.",
            NonFiniteError,
        )
        return advanced

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        # copies, as torch may write into what numpy calls read-only
        states = torch.from_numpy(taken.states.copy()).requires_grad_()
        params = None if taken.params is None else torch.from_numpy(taken.params.copy())
        with torch.enable_grad():
            advanced = self.differentiable_step(probes.solver, states, params)
        probes.count(Account(len(states)))
        require_that(
            advanced.requires_grad,
            f"the differentiable step of solver {probes.spec.name!r} has no gradient: look for detach() or numpy in it.",
        )
        (product,) = torch.autograd.grad(advanced, states, torch.from_numpy(cotangents.copy()))
        return np.where(probes.spec.active(), product.numpy(), np.zeros((), cotangents.dtype))


def _require_differentiable(solver: Solver) -> DifferentiableSolver:
    if not isinstance(solver, DifferentiableSolver):
        raise ConfigError(
            f"solver {solver.spec.name!r} offers no gradient: use a DifferentiableSolver for gradient='exact', "
            "or 'detached' or 'straight-through'."
        )
    return solver
