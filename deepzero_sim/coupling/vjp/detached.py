"""No gradient past the solver."""

from __future__ import annotations

from typing import final

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct


@final
class Detached(VectorJacobianProduct):
    """`J = 0`: the gradient stops at the solver. Costs nothing."""

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        return np.zeros_like(cotangents)
