"""Blobs carried around in a disk: initial states, restriction to the coarse mesh, and a network on its points."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from deepzero_sim import SolverSpec
from deepzero_sim.models import Corrector
from deepzero_sim.types import Array

FOLDER = Path(__file__).parent


def mesh(name: str) -> tuple[Array, Array]:
    """Vertices `(n, 2)` and triangles `(m, 3)` of a mesh that FreeFEM saved."""
    lines = (FOLDER / name).read_text().splitlines()
    vertices, triangles, _ = map(int, lines[0].split())
    rows = [line.split() for line in lines[1 : 1 + vertices + triangles]]
    corners = np.array([row[:3] for row in rows[vertices:]], dtype=int) - 1
    return np.array([row[:2] for row in rows[:vertices]], dtype=float), corners


def initial(spec: SolverSpec, params: Array) -> Array:
    """Three blobs, drawn anew for every speed and diffusivity: `(B, 2)` to `(B, 1, n_points)`, zero at the edge."""
    points, _ = mesh("fine.msh")
    return np.stack([_blobs(np.random.default_rng(_seed(row)), points) for row in params])[:, None].astype(spec.dtype)


def _seed(row: Array) -> list[int]:
    return row.astype(np.float32).view(np.uint32).tolist()


def _blobs(random: np.random.Generator, points: Array) -> Array:
    distance, angle = random.uniform(0.2, 0.6, 3), random.uniform(0, 2 * np.pi, 3)
    centres = (distance * np.array([np.cos(angle), np.sin(angle)])).T
    squares = ((points[:, None] - centres) ** 2).sum(axis=-1)
    blobs = (random.choice([-1, 1], 3) * np.exp(-squares / 0.15**2)).sum(axis=-1)
    return blobs * np.clip(1 - (points**2).sum(axis=1), 0, None)


def restrict(states: Array, spec: SolverSpec) -> Array:
    """Values at the fine mesh's vertices that are the coarse one's: `(B, 1, N_points)` to `(B, 1, n_points)`."""
    fine, coarse = mesh("fine.msh")[0], mesh("coarse.msh")[0]
    distances = np.linalg.norm(coarse[:, None] - fine, axis=-1)
    return states[..., distances.argmin(axis=1)].astype(spec.dtype)


class Neighbours(nn.Module):
    """A layer on the points of a mesh: from what is known at a point, and how it changes towards its neighbours.

    Args:
        inputs: channels in.
        outputs: channels out.
        slopes: `(3, n, n)`, matrices that give the derivatives along x and y and the mean over the neighbours, less the value.
    """

    slopes: torch.Tensor

    def __init__(self, inputs: int, outputs: int, slopes: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("slopes", slopes, persistent=False)
        self.mix = nn.Conv1d(4 * inputs, outputs, 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        changes = torch.einsum("kij,bcj->bkci", self.slopes, values).flatten(1, 2)
        result: torch.Tensor = self.mix(torch.cat([values, changes], dim=1))
        return result


def slopes() -> torch.Tensor:
    """`(3, n, n)` of the coarse mesh: derivatives along x and y, means of those of the triangles around a point, and the mean
    over the neighbours less the value itself; all in units of the mean edge.
    """
    points, triangles = mesh("coarse.msh")
    corners = points[triangles]
    opposite = np.roll(corners, -2, axis=1) - np.roll(corners, -1, axis=1)  # a hat function rises across the edge opposite
    (ax, ay), (bx, by) = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
    twice_area = ax * by - ay * bx
    rises = np.stack([-opposite[..., 1], opposite[..., 0]]) / 2  # of each hat over its triangle, times the triangle's area
    found = np.zeros((3, len(points), len(points)))
    for corner in range(3):
        for other in range(3):
            np.add.at(found, (slice(None, 2), triangles[:, corner], triangles[:, other]), rises[:, :, other])
            found[2, triangles[:, corner], triangles[:, other]] = other != corner
    areas = np.bincount(triangles.ravel(), np.repeat(twice_area / 2, 3))
    found[2] = np.maximum(found[2], found[2].T)
    found[2] = found[2] / found[2].sum(axis=1, keepdims=True) - np.eye(len(points))
    found[:2] *= np.linalg.norm(opposite, axis=-1).mean() / areas[:, None]
    return torch.from_numpy(found).float()


def network(spec: SolverSpec, width: int = 16, layers: int = 3) -> Corrector:
    """A corrector on the points of the coarse mesh."""
    towards = slopes()
    widths = [spec.state_shape[0] + len(spec.parameters), *[width] * layers]
    hidden = [part for i in range(layers) for part in (Neighbours(widths[i], widths[i + 1], towards), nn.LeakyReLU(0.3))]
    last = nn.Conv1d(width, spec.state_shape[0], 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return Corrector(spec, nn.Sequential(*hidden, last))
