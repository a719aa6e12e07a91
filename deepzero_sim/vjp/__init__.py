"""Vector-Jacobian products of solvers that offer none."""

from deepzero_sim.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.vjp.coloured import Coloured
from deepzero_sim.vjp.detached import Detached
from deepzero_sim.vjp.reference_jacobian import ReferenceJacobian, spread
from deepzero_sim.vjp.straight_through import StraightThrough

__all__ = [
    "Coloured",
    "Detached",
    "ReferenceJacobian",
    "StepTaken",
    "StraightThrough",
    "VectorJacobianProduct",
    "spread",
]
