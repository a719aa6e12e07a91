"""Corrector on an unstructured mesh: a network of fixed sparse operators between its vertices."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import nn

from deepzero_sim.benchmarks.flows.mesh import coarse_mesh, vertex_operators
from deepzero_sim.models.corrector import Corrector
from deepzero_sim.solver.spec import SolverSpec


class MeshLayer(nn.Module):
    """Linear layer of a vertex's values, the mean of its neighbours' and the gradient there, `(B, C, n)` to `(B, O, n)`.

    Args:
        inputs: Channels in, `C`.
        outputs: Channels out, `O`.
        operators: Operators between vertices, `(K, n, n)`.
    """

    operators: torch.Tensor

    def __init__(self, inputs: int, outputs: int, operators: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("operators", operators, persistent=False)
        self.mix = nn.Conv1d(inputs * (1 + len(operators)), outputs, 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        around = [torch.matmul(values, operator.T) for operator in self.operators]
        mixed: torch.Tensor = self.mix(torch.cat([values, *around], dim=1))
        return mixed


def mesh_network(spec: SolverSpec, width: int = 16, layers: int = 4) -> Corrector:
    """Make a corrector of states on the coarse mesh, `(B, 1, n)`; an untrained one corrects nothing.

    Args:
        spec: Spec of the mesh's solver.
        width: Channels between.
        layers: Number of layers, two at least.
    """
    operators = torch.from_numpy(vertex_operators(coarse_mesh()).astype(np.float32))
    sizes = [spec.state_shape[0], *[width] * (layers - 1), spec.state_shape[0]]
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        modules += [MeshLayer(inputs, outputs, operators), nn.LeakyReLU(0.3)]
    last = modules[-2]
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return Corrector(spec, nn.Sequential(*modules[:-1]))
