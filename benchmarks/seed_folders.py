"""Folders of the runs of one seed, of benchmarks that train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folders:
    """Folders of the runs of a seed.

    Args:
        runs: Folder with one folder a run.
        train_data: HDF5 trajectories.
        seed: Seed of all of them.
    """

    runs: Path
    train_data: Path
    seed: int
