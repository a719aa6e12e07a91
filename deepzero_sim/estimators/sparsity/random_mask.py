"""Active set drawn at random in every layer, anew every few steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.requirements import is_count, require, require_sparsity, require_that, require_type
from deepzero_sim.common.types import Mask, NamedTensors, is_number
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators.sparsity.base import active_count
from deepzero_sim.oracle.parameters import trainable


class RandomMask:
    """Random choice of a share of every layer's weights, fresh every few steps (Chen et al., DeepZero, ICLR 2024, section 4).

    A parameter without a share is always active. Every tensor keeps at least one active coordinate.

    Args:
        sparsity: Share of each tensor of two axes or more that is *not* active, in [0, 1).
        refresh: Number of training steps that one active set serves.
        seed: Seed of the draws: a step's mask depends on nothing else, so that a resumed run draws the same.
        densities: Share that *is* active of each tensor that they name, in [0, 1], in place of a sparsity, as
            `LayerRatios.densities(...).by_layer` gives them.

    Raises:
        ConfigError: The sparsity is outside [0, 1), a density outside [0, 1], both are given, the refresh is below 1, or the
            seed below 0.
    """

    def __init__(
        self, sparsity: float = 0.0, refresh: int = 1, seed: int = 0, *, densities: Mapping[str, float] | None = None
    ) -> None:
        require_sparsity(sparsity)
        _require_densities({} if densities is None else densities)
        require_that(
            densities is None or not sparsity,
            f"a mask takes a sparsity or densities, not both: leave out the sparsity, {sparsity}.",
        )
        expected = "a mask must serve at least one step before it is drawn anew"
        require(is_count(refresh), expected, refresh, "a whole number")
        new_generator(seed)  # refuses what is no seed
        self.sparsity = sparsity
        self.refresh = refresh
        self.seed = seed
        self.densities = None if densities is None else dict(densities)
        self._is_whole = sparsity == 0 if densities is None else all(density == 1 for density in densities.values())

    def __call__(self, model: torch.nn.Module, step: int) -> Mask | None:
        """Draw the active coordinates of a training step; None if all are.

        Raises:
            ConfigError: The network trains nothing, or not what the densities name.
        """
        if self._is_whole:
            return None
        require(is_count(step, least=0), "a mask is drawn for a training step, a whole number from 0", step)
        parameters = trainable(model)
        densities = self._densities(parameters)
        generator = new_generator((self.seed * 1_000_003 + step // self.refresh) % 2**63)
        return {name: _draw(p, densities.get(name), generator) for name, p in parameters.items()}

    def _densities(self, parameters: NamedTensors) -> dict[str, float]:
        if self.densities is None:
            return {name: 1 - self.sparsity for name, p in parameters.items() if p.dim() > 1}
        unknown = sorted(self.densities.keys() - parameters.keys())
        if unknown:
            raise ConfigError(
                f"the mask's densities name {unknown[0]!r}, which the network does not train: it has {', '.join(parameters)}."
            )
        return self.densities


def _require_densities(densities: Mapping[str, float]) -> None:
    require_type(densities, Mapping, "densities must be a share for each parameter by name")
    for name, density in densities.items():
        fits = is_number(density) and 0 <= density <= 1
        require(fits, f"the density of {name!r} must be in [0, 1], the share that is active", density)


def _draw(parameter: torch.Tensor, density: float | None, generator: torch.Generator) -> torch.Tensor:
    """Draw the active coordinates of one parameter; all of them if it has no density."""
    if density is None:
        return torch.ones(parameter.shape, dtype=torch.bool)
    size = parameter.numel()
    active = torch.zeros(size, dtype=torch.bool)
    active[torch.randperm(size, generator=generator)[: active_count(density, size)]] = True
    return active.view(parameter.shape)
