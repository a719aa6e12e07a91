"""The one way to trajectories: of this package's own files, and of those that other programs made."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.source import DataSource, as_source
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.solver.spec import SolverSpec


def open_trajectories(
    source: str | Path | DataSource | Trajectories, spec: SolverSpec, may_differ: Collection[str] = ()
) -> Trajectories:
    """Open trajectories for a solver: on its grid, its step apart, with its channels and parameters.

    Args:
        source: Path of a file, a path with what has to be said of it, or trajectories.
        spec: Spec of the solver.
        may_differ: Keys of metadata that may contradict the solver: see :data:`deepzero_sim.datasets.metadata.MetadataKey`.

    Raises:
        DataError: The data cannot be read, or do not fit the solver.
        ConfigError: Something that is said of them cannot be used.
    """
    if isinstance(source, Trajectories):
        source.require_fit(spec)
        return source
    return trajectories.load(as_source(source).path, spec, may_differ)
