"""Oracles: parameters and a batch in, losses out, for many perturbed parameter vectors at once."""

from deepzero_sim.oracle.base import LoopOracle, ModelOracle, Oracle

__all__ = ["LoopOracle", "ModelOracle", "Oracle"]
