"""Burgers' equation on an unstructured mesh of triangles, by linear finite elements (scikit-fem) and a linearly implicit step.

    u_t + u (b . grad u) = nu laplace(u)          no flux through the sides
    (M + dt C(u0) + dt nu K) u1 = M u0            C(u)[i, j] = integral of phi_i u (b . grad phi_j)

The Jacobian of a step is known: with `A = M + dt C(u0) + dt nu K`, and `B(u1)[i, k] = C(phi_k) u1` at test function `i`,

    J = A^-1 (M - dt B(u1))

whose two factors are sparse. States are `(1, n)`, a number for each vertex, in no order in space. The fine mesh parts every
triangle of the coarse one into four, and keeps its vertices, which come first.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, final

import numpy as np
import skfem
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.spatial import Delaunay
from skfem.helpers import dot, grad

from deepzero_sim.benchmarks.flows.jax_solver import differentiate
from deepzero_sim.common.types import Array
from deepzero_sim.solver.contract import DifferentiableSolver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.validation import check_call

_Numbers = NDArray[np.float64]

#: Points along a side of the square before they are moved; seed and length of the moves, in distances of points.
SIDE, MESH_SEED, JITTER = 15, 0, 0.35

#: Length of a step, steps of the fine mesh for one, and how often its triangles are parted.
DT, FINE_SUBSTEPS, REFINEMENTS = 0.02, 2, 2

VISCOSITY, DIRECTION = 0.006, (1.0, 0.6)


class _Assembly(NamedTuple):
    """Matrices of a mesh.

    Args:
        mass: Mass matrix `M`, `(n, n)`.
        stiffness: Stiffness matrix `K`, `(n, n)`.
        triangles: Vertices of the triangles, `(3, m)`.
        areas: Areas of the triangles, `(m,)`.
        slopes: `b . grad phi_j` of each triangle's functions, `(3, m)`.
    """

    mass: Any
    stiffness: Any
    triangles: NDArray[np.int64]
    areas: _Numbers
    slopes: _Numbers

    def matrix(self, entries: _Numbers) -> Any:
        """Add up the entries of triangles, `(3, 3, m)`: row and column in the triangle."""
        rows = np.broadcast_to(self.triangles[:, None], entries.shape)
        columns = np.broadcast_to(self.triangles[None], entries.shape)
        return sparse.csc_array((entries.ravel(), (rows.ravel(), columns.ravel())), shape=self.mass.shape)

    def convection(self, u: _Numbers) -> Any:
        """Assemble `C(u)`: the integral of `phi_i u` is `area / 12 (u_1 + u_2 + u_3 + u_i)`."""
        local = u[self.triangles]
        weights = self.areas / 12 * (local.sum(axis=0) + local)
        return self.matrix(weights[:, None] * self.slopes[None])

    def slope(self, u: _Numbers) -> Any:
        """Assemble `B(u)`, the derivative of `C(v) u` with respect to `v`."""
        along = (self.slopes * u[self.triangles]).sum(axis=0)
        return self.matrix((np.ones((3, 3)) + np.eye(3))[:, :, None] / 12 * self.areas * along)


@final
class MeshSolver(DifferentiableSolver):
    """Scalar Burgers' equation on the mesh.

    Args:
        fine: True for the reference, on the finer mesh.

    Attributes:
        mesh: Mesh of triangles.
    """

    def __init__(self, fine: bool = False) -> None:
        self._settings = (fine,)
        self.mesh = coarse_mesh().refined(REFINEMENTS) if fine else coarse_mesh()
        self._substeps = FINE_SUBSTEPS if fine else 1
        self.assembly = _assemble(self.mesh)
        self.spec = SolverSpec(
            name=f"burgers-mesh{'-fine' if fine else ''}",
            state_shape=(1, self.mesh.nvertices),
            dt=DT,
            channels=("velocity",),
            axes=("vertex",),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return MeshSolver, self._settings

    def step(self, states: Array, params: Array | None = None) -> Array:
        check_call(self.spec, states, params)
        return np.stack([self._advance(state[0].astype(np.float64))[None] for state in states]).astype(self.spec.dtype)

    def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        return differentiate(self.step, self.pull_back, states)

    def pull_back(self, states: Array, cotangents: Array) -> Array:
        """Compute `J(s)^T w` exactly, `(B, 1, n)`, of states and cotangents of that shape."""
        pairs = zip(states[:, 0].astype(np.float64), cotangents[:, 0].astype(np.float64), strict=True)
        return np.stack([self._pull_back(u, w)[None] for u, w in pairs]).astype(self.spec.dtype)

    def _factorise(self, u: _Numbers) -> Any:
        dt = DT / self._substeps
        return splu(
            sparse.csc_array(self.assembly.mass + dt * (self.assembly.convection(u) + VISCOSITY * self.assembly.stiffness))
        )

    def _advance(self, u: _Numbers) -> _Numbers:
        for _ in range(self._substeps):
            u = self._factorise(u).solve(self.assembly.mass @ u)
        return u

    def _pull_back(self, u: _Numbers, w: _Numbers) -> _Numbers:
        before = [u]
        for _ in range(self._substeps):
            before.append(self._factorise(before[-1]).solve(self.assembly.mass @ before[-1]))
        for u0, u1 in zip(before[-2::-1], before[:0:-1], strict=True):
            right = self.assembly.mass - DT / self._substeps * self.assembly.slope(u1)
            w = right.T @ self._factorise(u0).solve(w, trans="T")
        return w


@cache
def coarse_mesh() -> Any:
    """Triangulate points of the unit square: those inside lie on no grid."""
    axis = np.linspace(0, 1, SIDE)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    inside = np.asarray(((points > 0) & (points < 1)).all(axis=1))
    moves = np.random.default_rng(MESH_SEED).uniform(-JITTER, JITTER, points.shape) / (SIDE - 1)
    points = points + inside[:, None] * moves
    return skfem.MeshTri(points.T, Delaunay(points).simplices.T)


def _assemble(mesh: Any) -> _Assembly:
    basis = skfem.Basis(mesh, skfem.ElementTriP1())
    mass = skfem.BilinearForm(lambda u, v, _: u * v).assemble(basis)
    stiffness = skfem.BilinearForm(lambda u, v, _: dot(grad(u), grad(v))).assemble(basis)
    gradients = np.stack([basis.basis[j][0].grad[:, :, 0] for j in range(3)])  # (3, 2, m): constant in each triangle
    slopes = np.einsum("d,jdm->jm", np.array(DIRECTION), gradients)
    return _Assembly(sparse.csc_array(mass), sparse.csc_array(stiffness), mesh.t, basis.dx.sum(axis=1), slopes)


def initial(spec: SolverSpec, params: Array, seed: int) -> Array:
    """Make initial states `(B, 1, n)`: random cosines that have no gradient at the sides, at most 1.

    Args:
        spec: Spec of a mesh's solver.
        params: Scenario parameters, `(B, 0)`.
        seed: Seed of the amplitudes.
    """
    mesh = MeshSolver(fine=spec.name.endswith("-fine")).mesh
    x, y = (np.cos(np.pi * np.arange(4)[:, None] * axis) for axis in mesh.p)
    made = np.einsum("bij,iv,jv->bv", np.random.default_rng(seed).standard_normal((len(params), 4, 4)), x, y)
    return np.asarray((made / np.abs(made).max(axis=1, keepdims=True))[:, None], dtype=spec.dtype)


def restrict(states: Array, spec: SolverSpec) -> Array:
    """Take the values of the coarse mesh's vertices out of fine states, `(B, 1, n)`."""
    return states[:, :, : spec.state_shape[1]].astype(spec.dtype)


def vertex_operators(mesh: Any) -> _Numbers:
    """Compute the mean of a vertex's neighbours and the gradient there, times the mean distance of points, `(3, n, n)`.

    The gradient at a vertex is the mean of those in its triangles, weighted by their areas.
    """
    count = mesh.nvertices
    basis = skfem.Basis(mesh, skfem.ElementTriP1())
    areas = basis.dx.sum(axis=1)
    operators = np.zeros((3, count, count))
    for i in range(3):
        for j in range(3):
            if i != j:
                operators[0][mesh.t[i], mesh.t[j]] = 1.0
            for axis in range(2):
                slopes = areas * basis.basis[j][0].grad[axis, :, 0]
                np.add.at(operators[1 + axis], (mesh.t[i], mesh.t[j]), slopes)
    around = np.zeros(count)
    np.add.at(around, mesh.t, np.broadcast_to(areas, mesh.t.shape))
    operators[0] /= operators[0].sum(axis=1, keepdims=True)
    operators[1:] /= around[:, None] * (SIDE - 1)
    return operators
