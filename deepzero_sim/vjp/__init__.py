"""Vector-Jacobian products of solvers that offer none."""

from deepzero_sim.arguments import guard_calls as _guard_calls
from deepzero_sim.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.vjp.coloured import Coloured
from deepzero_sim.vjp.coordinate_probes import CoordinateProbes
from deepzero_sim.vjp.detached import Detached
from deepzero_sim.vjp.random_probes import RandomProbes
from deepzero_sim.vjp.reference_jacobian import ReferenceJacobian
from deepzero_sim.vjp.straight_through import StraightThrough

__all__ = [
    "Coloured",
    "CoordinateProbes",
    "Detached",
    "RandomProbes",
    "ReferenceJacobian",
    "StepTaken",
    "StraightThrough",
    "VectorJacobianProduct",
]

_guard_calls(__name__)
