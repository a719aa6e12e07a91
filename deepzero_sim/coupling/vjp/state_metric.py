"""Distance of states, the choice of those that stand for all others, and of one that is least like them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.units import units_of


@dataclass(frozen=True, eq=False)
class Metric:
    """Squared distance `mean_c |s_c - s'_c|^2 / (n_c sigma_c^2) + sum_k (p_k - p'_k)^2 / rho_k^2` of states with parameters.

    Args:
        sizes: Root mean square deviation of each channel from its mean over states, `sigma`, `(C,)`, see :func:`units_of`.
        spans: Standard deviation of each parameter, `rho`, `(K,)`, likewise; empty if there are none.
    """

    sizes: Array
    spans: Array

    @classmethod
    def of(cls, states: Array, params: Array | None) -> Metric:
        """Fit the metric to states like those to come, `(B, C, *N)`, and `(B, K)` or None."""
        flat = states.reshape(len(states), states.shape[1], -1).astype(np.float64)
        deviations, sizes = (np.sqrt(np.square(values).mean((0, 2))) for values in (flat - flat.mean(0), flat))
        units = units_of(deviations, sizes, states.dtype)
        if params is None:
            return cls(units, np.zeros(0))
        known = params.astype(np.float64)
        return cls(units, units_of(known.std(0), np.sqrt(np.square(known).mean(0)), params.dtype))

    def coordinates(self, states: Array, params: Array | None) -> Array:
        """Embed states as points with the metric's Euclidean distances, `(B, n)`, float64."""
        channels = states.shape[1]
        flat = states.reshape(len(states), channels, -1).astype(np.float64)
        flat /= self.sizes[:, None] * np.sqrt(channels * flat.shape[2])
        parts = [flat.reshape(len(states), -1)]
        if params is not None:
            parts.append(params.astype(np.float64) / self.spans)
        return np.concatenate(parts, axis=1)


def farthest(states: Array, params: Array | None) -> int:
    """Find the state that is farthest from the mean of all, with its parameters."""
    coordinates = Metric.of(states, params).coordinates(states, params)
    return int(np.square(coordinates - coordinates.mean(0)).sum(1).argmax())


def medoids(points: Array, count: int) -> np.ndarray:
    """Choose points that all others are near to, one after the other: the one that most reduces the sum of all points' squared
    distances to the nearest chosen (BUILD of Kaufman and Rousseeuw, Finding Groups in Data, 1990, section 2.4). The first is
    the one nearest to the mean.

    Args:
        points: Coordinates of one point or more, `(B, n)`.
        count: Largest number of medoids; fewer are chosen if all others are the same as those.

    Returns:
        Indices of the medoids, in the order in which they were chosen.
    """
    flat = points - points.mean(0)
    squares = np.square(flat).sum(1)
    distances = np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0)
    np.fill_diagonal(distances, 0)
    negligible = 1e-12 * squares.max()
    chosen: list[int] = []
    left = np.full(len(flat), np.inf)
    while len(chosen) < count and left.max() > negligible:
        chosen.append(int(np.minimum(left[:, None], distances).sum(0).argmin()))
        left = np.minimum(left, distances[:, chosen[-1]])
    return np.array(chosen)
