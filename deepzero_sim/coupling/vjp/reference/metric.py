"""How far states are from each other, in units of how much they vary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepzero_sim.common.types import Array


@dataclass(frozen=True, eq=False)
class Metric:
    """`d^2 = mean_c |s_c - s'_c|^2 / (n_c sigma_c^2) + sum_k (p_k - p'_k)^2 / rho_k^2`, of states with their parameters.

    Args:
        sizes: `sigma`, `(C,)`, the root mean square deviation of each channel from its mean over states.
        spans: `rho`, `(K,)`, likewise of each parameter; empty if there are none.
    """

    sizes: Array
    spans: Array

    @classmethod
    def of(cls, states: Array, params: Array | None) -> Metric:
        """Of states like those to come, `(B, C, *N)`, and `(B, K)` or None; 1 for what does not vary."""
        moved = (states - states.mean(0, dtype=np.float64)).reshape(len(states), states.shape[1], -1)
        spans = np.zeros(0) if params is None else params.astype(np.float64).std(0)
        return cls(_or_one(np.sqrt(np.square(moved).mean((0, 2)))), _or_one(spans))

    def coordinates(self, states: Array, params: Array | None) -> Array:
        """Whose Euclidean distances are meant: `(B, n)`, float64."""
        channels = states.shape[1]
        flat = states.reshape(len(states), channels, -1).astype(np.float64)
        flat /= self.sizes[:, None] * np.sqrt(channels * flat.shape[2])
        parts = [flat.reshape(len(states), -1)]
        if params is not None:
            parts.append(params.astype(np.float64) / self.spans)
        return np.concatenate(parts, axis=1)


def _or_one(sizes: Array) -> Array:
    return np.where(sizes > 0, sizes, 1.0)
