"""Ready solvers."""

from deepzero_sim.common.arguments import guard_calls as _guard_calls
from deepzero_sim.solvers.wake import WakeFlow
from deepzero_sim.solvers.wake_phiflow import PhiFlowWake

__all__ = ["PhiFlowWake", "WakeFlow"]

_guard_calls(__name__)
