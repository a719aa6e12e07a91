"""Operators of a Jacobian field: convolutions with coefficients that depend on the state, and their exponential."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.field.kernel_grid import KernelGrid, convolve, correlate
from deepzero_sim.coupling.vjp.field.local_stencils import LocalStencils
from deepzero_sim.coupling.vjp.field.measured_base import MeasuredBase


@dataclass(frozen=True, eq=False)
class FieldOperators:
    """Jacobian of a step, `J = exp(A) B` with `A = H sum_r diag(psi_r) G_r`, for given coefficients `psi`.

    `B` is what all states have in common. `H` is what the solver does to all changes alike: projection on fields without
    divergence, removal of waves that a grid does not resolve, an implicit step. The exponential is what many small steps of a
    rate of change `A` make of it: the first term of Magnus's series (Commun. Pure Appl. Math. 7, 1954), cut off after `A` or
    `A^2 / 2`.

    Args:
        grid: Grid of the kernels.
        base: Transforms of the kernels of `B`, `(C, C, *K)`.
        varying: Transforms of the kernels of `G_r`, `(r, C, C, *K)`.
        after: Transforms of the kernels of `H`, `(C, C, *K)`, or None for the identity.
        local: Stencils that add to `B` what differs from point to point.
        measured: Measured Jacobian that adds to `B`, or None.
        order: Order of the exponential, 1 or 2.
    """

    grid: KernelGrid
    base: Array
    varying: Array
    after: Array | None
    local: LocalStencils
    measured: MeasuredBase | None
    order: int

    def apply_base(self, directions: Array) -> Array:
        """Compute `B v`, `(P, C, *N)` to `(P, C, *N)`."""
        fitted = self.grid.values(convolve(self.base, self.grid.transform(directions))) + self.local.jvp(directions)
        return fitted if self.measured is None else fitted + self.measured.jvp(directions)

    def apply_varying(self, coefficients: Array, directions: Array) -> Array:
        """Compute `A v` for coefficients `(P, r, *N)` and directions `(P, C, *N)`."""
        rates = self.apply_rates(coefficients, directions)
        return rates if self.after is None else self.grid.values(convolve(self.after, self.grid.transform(rates)))

    def apply_rates(self, coefficients: Array, directions: Array) -> Array:
        """Compute `A v` without `H`."""
        inputs, result = self.grid.transform(directions), np.zeros_like(directions)
        for r, kernels in enumerate(self.varying):
            result += coefficients[:, r : r + 1] * self.grid.values(convolve(kernels, inputs))
        return result

    def second_order(self, coefficients: Array, directions: Array) -> Array:
        """Compute `A^2 v / 2`."""
        return self.apply_varying(coefficients, self.apply_varying(coefficients, directions)) / 2

    def jvp(self, coefficients: Array, directions: Array) -> Array:
        """Compute `J v` for coefficients `(P, r, *N)` and directions `(P, C, *N)`."""
        term = result = self.apply_base(directions)
        for order in range(1, self.order + 1):
            term = self.apply_varying(coefficients, term) / order
            result = result + term
        return result

    def vjp(self, coefficients: Array, cotangents: Array) -> Array:
        """Compute `J^T w` for coefficients `(P, r, *N)` and cotangents `(P, C, *N)`."""
        grid = self.grid
        term = result = grid.transform(cotangents)
        for order in range(1, self.order + 1):
            term = grid.crop(self._apply_varying_transposed(coefficients, term) / order)
            result = result + term
        common = grid.values(correlate(self.base, result))
        if self.local.radius:
            common = common + self.local.vjp(grid.values(result))
        return common if self.measured is None else common + self.measured.vjp(grid.values(result))

    def _apply_varying_transposed(self, coefficients: Array, transform: Array) -> Array:
        """Compute the transform of `A^T w` from that of `w`, `(P, C, *K)`."""
        cotangents = self.grid.values(transform if self.after is None else correlate(self.after, transform))
        weighted = self.grid.transform(coefficients[:, :, None] * cotangents[:, None])
        found = np.zeros((len(cotangents), cotangents.shape[1], *weighted.shape[3:]), weighted.dtype)
        for r, kernels in enumerate(self.varying):
            found += correlate(kernels, weighted[:, r])
        return found
