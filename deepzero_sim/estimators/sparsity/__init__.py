"""Active coordinates: masks for sparse gradients, and layer ratios. The weights themselves stay dense."""

from deepzero_sim.estimators.sparsity.base import Densities, LayerRatios
from deepzero_sim.estimators.sparsity.grasp import GraSP
from deepzero_sim.estimators.sparsity.random_mask import RandomMask
from deepzero_sim.estimators.sparsity.shape_ratios import ErdosRenyi, Uniform
from deepzero_sim.estimators.sparsity.zo_grasp import ZOGraSP

__all__ = ["Densities", "ErdosRenyi", "GraSP", "LayerRatios", "RandomMask", "Uniform", "ZOGraSP"]
