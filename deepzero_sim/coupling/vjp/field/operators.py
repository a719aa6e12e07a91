"""Operators of a Jacobian field: convolutions with coefficients that depend on the state, and their exponential."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.field.kernel_grid import KernelGrid, convolve, correlate

#: Terms of the exponential's series after the first.
ORDER = 2


@dataclass(frozen=True, eq=False)
class FieldOperators:
    """Jacobian of a step, `J = exp(A) B` with `A = sum_r diag(psi_r) G_r`, for given coefficients `psi`.

    `B` is what all states have in common. The exponential, to second order, is what many small steps of a rate of change `A`
    make of it: the first term of Magnus's series (Commun. Pure Appl. Math. 7, 1954).

    Args:
        grid: Grid of the kernels.
        base: Transforms of the kernels of `B`, `(C, C, *K)`.
        varying: Transforms of the kernels of `G_r`, `(r, C, C, *K)`.
    """

    grid: KernelGrid
    base: Array
    varying: Array

    def apply_base(self, directions: Array) -> Array:
        """Compute `B v`, `(P, C, *N)` to `(P, C, *N)`."""
        return self.grid.values(convolve(self.base, self.grid.transform(directions)))

    def apply_varying(self, coefficients: Array, directions: Array) -> Array:
        """Compute `A v` for coefficients `(P, r, *N)` and directions `(P, C, *N)`."""
        inputs, result = self.grid.transform(directions), np.zeros_like(directions)
        for r, kernels in enumerate(self.varying):
            result += coefficients[:, r : r + 1] * self.grid.values(convolve(kernels, inputs))
        return result

    def correct(self, coefficients: Array, directions: Array) -> Array:
        """Compute `exp(A) v`, to second order."""
        term = result = directions
        for order in range(1, ORDER + 1):
            term = self.apply_varying(coefficients, term) / order
            result = result + term
        return result

    def jvp(self, coefficients: Array, directions: Array) -> Array:
        """Compute `J v` for coefficients `(P, r, *N)` and directions `(P, C, *N)`."""
        return self.correct(coefficients, self.apply_base(directions))

    def vjp(self, coefficients: Array, cotangents: Array) -> Array:
        """Compute `J^T w` for coefficients `(P, r, *N)` and cotangents `(P, C, *N)`."""
        term = result = cotangents
        for order in range(1, ORDER + 1):
            term = self._apply_varying_transposed(coefficients, term) / order
            result = result + term
        return self.grid.values(correlate(self.base, self.grid.transform(result)))

    def _apply_varying_transposed(self, coefficients: Array, cotangents: Array) -> Array:
        outputs: Array | float = 0.0
        for r, kernels in enumerate(self.varying):
            outputs = outputs + correlate(kernels, self.grid.transform(coefficients[:, r : r + 1] * cotangents))
        return np.zeros_like(cotangents) if isinstance(outputs, float) else self.grid.values(outputs)
