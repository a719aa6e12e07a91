"""Trajectories and images: their files, how they are made, and batches cut out of them."""

from typing import TYPE_CHECKING

from deepzero_sim.common.public_names import Names as _Names

if TYPE_CHECKING:
    from deepzero_sim.datasets.batches import UnrolledBatches, advance_frames
    from deepzero_sim.datasets.opening import open_trajectories
    from deepzero_sim.datasets.source import DataSource
    from deepzero_sim.datasets.trajectories import Trajectories, load, save
else:
    __getattr__ = _Names(
        __name__,
        {
            "deepzero_sim.datasets.batches": ("UnrolledBatches", "advance_frames"),
            "deepzero_sim.datasets.opening": ("open_trajectories",),
            "deepzero_sim.datasets.source": ("DataSource",),
            "deepzero_sim.datasets.trajectories": ("Trajectories", "load", "save"),
        },
        runs=("advance_frames",),
    )
    __dir__ = __getattr__.listed

__all__ = ["DataSource", "Trajectories", "UnrolledBatches", "advance_frames", "load", "open_trajectories", "save"]
