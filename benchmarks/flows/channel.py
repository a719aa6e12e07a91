"""Advection, diffusion and reaction in a channel with walls and an obstacle, by finite volumes in jax.

    dc/dt + div(u c - k grad c) = r c (1 - c)

with `c` given at the inflow (left), no gradient at the outflow (right), and no flux through walls and obstacle. `u` is the
potential flow around the obstacle, `k` varies over the channel. Fluxes are upwind and steps explicit (forward Euler), several
for each step of the solver. Cells in the obstacle are padding.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve

from deepzero_sim.benchmarks.flows.jax_solver import Advance, JaxSolver
from deepzero_sim.common.types import Array
from deepzero_sim.solver.spec import SolverSpec

_Numbers = NDArray[np.float64]

#: Cells of the coarse grid along each axis of the unit square; the fine one has `FINER` times as many.
POINTS, FINER = 32, 3

#: Length of a step, and Euler steps that it takes on the coarse grid, which is as far as it carries information.
DT, SUBSTEPS = 0.01, 2

#: Euler steps of the fine grid for a step.
FINE_SUBSTEPS = 8

#: Obstacle in cells of the coarse grid, so that both grids have the same: rows and columns.
OBSTACLE = slice(12, 18), slice(9, 14)

REACTION = 4.0


class _Faces(NamedTuple):
    """Velocities and diffusivities on the faces between rows, `(n + 1, n)`, and between columns, `(n, n + 1)`.

    Args:
        v: Velocity through faces between rows, zero at walls and obstacle.
        u: Velocity through faces between columns.
        k_rows: Diffusivity over the distance of cells, `k / h`, zero at walls and obstacle.
        k_columns: Likewise; zero at inflow and outflow.
    """

    v: _Numbers
    u: _Numbers
    k_rows: _Numbers
    k_columns: _Numbers


@final
class ChannelSolver(JaxSolver):
    """Concentration in the channel, `(1, n, n)`.

    Args:
        fine: True for the reference, on the finer grid.
    """

    def __init__(self, fine: bool = False) -> None:
        self._settings = (fine,)
        factor, substeps = (FINER, FINE_SUBSTEPS) if fine else (1, SUBSTEPS)
        points = POINTS * factor
        fluid = _fluid(factor)
        spec = SolverSpec(
            name=f"channel-2d{'-fine' if fine else ''}",
            state_shape=(1, points, points),
            dt=DT,
            channels=("concentration",),
            axes=("y", "x"),
            spacing=(1 / points, 1 / points),
            offsets=((0.5, 0.5),),
            mask=fluid[None],
            stencil=substeps,
        )
        super().__init__(spec, _advance_of(factor, substeps))

    def __reduce__(self) -> tuple[Any, ...]:
        return ChannelSolver, self._settings


def _fluid(factor: int) -> NDArray[np.bool_]:
    """Mask of the cells outside the obstacle, `(n, n)`."""
    fluid = np.ones((POINTS * factor, POINTS * factor), dtype=bool)
    fluid[tuple(slice(part.start * factor, part.stop * factor) for part in OBSTACLE)] = False
    return fluid


@cache
def _advance_of(factor: int, substeps: int) -> Advance:
    """Return the step of a state `(1, n, n)` in jax, always the same function."""
    fluid = _fluid(factor)
    points = len(fluid)
    v, u, k_rows, k_columns = (jnp.asarray(array, dtype=np.float32) for array in _faces(fluid))
    inflow = jnp.asarray(0.5 + 0.4 * np.sin(4 * np.pi * _centres(points)), dtype=np.float32)
    inside, dt = jnp.asarray(fluid, dtype=np.float32), DT / substeps

    def euler(_: int, c: Any) -> Any:
        wide = jnp.concatenate([inflow[:, None], c, c[:, -1:]], axis=1)
        along = _upwind(u, wide[:, :-1], wide[:, 1:]) - k_columns * jnp.diff(wide, axis=1)
        high = jnp.concatenate([c[:1], c, c[-1:]])
        across = _upwind(v, high[:-1], high[1:]) - k_rows * jnp.diff(high, axis=0)
        divergence = (jnp.diff(along, axis=1) + jnp.diff(across, axis=0)) * points
        return inside * (c + dt * (REACTION * c * (1 - c) - divergence))

    def advance(state: Any) -> Any:
        return jax.lax.fori_loop(0, substeps, euler, state[0] * inside)[None]

    return advance


def _upwind(velocity: Any, before: Any, behind: Any) -> Any:
    """Compute the flux that a velocity carries through faces from the cells before them, or back from those behind."""
    return jnp.maximum(velocity, 0) * before + jnp.minimum(velocity, 0) * behind


def _centres(points: int) -> _Numbers:
    return (np.arange(points) + 0.5) / points


def _faces(fluid: NDArray[np.bool_]) -> _Faces:
    """Compute velocities and diffusivities on all faces."""
    points = len(fluid)
    stream = _stream_function(fluid)
    high = np.pad(fluid, ((1, 1), (0, 0)))
    wide = np.pad(fluid, ((0, 0), (1, 1)))
    y, x = _centres(points), np.arange(points + 1) / points
    return _Faces(
        v=-np.diff(stream, axis=1) * points,
        u=np.diff(stream, axis=0) * points,
        k_rows=(high[1:] & high[:-1]) * _diffusivity(x[:, None], y[None]) * points,
        k_columns=(wide[:, 1:] & wide[:, :-1]) * _diffusivity(y[:, None], x[None]) * points,
    )


def _diffusivity(y: _Numbers, x: _Numbers) -> _Numbers:
    """Diffusivity at points: five times as large in the middle of the channel's end as at its walls and its beginning."""
    diffusivity: _Numbers = 0.001 * (1 + 4 * x * np.sin(np.pi * y) ** 2)
    return diffusivity


def _stream_function(fluid: NDArray[np.bool_]) -> _Numbers:
    """Solve for the potential flow's stream function on the corners of cells, `(n + 1, n + 1)`.

    `laplace(psi) = 0`, with `psi = y` on the channel's sides and a constant on the obstacle, so that faces between corners of
    the obstacle or of a wall have no velocity through them, and the velocities of every cell have no divergence.
    """
    points = len(fluid)
    corners = points + 1
    y = np.repeat(np.arange(corners)[:, None] / points, corners, axis=1)
    solid = np.pad(~fluid, 1)
    known = solid[1:, 1:] | solid[1:, :-1] | solid[:-1, 1:] | solid[:-1, :-1]
    values = np.where(known, y[known].mean(), y)
    known[[0, -1]] = known[:, [0, -1]] = True
    second = sparse.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(corners, corners))
    laplace = sparse.csr_array(sparse.kron(second, sparse.eye_array(corners)) + sparse.kron(sparse.eye_array(corners), second))
    given, free = known.ravel(), ~known.ravel()
    stream = values.ravel().copy()
    stream[free] = spsolve(sparse.csc_array(laplace[free][:, free]), -laplace[free][:, given] @ stream[given])
    return stream.reshape(corners, corners)


def initial(spec: SolverSpec, params: Array, seed: int) -> Array:
    """Make initial concentrations `(B, 1, n, n)` between 0 and 1: random cosines that have no gradient at the walls.

    Args:
        spec: Spec of a channel's solver.
        params: Scenario parameters, `(B, 0)`.
        seed: Seed of the amplitudes.
    """
    random, modes = np.random.default_rng(seed), np.arange(5)
    cosines = np.cos(np.pi * modes[:, None] * _centres(spec.state_shape[1]))
    made = np.einsum("bij,iy,jx->byx", random.standard_normal((len(params), 5, 5)), cosines, cosines)
    made = 0.5 + 0.5 * made / np.abs(made).max(axis=(1, 2), keepdims=True)
    return np.asarray(made[:, None] * spec.active(), dtype=spec.dtype)
