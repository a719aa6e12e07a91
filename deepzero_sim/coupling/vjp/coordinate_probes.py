"""The points that matter most, one by one."""

from __future__ import annotations

from typing import final

import numpy as np

from deepzero_sim.common.types import Array, Scheme
from deepzero_sim.coupling.vjp.base import VectorJacobianProduct
from deepzero_sim.coupling.vjp.control_variate import ControlVariate


@final
class CoordinateProbes(ControlVariate):
    """Directions along the points where `B^T w` is largest, with `c = 1`: there the product is exact, to the error of finite
    differences, and that of the control at all others.

    Args:
        points: `m`; where they are all points of a state, the product is exact.
        control: `B`; the identity if None.
        step_size: as of :class:`~deepzero_sim.coupling.vjp.differences.Differences`.
        scheme: ``"forward"`` or ``"central"``.
    """

    def __init__(
        self,
        points: int = 64,
        control: VectorJacobianProduct | None = None,
        step_size: float | None = None,
        scheme: Scheme = "central",
    ) -> None:
        super().__init__(points, control, step_size, scheme)

    def _directions(self, state: Array, product: Array, active: np.ndarray) -> Array:
        places = np.flatnonzero(active)
        largest = places[np.argsort(-np.abs(product.reshape(-1)[places]), kind="stable")[: self.count]]
        directions = np.zeros((len(largest), state.size), state.dtype)
        directions[np.arange(len(largest)), largest] = 1
        return directions.reshape(-1, *state.shape)
