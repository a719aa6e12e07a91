"""Which coordinates are active: masks for sparse gradients, and layer ratios. The weights themselves stay dense."""

from deepzero_sim.sparsity.base import Densities, LayerRatios
from deepzero_sim.sparsity.erdos_renyi import ErdosRenyi
from deepzero_sim.sparsity.grasp import GraSP
from deepzero_sim.sparsity.random_mask import RandomMask
from deepzero_sim.sparsity.record import RatiosRecord, load_ratios, record_of, require_ratios_of, save_ratios
from deepzero_sim.sparsity.uniform import Uniform
from deepzero_sim.sparsity.zo_grasp import ZOGraSP

__all__ = [
    "Densities",
    "ErdosRenyi",
    "GraSP",
    "LayerRatios",
    "RandomMask",
    "RatiosRecord",
    "Uniform",
    "ZOGraSP",
    "load_ratios",
    "record_of",
    "require_ratios_of",
    "save_ratios",
]
