"""Trajectories and images: their files, how they are made, and batches cut out of them."""

from deepzero_sim.common.arguments import guard_calls as _guard_calls
from deepzero_sim.datasets.batches import UnrolledBatches, advance_frames
from deepzero_sim.datasets.trajectories import Trajectories, load, save

__all__ = ["Trajectories", "UnrolledBatches", "advance_frames", "load", "save"]

_guard_calls(__name__, runs=("advance_frames",))
