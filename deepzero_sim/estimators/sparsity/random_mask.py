"""An active set drawn at random in every layer, anew every few steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.types import Mask, NamedTensors, is_integer, is_number
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators.sparsity.base import active_count, check_sparsity
from deepzero_sim.oracle.queries import trainable


class RandomMask:
    """A share of every layer's weights is active, drawn at random, fresh every few steps (Chen et al., DeepZero, ICLR 2024,
    section 4); what has no share is always active. Every tensor keeps at least one active coordinate.

    Args:
        sparsity: share of each tensor of two axes or more that is *not* active, in [0, 1).
        refresh: training steps that one active set serves.
        seed: of the draws: a step's mask depends on nothing else, so that a resumed run draws the same.
        densities: instead of a sparsity, the share that *is* active of each tensor that they name, in [0, 1], as
            `LayerRatios.densities(...).by_layer` gives them.

    Raises:
        ConfigError: a sparsity outside [0, 1), a density outside [0, 1], both of them, a refresh below 1, or a seed below 0.
    """

    def __init__(
        self, sparsity: float = 0.0, refresh: int = 1, seed: int = 0, *, densities: Mapping[str, float] | None = None
    ) -> None:
        check_sparsity(sparsity)
        _check_densities({} if densities is None else densities)
        if densities is not None and sparsity:
            raise ConfigError(f"a mask takes a sparsity or densities, not both: leave out the sparsity, {sparsity}.")
        if not is_integer(refresh) or refresh < 1:
            raise ConfigError(f"a mask must serve at least one step before it is drawn anew, not {refresh!r}: a whole number.")
        new_generator(seed)  # refuses what is no seed
        self.sparsity = sparsity
        self.refresh = refresh
        self.seed = seed
        self.densities = None if densities is None else dict(densities)
        self._is_whole = sparsity == 0 if densities is None else all(density == 1 for density in densities.values())

    def __call__(self, model: torch.nn.Module, step: int) -> Mask | None:
        """The active coordinates at a training step; None if all are.

        Raises:
            ConfigError: the network trains nothing, or not what the densities name.
        """
        if self._is_whole:
            return None
        if not is_integer(step) or step < 0:
            raise ConfigError(f"a mask is drawn for a training step, a whole number from 0, not {step!r}.")
        parameters = trainable(model)
        densities = self._densities(parameters)
        generator = new_generator((self.seed * 1_000_003 + step // self.refresh) % 2**63)
        return {name: _drawn(p, densities.get(name), generator) for name, p in parameters.items()}

    def _densities(self, parameters: NamedTensors) -> dict[str, float]:
        if self.densities is None:
            return {name: 1 - self.sparsity for name, p in parameters.items() if p.dim() > 1}
        unknown = sorted(self.densities.keys() - parameters.keys())
        if unknown:
            raise ConfigError(
                f"the mask's densities name {unknown[0]!r}, which the network does not train: it has {', '.join(parameters)}."
            )
        return self.densities


def _check_densities(densities: Mapping[str, float]) -> None:
    if not isinstance(densities, Mapping):
        raise ConfigError(f"densities must be a share for each parameter by name, not {type(densities).__name__}.")
    for name, density in densities.items():
        if not is_number(density) or not 0 <= density <= 1:
            raise ConfigError(f"the density of {name!r} must be in [0, 1], the share that is active, not {density!r}.")


def _drawn(parameter: torch.Tensor, density: float | None, generator: torch.Generator) -> torch.Tensor:
    """Which coordinates of one parameter are active; all of them if it has no density."""
    if density is None:
        return torch.ones(parameter.shape, dtype=torch.bool)
    size = parameter.numel()
    active = torch.zeros(size, dtype=torch.bool)
    active[torch.randperm(size, generator=generator)[: active_count(density, size)]] = True
    return active.view(parameter.shape)
