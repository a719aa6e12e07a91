"""Losses of rollouts: what of them is compared with what of their references."""

from deepzero_sim.common.arguments import guard_calls as _guard_calls
from deepzero_sim.coupling.losses.base import Loss
from deepzero_sim.coupling.losses.pointwise import Every, Observed, Rollout, Terminal, TimeMean
from deepzero_sim.coupling.losses.quantity import Quantity
from deepzero_sim.coupling.losses.spectrum import Spectrum
from deepzero_sim.coupling.losses.weighted_sum import Sum

__all__ = ["Every", "Loss", "Observed", "Quantity", "Rollout", "Spectrum", "Sum", "Terminal", "TimeMean"]

_guard_calls(__name__)
