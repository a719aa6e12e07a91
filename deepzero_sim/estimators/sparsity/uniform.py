"""The same share of every layer."""

from __future__ import annotations

from typing import Any, final

from deepzero_sim.estimators.sparsity.base import Densities, LayerRatios, check_sparsity, scored_weights
from deepzero_sim.oracle.base import Oracle


@final
class Uniform(LayerRatios):
    """`d_l = 1 - sparsity` for every layer; asks for nothing."""

    def densities(self, oracle: Oracle, batch: Any, sparsity: float, seed: int = 0) -> Densities:
        check_sparsity(sparsity)
        return Densities(dict.fromkeys(scored_weights(oracle.model), 1 - sparsity))
