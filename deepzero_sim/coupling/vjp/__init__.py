"""Vector-Jacobian products of solvers that offer none."""

from deepzero_sim.common.arguments import guard_calls as _guard_calls
from deepzero_sim.coupling.vjp.analytic import Detached, Exact, StraightThrough
from deepzero_sim.coupling.vjp.auto.auto import Auto
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.coupling.vjp.coloured import Coloured
from deepzero_sim.coupling.vjp.directional_probes import CoordinateProbes, RandomProbes
from deepzero_sim.coupling.vjp.field.jacobian_field import JacobianField
from deepzero_sim.coupling.vjp.reference.reference_jacobian import ReferenceJacobian

__all__ = [
    "Auto",
    "Coloured",
    "CoordinateProbes",
    "Detached",
    "Exact",
    "JacobianField",
    "RandomProbes",
    "ReferenceJacobian",
    "StepTaken",
    "StraightThrough",
    "VectorJacobianProduct",
]

_guard_calls(__name__)
