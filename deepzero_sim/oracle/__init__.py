"""Oracles: parameters and a batch in, losses out, for many perturbed parameter vectors at once."""

from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.oracle.model import ModelOracle

__all__ = ["LoopOracle", "ModelOracle", "Oracle"]
