"""Blobs carried around in a disk: initial states, restriction to the coarse mesh, and a network on its points."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from deepzero_sim import SolverSpec
from deepzero_sim.common.types import Array
from deepzero_sim.models import Corrector

FOLDER = Path(__file__).parent


def mesh(name: str) -> tuple[Array, Array]:
    """Read vertices `(n, 2)` and triangles `(m, 3)` of a mesh that FreeFEM saved."""
    lines = (FOLDER / name).read_text().splitlines()
    vertices, triangles, _ = map(int, lines[0].split())
    rows = [line.split() for line in lines[1 : 1 + vertices + triangles]]
    corners = np.array([row[:3] for row in rows[vertices:]], dtype=int) - 1
    return np.array([row[:2] for row in rows[:vertices]], dtype=float), corners


def initial(spec: SolverSpec, params: Array) -> Array:
    """Draw three blobs, anew for every speed and diffusivity: `(B, 2)` to `(B, 1, n_points)`, zero at the edge."""
    points, _ = mesh("fine.msh")
    return np.stack([_blobs(np.random.default_rng(_seed(row)), points) for row in params])[:, None].astype(spec.dtype)


def _seed(row: Array) -> list[int]:
    return row.astype(np.float32).view(np.uint32).tolist()


def _blobs(random: np.random.Generator, points: Array) -> Array:
    distance, angle = random.uniform(0.2, 0.6, 3), random.uniform(0, 2 * np.pi, 3)
    centres = (distance * np.array([np.cos(angle), np.sin(angle)])).T
    squares = ((points[:, None] - centres) ** 2).sum(axis=-1)
    blobs = (random.choice([-1, 1], 3) * np.exp(-squares / 0.3**2)).sum(axis=-1)
    return blobs * np.clip(1 - (points**2).sum(axis=1), 0, None)


def restrict(states: Array, spec: SolverSpec) -> Array:
    """Pick the values at the fine mesh's vertices that are the coarse one's: `(B, 1, N_points)` to `(B, 1, n_points)`."""
    fine, coarse = mesh("fine.msh")[0], mesh("coarse.msh")[0]
    distances = np.linalg.norm(coarse[:, None] - fine, axis=-1)
    return states[..., distances.argmin(axis=1)].astype(spec.dtype)


class Neighbours(nn.Module):
    """Sum over the neighbours of every point and theirs, with weights of its own that depend linearly on the parameters.

    The error of a step is linear in the state, as the equation is, and differs from point to point, as the triangles do: no
    weights that all points share would do.

    Args:
        near: Points that are summed over at each point, bool `(n, n)`.
        parameters: Number of the solver's parameters.
    """

    near: torch.Tensor

    def __init__(self, near: torch.Tensor, parameters: int) -> None:
        super().__init__()
        self.register_buffer("near", near, persistent=False)
        self.weights = nn.Parameter(torch.zeros(1 + parameters, *near.shape))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map `(B, 1 + K, n)`, the state and the parameters as constant channels, to `(B, 1, n)`."""
        factors = torch.cat([torch.ones_like(inputs[:, :1, 0]), inputs[:, 1:, 0]], dim=1)
        return torch.einsum("bk,kij,bj->bi", factors, self.weights * self.near, inputs[:, 0])[:, None]


def network(spec: SolverSpec) -> Corrector:
    """Make a corrector on the points of the coarse mesh."""
    points, triangles = mesh("coarse.msh")
    touching = np.eye(len(points), dtype=int)
    for corner in range(3):
        np.add.at(touching, (triangles, triangles[:, [corner]]), 1)
    near = torch.from_numpy(touching @ touching > 0)
    return Corrector(spec, Neighbours(near, len(spec.parameters)))
