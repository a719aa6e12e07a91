"""Which coordinates are active: masks for sparse gradients, and layer ratios. The weights themselves stay dense."""

from deepzero_sim.estimators.sparsity.base import Densities, LayerRatios
from deepzero_sim.estimators.sparsity.erdos_renyi import ErdosRenyi
from deepzero_sim.estimators.sparsity.grasp import GraSP
from deepzero_sim.estimators.sparsity.random_mask import RandomMask
from deepzero_sim.estimators.sparsity.uniform import Uniform
from deepzero_sim.estimators.sparsity.zo_grasp import ZOGraSP

__all__ = [
    "Densities",
    "ErdosRenyi",
    "GraSP",
    "LayerRatios",
    "RandomMask",
    "Uniform",
    "ZOGraSP",
]
