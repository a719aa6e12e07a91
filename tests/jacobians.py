"""Solvers whose Jacobians are known, and those Jacobians."""

from __future__ import annotations

import numpy as np
import torch

from deepzero_sim import SolverSpec, as_solver
from deepzero_sim.common.types import Array
from deepzero_sim.solver.contract import Solver


def advection(points: tuple[int, ...] = (8, 6), channels: int = 2, periodic: bool = True, dtype: str = "float64") -> Solver:
    """Linear and local: every channel moves along every axis, and the channels mix."""
    mixing = np.random.default_rng(0).normal(size=(channels, channels))

    def step(states: Array) -> Array:
        moved = states
        for axis in range(2, states.ndim):
            other = np.roll(moved, 1, axis)
            if not periodic:
                np.moveaxis(other, axis, 0)[0] = 0
            moved = 0.7 * moved + 0.3 * other
        return np.einsum("dc,bc...->bd...", mixing, moved).astype(states.dtype)

    return as_solver(step, SolverSpec(name="advection", state_shape=(channels, *points), dt=1.0, dtype=dtype, stencil=1))


def masked(dtype: str = "float64") -> Solver:
    """A nonlinear step on a padded grid."""
    mask = np.ones((2, 5, 4), dtype=bool)
    mask[0, -1], mask[1, :, -1] = False, False

    def step(states: Array) -> Array:
        around = np.roll(states, 1, 2) + np.roll(states, -1, 3) * states[:, ::-1]
        return np.asarray((states + 0.1 * np.tanh(around)) * mask, dtype=states.dtype)

    return as_solver(step, SolverSpec(name="masked", state_shape=(2, 5, 4), dt=1.0, dtype=dtype, mask=mask, stencil=1))


def projection(points: int = 9) -> Solver:
    """Global: takes a state's mean and its first mode away."""
    modes = np.linalg.qr(np.stack([np.ones(points), np.cos(np.arange(points))], axis=1))[0]
    matrix = np.eye(points) - modes @ modes.T
    spec = SolverSpec(name="projection", state_shape=(1, points), dt=1.0, dtype="float64")
    return as_solver(lambda states: states @ matrix, spec)


def exact_jacobian(solver: Solver, state: Array) -> Array:
    """By central differences of every point, a state at a time: `(outputs, inputs)`, zero in padding."""
    active, columns = solver.spec.active(), []
    for index in range(state.size):
        change = np.zeros(state.size)
        change[index] = 1e-5 * active.reshape(-1)[index]
        ends = [solver.step((state + sign * change.reshape(state.shape))[None])[0] * active for sign in (1, -1)]
        columns.append((ends[0] - ends[1]).reshape(-1) / 2e-5)
    return np.stack(columns, axis=1)


def random_states(solver: Solver, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(count, *solver.spec.state_shape, generator=generator, dtype=torch.float64)
    return (states * torch.from_numpy(solver.spec.active())).to(getattr(torch, solver.spec.dtype))


def diffused_advection(points: tuple[int, int] = (16, 12)) -> Solver:
    """Advection by the state itself, which is local, then an implicit diffusion, which is not."""
    laplace = sum(
        np.kron(*(second if axis == other else np.eye(size) for other, (size, second) in enumerate(_seconds(points))))
        for axis in range(2)
    )
    spread = np.linalg.inv(np.eye(points[0] * points[1]) - laplace)

    def step(states: Array) -> Array:
        moved = states - 0.1 * states * (states - np.roll(states, 1, 3))
        return np.asarray((moved.reshape(len(states), -1) @ spread.T).reshape(states.shape))

    return as_solver(step, SolverSpec(name="diffused", state_shape=(1, *points), dt=1.0, dtype="float64"))


def _seconds(points: tuple[int, int]) -> list[tuple[int, Array]]:
    """Second differences along each axis, zero outside."""
    return [(n, np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n)) for n in points]
