"""Base of all layer ratios: the share of every layer that is active.

Scored are the weights of convolutions and linear layers, as in DeepZero (Chen et al., ICLR 2024). All else that is trained,
biases and normalisation parameters for one, is always active and no part of the budget.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any

from torch import nn

from deepzero_sim.common.requirements import require_that
from deepzero_sim.common.types import NamedTensors
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.solver.failure_policy import Incident

#: Layers whose weights are scored.
SCORED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Densities:
    """Active share of every scored tensor, and what it took to find out.

    Args:
        by_layer: Share of each scored tensor's coordinates that is active, in [0, 1], by the tensor's name.
        queries: Number of losses that were asked for.
        solver_steps: Number of states advanced by one step to answer them.
        incidents: Failures on the way.
    """

    by_layer: dict[str, float]
    queries: int = 0
    solver_steps: int = 0
    incidents: tuple[Incident, ...] = ()


class LayerRatios(abc.ABC):
    """Division of a budget of active coordinates among the layers of a network."""

    @abc.abstractmethod
    def densities(self, oracle: Oracle, batch: Any, sparsity: float, seed: int = 0) -> Densities:
        """Find the share of every scored tensor that is active.

        With `n_l` coordinates in layer `l`, the shares `d_l` spend the budget `sum_l d_l n_l = (1 - sparsity) sum_l n_l`,
        which the variants that count coordinates round to a whole number. What a mask draws from them is rounded for each
        layer, and at least one: of `L` layers it differs from the budget by at most `L`.

        Args:
            oracle: Oracle of the network, which is left as it is, bit for bit.
            batch: Batch that the oracle takes, for the variants that ask it.
            sparsity: Share of all scored coordinates that is not active, in [0, 1).
            seed: Seed of random directions, if any are drawn.

        Raises:
            ConfigError: The sparsity is outside [0, 1), or the network trains nothing, or nothing that is scored.
            DivergedError: A loss or a score is not finite.
            SolverError: The solver failed.
        """


def layer_weights(model: nn.Module) -> NamedTensors:
    """List the trained weights of convolutions and linear layers, which are scored, by name; refuse a network without any."""
    weights = {
        name: p
        for name, p in trainable(model).items()
        if p.dim() > 1 and p.numel() and isinstance(model.get_submodule(name.rpartition(".")[0]), SCORED)
    }
    require_that(
        bool(weights),
        f"the network {type(model).__name__} trains no weights of convolutions or linear layers, the only ones that a "
        "gradient can leave out: set sparsity to 0.",
    )
    return weights


def active_count(density: float, size: int) -> int:
    """Count the active ones of a tensor's `size` coordinates: as near to the density as whole numbers go, and at least one."""
    return min(size, max(1, round(density * size)))
