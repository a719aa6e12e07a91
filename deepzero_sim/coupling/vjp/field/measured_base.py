"""Jacobian of one state as the common part of a field, where a medium is not uniform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.base_jacobian import BaseJacobian
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.state_metric import Metric, medoids

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe


@dataclass(frozen=True, eq=False)
class MeasuredBase:
    """Jacobian `M` at the state nearest to the mean, in units of each channel.

    Args:
        jacobian: Jacobian over the active points.
        block: Points of a block along each axis, see :class:`BaseJacobian`.
        active: Mask of the points where a state holds values, bool `(C, *N)`.
        sizes: Unit of each channel, `(C, *1)`.
    """

    jacobian: BaseJacobian
    block: int
    active: np.ndarray
    sizes: Array

    @classmethod
    def measure(
        cls, states: Array, params: Array | None, probes: SolverProbe, differences: Differences, block: int, sizes: Array
    ) -> MeasuredBase:
        """Measure at the state nearest to the mean of `(B, C, *N)`, with its parameters, `(B, K)` or None.

        Forward differences, with the same step size if one is given, suffice for a whole Jacobian.
        """
        metric, active = Metric.of(states, params), probes.spec.active()
        middle = medoids(metric.coordinates(states, params), 1)[0]
        at = None if params is None else params[middle]
        jacobian = BaseJacobian(active, block)
        advanced = probes(states[middle : middle + 1], None if at is None else at[None])[0]
        jacobian.measure(states[middle], at, advanced, probes, Differences(differences.step_size, "forward"))
        return cls(jacobian, block, active, sizes)

    @classmethod
    def load(cls, tensors: dict[str, Array], block: int, active: np.ndarray, sizes: Array) -> MeasuredBase:
        """Restore a base from the arrays of its Jacobian."""
        jacobian = BaseJacobian(active, block)
        jacobian.load(tensors)
        return cls(jacobian, block, active, sizes)

    def jvp(self, directions: Array) -> Array:
        """Compute `M v`, `(P, C, *N)`."""
        result = np.zeros_like(directions)
        result[:, self.active] = self.jacobian.jvp((directions * self.sizes)[:, self.active])
        return np.asarray(result / self.sizes)

    def vjp(self, cotangents: Array) -> Array:
        """Compute `M^T w`, `(P, C, *N)`."""
        result = np.zeros_like(cotangents)
        result[:, self.active] = self.jacobian.vjp((cotangents / self.sizes)[:, self.active])
        return np.asarray(result * self.sizes)
