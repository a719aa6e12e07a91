"""A loss whose gradient and Hessian are known, and networks to divide a budget among."""

from __future__ import annotations

from typing import Any

import torch
from problems import mse
from torch import nn

from deepzero_sim.oracle.model import ModelOracle


class Branches(nn.Module):
    """`a(x[:, :n]) + b(x[:, n:])`: with a mean squared error, a quadratic in the weights of both together."""

    def __init__(self, first: int = 3, second: int = 5) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(first, 1, bias=False), nn.Linear(second, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.a.in_features
        result: torch.Tensor = self.a(x[:, :first]) + self.b(x[:, first:])
        return result


class Quadratic:
    """`l(theta) = |X theta - y|^2 / N`: `g = 2/N X^T (X theta - y)`, `H = 2/N X^T X`; `theta` is that of both branches."""

    def __init__(self, samples: int = 20, first: int = 3, second: int = 5) -> None:
        self.model = Branches(first, second).double()
        self.inputs = torch.randn(samples, first + second, dtype=torch.float64)
        self.targets = torch.randn(samples, 1, dtype=torch.float64)
        self.oracle = ModelOracle(self.model, mse)
        self.batch: tuple[Any, ...] = (self.inputs, self.targets)

    @property
    def theta(self) -> torch.Tensor:
        return torch.cat([self.model.a.weight, self.model.b.weight], dim=1).detach()[0]

    @property
    def hessian(self) -> torch.Tensor:
        return 2 / len(self.inputs) * self.inputs.T @ self.inputs

    @property
    def gradient(self) -> torch.Tensor:
        return 2 / len(self.inputs) * self.inputs.T @ (self.inputs @ self.theta - self.targets[:, 0])

    @property
    def product(self) -> torch.Tensor:
        return self.hessian @ self.gradient

    def joined(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """Tensors of the branches' weights as one vector."""
        return torch.cat([tensors["a.weight"], tensors["b.weight"]], dim=1)[0]


def convolutional() -> nn.Module:
    """Convolutions, a normalisation, a linear layer; 500 + 70 + 3 scored weights."""
    return nn.Sequential(nn.Conv2d(2, 10, 5), nn.BatchNorm2d(10), nn.Conv2d(10, 7, 1), nn.Linear(3, 1))


def oracle_of(model: nn.Module) -> ModelOracle:
    """For ratios that ask nothing of it but the network."""
    return ModelOracle(model, mse)
