"""Which coordinates are active: masks for sparse gradients. The weights themselves stay dense."""

from deepzero_sim.sparsity.random_mask import RandomMask

__all__ = ["RandomMask"]
