"""Combinations of features on which a Jacobian depends, from products at a sample of points."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator, lsmr

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.field.state_features import FilterGrid, Stencil, count_levels, star

#: Points of all probes together that are sampled.
POINTS = 2**15

#: Damping of least squares whose columns have mean squares of 1, a point, and most iterations: columns are nearly orthogonal.
DAMPING, ITERATIONS = 1e-2, 12


class Sample(NamedTuple):
    """Features at a sample of points.

    Args:
        places: Indices of the points into the flat grid, one row a probe, `(P, n)`.
        features: Features there, `(P n, M)`.
    """

    places: np.ndarray
    features: Array

    def at(self, values: Array) -> Array:
        """Pick values `(P, C, *N)` at the points, `(P n, C)`, float64."""
        picked = np.take_along_axis(values.reshape(*values.shape[:2], -1), self.places[:, None], axis=2)
        return picked.transpose(0, 2, 1).reshape(-1, values.shape[1]).astype(np.float64)


def sample_places(count: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """Choose points of each of `P` probes among so many of the grid, `(P, n)`."""
    each = min(size, max(1, POINTS // count))
    return np.stack([generator.choice(size, each, replace=False) for _ in range(count)])


def gather_neighbours(values: Array, grid: FilterGrid, sample: Sample) -> Array:
    """Pick values `(P, C, *N)` around the points of a sample, near and smoothed ones far, made uncorrelated, `(P n, A)`."""
    transforms, waves, axes = grid.transform(values), grid.waves(), len(grid.points)
    around = [(0,) * axes, *star(axes)]
    offsets = [(level, offset) for level in range(count_levels(grid.points) + 1) for offset in around]
    offsets += [(0, tuple(2 * distance for distance in offset)) for offset in star(axes)]
    gathered = []
    for level, offset in offsets:
        stencil = Stencil(0, level, tuple(2**level * distance for distance in offset))
        gathered.append(sample.at(grid.values(transforms * stencil.response(waves))))
    neighbours = np.concatenate(gathered, axis=1)
    squares, basis = np.linalg.eigh(neighbours.T @ neighbours / len(neighbours))
    kept = squares > 1e-6 * squares[-1]
    return np.asarray(neighbours @ (basis[:, kept] / np.sqrt(squares[kept])))


class Directions(NamedTuple):
    """Orthonormal combinations of features, the most important first.

    Args:
        vectors: Weights of features, `(M, M)`, a combination a column.
        strengths: Size of what each adds to products, `(M,)`, in falling order.
    """

    vectors: Array
    strengths: Array


def find_directions(sample: Sample, neighbours: Array, targets: Array) -> Directions:
    """Find the combinations of features that matter.

    Least squares `y_c = sum_ma F_mac phi_m u_a` with a constant feature `phi_0`, then a singular value decomposition of the
    other features' `F`.

    Args:
        sample: Features at points.
        neighbours: Directions of the probes around them, `(n, A)`, uncorrelated.
        targets: Parts of the products to explain there, `(n, C)`.
    """
    if not sample.features.shape[1]:
        return Directions(np.zeros((0, 0)), np.zeros(0))
    features = np.concatenate([np.ones((len(targets), 1)), sample.features], axis=1)
    solution = np.stack([_fit(features, neighbours, target) for target in targets.T], axis=2)
    varying = solution[1:]
    vectors, strengths, _ = np.linalg.svd(varying.reshape(len(varying), -1), full_matrices=False)
    return Directions(vectors, strengths)


def refine_directions(sample: Sample, products: Array, targets: Array) -> Array:
    """Fit the combinations of features to kernels that are known: `y_c = sum_mr U_mr phi_m (G_r u)_c`.

    Args:
        sample: Features at points.
        products: Outputs of the kernels there, `(n, C, r)`.
        targets: Parts of the products to explain there, `(n, C)`.

    Returns:
        Orthonormal combinations, `(M, r)`.
    """
    sizes = np.sqrt(np.square(products).mean((0, 1))) + np.finfo(float).tiny
    features = np.repeat(sample.features, products.shape[1], axis=0)
    solution = _fit(features, (products / sizes).reshape(-1, products.shape[2]), targets.reshape(-1))
    return np.linalg.qr(solution / sizes)[0]


def _fit(features: Array, inputs: Array, targets: Array) -> Array:
    """Solve `y_n = sum_ma F_ma phi_nm u_na` in the sense of least squares: `F`, `(M, A)`."""
    shape = features.shape[1], inputs.shape[1]
    operator = LinearOperator(
        (len(features), shape[0] * shape[1]),
        matvec=lambda unknowns: np.einsum("na,na->n", features @ unknowns.reshape(shape), inputs),
        rmatvec=lambda residual: (features.T @ (residual.reshape(-1, 1) * inputs)).reshape(-1),
        dtype=np.float64,
    )
    return np.asarray(lsmr(operator, targets, DAMPING * np.sqrt(len(features)), maxiter=ITERATIONS)[0]).reshape(shape)
