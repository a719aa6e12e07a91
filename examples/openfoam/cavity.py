"""Random vortices under a moving lid: initial states of the cavity, and their restriction to the coarse mesh."""

import numpy as np

from deepzero_sim import SolverSpec
from deepzero_sim.common.types import Array

#: Root mean square of the initial velocity, in m/s.
SPEED = 0.5

#: Largest number of half waves along each axis.
WAVES = 3


def initial(spec: SolverSpec, params: Array) -> Array:
    """Draw vortices of random strengths, anew for every lid and viscosity: `(B, 2)` to `(B, 2, n, n)`.

    The stream function is `sin(pi x) sin(pi y) sum_jk a_jk sin(pi j x) sin(pi k y) / (j^2 + k^2)`, so that the fluid is at
    rest at all walls; its differences over the edges of a cell give a velocity without divergence.
    """
    cells = spec.state_shape[1]
    return np.stack([_vortices(np.random.default_rng(_seed(row)), cells) for row in params]).astype(spec.dtype)


def _seed(row: Array) -> list[int]:
    """Derive a seed from parameters, the same whatever the mesh."""
    return row.astype(np.float32).view(np.uint32).tolist()


def _vortices(random: np.random.Generator, cells: int) -> Array:
    corners, waves = np.linspace(0, 1, cells + 1), np.arange(1, WAVES + 1)
    strengths = random.normal(size=(WAVES, WAVES)) / (waves[:, None] ** 2 + waves**2)
    shapes = np.sin(np.pi * corners) * np.sin(np.pi * waves[:, None] * corners)
    stream = shapes.T @ strengths @ shapes
    along_x, along_y = np.diff(stream, axis=0) * cells, np.diff(stream, axis=1) * cells
    u, v = (along_y[1:] + along_y[:-1]) / 2, -(along_x[:, 1:] + along_x[:, :-1]) / 2
    velocity = np.stack([u, v])
    return SPEED * velocity / np.sqrt((velocity**2).sum(axis=0).mean())


def restrict(states: Array, spec: SolverSpec) -> Array:
    """Average over the fine cells in every coarse one: `(B, 2, N, N)` to `(B, 2, n, n)`."""
    batch, channels, cells = states.shape[0], states.shape[1], spec.state_shape[1]
    each = states.shape[2] // cells
    return states.reshape(batch, channels, cells, each, cells, each).mean(axis=(3, 5)).astype(spec.dtype)
