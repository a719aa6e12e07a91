"""Stencils that differ from point to point: what walls, obstacles and variable coefficients add to a convolution."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.field.kernel_grid import KernelGrid
from deepzero_sim.coupling.vjp.field.least_squares import pieces

#: Ridge of a point's normal equations, as a share of their mean diagonal: what probes do not tell for sure is left out.
RIDGE = 0.05


@dataclass(frozen=True, eq=False)
class LocalStencils:
    """Operator `(D v)_c(x) = sum_ko d_cko(x) v_k(x + o)` over neighbours `o` within a radius, `k` over channels.

    Args:
        grid: Grid of the points.
        radius: Radius of the stencils, in points; 0 stands for no operator, `D = 0`.
        weights: Weights `d`, `(C, C, neighbours, *N)`; `(C, C, 0, *N)` for none.
    """

    grid: KernelGrid
    radius: int
    weights: Array

    @classmethod
    def none(cls, grid: KernelGrid, channels: int, dtype: np.dtype[np.floating]) -> LocalStencils:
        """Make the operator that is zero."""
        return cls(grid, 0, np.zeros((channels, channels, 0, *grid.points), dtype))

    @classmethod
    def fit(cls, grid: KernelGrid, radius: int, directions: Array, answers: Array) -> LocalStencils:
        """Fit `D v = y` at every point by itself, by least squares with a ridge.

        Args:
            grid: Grid of the points.
            radius: Radius of the stencils.
            directions: Directions `v`, `(P, C, *N)`.
            answers: Answers `y`, `(P, C, *N)`.
        """
        count, channels = directions.shape[:2]
        around = np.stack([grid.shift(directions, offset) for offset in _neighbours(grid, radius)], axis=2)
        inputs = np.moveaxis(around.reshape(count, channels * around.shape[2], -1), 2, 0)  # (points, P, unknowns)
        outputs = np.moveaxis(answers.reshape(count, channels, -1), 2, 0)
        found = []
        for part in pieces(len(inputs), inputs.shape[2] * (count + inputs.shape[2])):
            columns = inputs[part].astype(np.float64)
            normal = columns.swapaxes(1, 2) @ columns
            size = np.trace(normal, axis1=1, axis2=2)[:, None, None] / normal.shape[1]
            normal += (RIDGE * size + np.finfo(np.float64).tiny) * np.eye(normal.shape[1])
            found.append(np.linalg.solve(normal, columns.swapaxes(1, 2) @ outputs[part]))
        weights = np.moveaxis(np.concatenate(found), 0, 2).reshape(channels, around.shape[2], channels, *grid.points)
        return cls(grid, radius, np.ascontiguousarray(np.moveaxis(weights, 2, 0), dtype=directions.dtype))

    def _numbered(self) -> list[tuple[int, tuple[int, ...]]]:
        """List the number and offset of each neighbour that has weights."""
        return list(enumerate(_neighbours(self.grid, self.radius))) if self.radius else []

    def jvp(self, directions: Array) -> Array:
        """Compute `D v`, `(P, C, *N)`."""
        result = np.zeros_like(directions)
        for number, offset in self._numbered():
            shifted = self.grid.shift(directions, offset)
            result += np.einsum("ck...,pk...->pc...", self.weights[:, :, number], shifted)
        return result

    def vjp(self, cotangents: Array) -> Array:
        """Compute `D^T w`, `(P, C, *N)`."""
        result = np.zeros_like(cotangents)
        for number, offset in self._numbered():
            weighted = np.einsum("ck...,pc...->pk...", self.weights[:, :, number], cotangents)
            result += self.grid.shift(weighted, [-distance for distance in offset])
        return result


def _neighbours(grid: KernelGrid, radius: int) -> list[tuple[int, ...]]:
    return list(itertools.product(range(-radius, radius + 1), repeat=len(grid.points)))
