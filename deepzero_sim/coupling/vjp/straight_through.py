"""The gradient past the solver as if it did nothing."""

from __future__ import annotations

from typing import final

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct


@final
class StraightThrough(VectorJacobianProduct):
    """`J = I`: a step changes a state by little. Costs nothing (Bengio et al., arXiv 1308.3432, of thresholds)."""

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        return cotangents.copy()
