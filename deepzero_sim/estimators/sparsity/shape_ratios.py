"""Layer ratios from the layers' shapes alone: the same share of every layer, or more of small layers than of large ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

from deepzero_sim.common.requirements import require_sparsity
from deepzero_sim.estimators.sparsity.base import Densities, LayerRatios, layer_weights
from deepzero_sim.oracle.base import Oracle


@final
class Uniform(LayerRatios):
    """Same share `d_l = 1 - sparsity` for every layer; asks for nothing."""

    def densities(self, oracle: Oracle, batch: Any, sparsity: float, seed: int = 0) -> Densities:
        require_sparsity(sparsity)
        return Densities(dict.fromkeys(layer_weights(oracle.model), 1 - sparsity))


@final
class ErdosRenyi(LayerRatios):
    """Erdos-Renyi-kernel ratios; asks for nothing. With a weight of shape `(n_1, ..., n_k)`

        d_l = min(1, epsilon * (n_1 + ... + n_k) / (n_1 * ... * n_k))

    with the `epsilon` that spends the budget. Mocanu et al., Nature Communications 9, 2383 (2018), eq. 1, for linear layers,
    where this is the density of an Erdos-Renyi random graph; Evci et al., Rigging the Lottery, ICML 2020, section 3, for
    convolutions, with the kernel's axes in sum and product. A layer that would get more than all of itself is dense, and what
    it leaves over goes to the others.
    """

    def densities(self, oracle: Oracle, batch: Any, sparsity: float, seed: int = 0) -> Densities:
        require_sparsity(sparsity)
        weights = layer_weights(oracle.model)
        sizes = {name: w.numel() for name, w in weights.items()}
        demands = {name: float(sum(w.shape)) for name, w in weights.items()}
        return Densities(_share_out(demands, sizes, (1 - sparsity) * math.fsum(sizes.values())))


def _share_out(demands: Mapping[str, float], sizes: Mapping[str, int], budget: float) -> dict[str, float]:
    """Divide a budget in proportion to demands, but give no layer more than its size.

    Making one layer dense only raises `epsilon`, so that a layer that was full once stays full.
    """
    full: set[str] = set()
    while True:
        rest = demands.keys() - full
        left = budget - sum(sizes[name] for name in full)
        epsilon = left / math.fsum(demands[name] for name in rest) if rest else 0.0
        over = {name for name in rest if epsilon * demands[name] > sizes[name]}
        if not over:
            return {name: 1.0 if name in full else epsilon * demand / sizes[name] for name, demand in demands.items()}
        full |= over
