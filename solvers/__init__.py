"""Ready solvers."""

from deepzero_sim.solvers.wake import WakeFlow
from deepzero_sim.solvers.wake_phiflow import PhiFlowWake

__all__ = ["PhiFlowWake", "WakeFlow"]
