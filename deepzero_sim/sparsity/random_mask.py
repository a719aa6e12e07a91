"""An active set drawn at random in every layer, anew every few steps."""

from __future__ import annotations

import torch

from deepzero_sim.errors import ConfigError
from deepzero_sim.perturbation import trainable
from deepzero_sim.types import Mask


class RandomMask:
    """The same share of every layer's weights is active, drawn at random, fresh every few steps; biases always are.

    Args:
        sparsity: share of each weight tensor that is *not* active, in [0, 1).
        refresh: training steps that one active set serves.
        seed: of the draws: a step's mask depends on nothing else, so that a resumed run draws the same.

    Raises:
        ConfigError: a sparsity outside [0, 1), or a refresh below 1.
    """

    def __init__(self, sparsity: float, refresh: int = 1, seed: int = 0) -> None:
        if not 0 <= sparsity < 1:
            raise ConfigError(f"sparsity must be in [0, 1), the share of weights that is not active, not {sparsity}.")
        if refresh < 1:
            raise ConfigError(f"a mask must serve at least one step before it is drawn anew, not {refresh}.")
        self.sparsity = sparsity
        self.refresh = refresh
        self.seed = seed

    def __call__(self, model: torch.nn.Module, step: int) -> Mask | None:
        """The active coordinates at a training step; None if all are."""
        if self.sparsity == 0:
            return None
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step // self.refresh)
        return {name: self._draw(p, generator) for name, p in trainable(model).items()}

    def _draw(self, parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if parameter.dim() < 2:
            return torch.ones(parameter.shape, dtype=torch.bool)
        size = parameter.numel()
        active = torch.zeros(size, dtype=torch.bool)
        active[torch.randperm(size, generator=generator)[: max(1, round((1 - self.sparsity) * size))]] = True
        return active.view(parameter.shape)
