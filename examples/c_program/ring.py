"""Functions that `deepzero-sim generate` needs besides the program: initial states, and restriction to the coarse ring."""

from __future__ import annotations

import numpy as np

from deepzero_sim import SolverSpec
from deepzero_sim.common.types import Array

#: Number of waves of an initial state, the longest ones that fit.
WAVES = 4


def initial(spec: SolverSpec, params: Array) -> Array:
    """Draw a few long waves with random heights and phases, from each length `(B, 1)` alone: states `(B, 1, N)`."""
    places = (np.arange(spec.state_shape[1]) + 0.5) / spec.state_shape[1]
    states = [_waves(places, np.random.default_rng(round(1000 * float(length)))) for (length,) in params]
    return np.asarray(np.stack(states)[:, None], dtype=spec.dtype)


def _waves(places: Array, generator: np.random.Generator) -> Array:
    along = 2 * np.pi * np.arange(1, WAVES + 1)[:, None] * places
    phases, heights = 2 * np.pi * generator.random((WAVES, 1)), generator.normal(size=(WAVES, 1))
    return np.asarray((heights * np.cos(along + phases)).sum(0))


def restrict(states: Array, spec: SolverSpec) -> Array:
    """Average over each of the coarse ring's cells, which hold a whole number of fine ones: states `(B, 1, N)`."""
    cells = spec.state_shape[1]
    return np.asarray(states.reshape(len(states), 1, cells, -1).mean(-1), dtype=spec.dtype)
