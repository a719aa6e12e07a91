"""A few points that stand for many."""

from __future__ import annotations

import numpy as np

from deepzero_sim.common.types import Array


def medoids(points: Array, count: int) -> np.ndarray:
    """Indices of points that all others are near to: one after the other, the one that most reduces the sum of all points'
    squared distances to the nearest chosen (BUILD of Kaufman and Rousseeuw, Finding Groups in Data, 1990, section 2.4). The
    first is the one nearest to the mean.

    Args:
        points: `(B, n)`, one or more.
        count: how many, at most; fewer if all others are the same as those.
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
