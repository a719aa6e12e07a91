"""Spots that feed, grow and divide, by py-pde: the Gray-Scott reaction on a coarse grid and on a fine one.

    u_t = D_u lap(u) - u v^2 + F (1 - u)
    v_t = D_v lap(v) + u v^2 - (F + k) v,   periodic

A substance v eats u, which is fed at the rate F; v decays at the rate F + k. Second-order central differences in space,
explicit Euler in time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pde

import deepzero_sim as dz

SIDE = 64.0
DIFFUSIVITIES = (0.16, 0.08)


class GrayScottEquation(pde.PDEBase):
    """Reaction in the form that py-pde takes; `feed` and `kill` may change from step to step."""

    def __init__(self) -> None:
        super().__init__()
        self.feed, self.kill = 0.0, 0.0

    def evolution_rate(self, state: pde.FieldCollection, t: float = 0) -> pde.FieldCollection:
        u, v = state
        reaction = u * v**2
        du = DIFFUSIVITIES[0] * u.laplace("periodic") - reaction + self.feed * (1 - u)
        dv = DIFFUSIVITIES[1] * v.laplace("periodic") + reaction - (self.feed + self.kill) * v
        return pde.FieldCollection([du, dv])


class Parts(NamedTuple):
    """Objects of py-pde, made once a process: from step to step only the rates and the values of `fields` change."""

    equation: GrayScottEquation
    fields: pde.FieldCollection
    advance: Callable[..., Any]


class GrayScott(dz.Solver):
    """Solver of one step of 5 units of time on `points` x `points`, taken as `substeps`."""

    def __init__(self, points: int = 32, substeps: int = 5) -> None:
        self.points, self.substeps = points, substeps
        self._parts: Parts | None = None
        self.spec = dz.SolverSpec(
            name="gray-scott",
            state_shape=(2, points, points),
            dt=5.0,
            dtype="float64",
            channels=("u", "v"),
            channel_units=("1", "1"),
            parameters=("feed", "kill"),
            parameter_units=("1", "1"),
            axes=("x", "y"),
            spacing=(SIDE / points,) * 2,
            offsets=((0.5, 0.5),) * 2,
            stencil=substeps,  # each Euler step looks one point away
            thread_safe=False,  # one equation, whose rates are set, serves all
        )

    def step(self, states: np.ndarray, params: np.ndarray | None = None) -> np.ndarray:
        return np.stack([self.advance(state, *map(float, row)) for state, row in zip(states, params, strict=True)])

    def advance(self, state: np.ndarray, feed: float, kill: float) -> np.ndarray:
        """Advance one state, `(2, points, points)`, by one step."""
        parts = self._parts = self._parts or self._make_parts()
        parts.equation.feed, parts.equation.kill = feed, kill
        parts.fields.data[:] = state
        parts.advance(parts.fields, 0.0, self.spec.dt)
        return parts.fields.data.copy()

    def _make_parts(self) -> Parts:
        grid = pde.CartesianGrid([[0, SIDE]] * 2, self.points, periodic=True)
        fields = pde.FieldCollection([pde.ScalarField(grid), pde.ScalarField(grid)])
        equation = GrayScottEquation()
        solver = pde.EulerSolver(equation, backend="numpy")  # numba's backend would be compiled in every worker
        return Parts(equation, fields, solver.make_stepper(fields, dt=self.spec.dt / self.substeps))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": None}  # every process makes its own


def initial(spec: dz.SolverSpec, params: np.ndarray) -> np.ndarray:
    """Draw spots of v in u: `(B, 2)` rates to `(B, 2, points, points)`. Every pair of rates has spots of its own."""
    x, y = np.meshgrid(spec.coordinates(0, 0), spec.coordinates(0, 1), indexing="ij")
    return np.stack([_spots(x, y, *map(float, row)) for row in params])


def _spots(x: np.ndarray, y: np.ndarray, feed: float, kill: float) -> np.ndarray:
    random = np.random.default_rng([round(1e6 * feed), round(1e6 * kill)])
    v = np.zeros_like(x)
    for centre in SIDE * random.random((6, 2)):
        distance = np.hypot(*((z - c + SIDE / 2) % SIDE - SIDE / 2 for z, c in zip((x, y), centre, strict=True)))
        v = np.maximum(v, 0.35 * np.exp(-((distance / 4) ** 4)))
    return np.stack([1 - 1.4 * v, v])


def restrict(states: np.ndarray, spec: dz.SolverSpec) -> np.ndarray:
    """Average over the squares of fine points around each coarse one."""
    batch, channels, fine, _ = states.shape
    coarse = spec.state_shape[-1]
    return states.reshape(batch, channels, coarse, fine // coarse, coarse, fine // coarse).mean(axis=(3, 5))
