"""How much of every layer is active: what all ways of deciding it have in common.

Scored are the weights of convolutions and linear layers, as in DeepZero (Chen et al., ICLR 2024). All else that is trained,
biases and normalisation parameters for one, is always active and no part of the budget.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any

from torch import nn

from deepzero_sim.common.types import NamedTensors, is_number
from deepzero_sim.errors import ConfigError
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.queries import trainable

#: Layers whose weights are scored.
SCORED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


@dataclass(frozen=True)
class Densities:
    """How much of every scored tensor is active, and what it took to find out.

    Args:
        by_layer: the share of each scored tensor's coordinates that is active, in [0, 1], by the tensor's name.
        queries: losses that were asked for.
        solver_steps: states advanced by one step to answer them.
    """

    by_layer: dict[str, float]
    queries: int = 0
    solver_steps: int = 0


class LayerRatios(abc.ABC):
    """Divides a budget of active coordinates among the layers of a network."""

    @abc.abstractmethod
    def densities(self, oracle: Oracle, batch: Any, sparsity: float, seed: int = 0) -> Densities:
        """The share of every scored tensor that is active.

        With `n_l` coordinates in layer `l`, the shares `d_l` spend the budget `sum_l d_l n_l = (1 - sparsity) sum_l n_l`,
        which the variants that count coordinates round to a whole number. What a mask draws from them is rounded for each
        layer, and at least one: of `L` layers it differs from the budget by at most `L`.

        Args:
            oracle: of the network, which is left as it is, bit for bit.
            batch: what the oracle takes, for the variants that ask it.
            sparsity: share of all scored coordinates that is not active, in [0, 1).
            seed: of random directions, if any are drawn.

        Raises:
            ConfigError: a sparsity outside [0, 1), or a network with nothing to train or nothing that is scored.
            DivergedError: a loss or a score is not finite.
            SolverError: the solver failed.
        """


def check_sparsity(sparsity: float) -> None:
    """Hold a sparsity to [0, 1).

    Raises:
        ConfigError: it is outside.
    """
    if not is_number(sparsity) or not 0 <= sparsity < 1:
        raise ConfigError(f"sparsity must be in [0, 1), the share of weights that is not active, not {sparsity}.")


def scored_weights(model: nn.Module) -> NamedTensors:
    """The trained weights of convolutions and linear layers, by name, in the network's order.

    Raises:
        ConfigError: the network trains nothing, or no such weights.
    """
    parameters = trainable(model)
    weights = {
        name: p for name, p in parameters.items() if p.dim() > 1 and p.numel() and isinstance(_owner(model, name), SCORED)
    }
    if not weights:
        raise ConfigError(
            f"the network {type(model).__name__} trains no weights of convolutions or linear layers, the only ones that a "
            "gradient can leave out: set sparsity to 0."
        )
    return weights


def _owner(model: nn.Module, name: str) -> nn.Module:
    """The layer that a parameter lies in."""
    return model.get_submodule(name.rpartition(".")[0])


def active_count(density: float, size: int) -> int:
    """How many of a tensor's `size` coordinates are active: as near to the density as whole numbers go, and at least one."""
    return min(size, max(1, round(density * size)))
