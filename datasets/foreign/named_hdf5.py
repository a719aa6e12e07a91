"""HDF5 files of no layout that is known: datasets at the root and in groups, whose axes the user names."""

from __future__ import annotations

from pathlib import Path

import h5py

from deepzero_sim.datasets.foreign.content import assemble
from deepzero_sim.datasets.foreign.named_arrays import arrange
from deepzero_sim.datasets.foreign.options import ReadingOptions
from deepzero_sim.datasets.foreign.variables import Hdf5Source, Source
from deepzero_sim.datasets.hdf5 import StoredFile, open_to_read, show
from deepzero_sim.datasets.recording import Recording


def read(path: Path, options: ReadingOptions) -> Recording:
    """Read datasets by their names; see :func:`deepzero_sim.datasets.foreign.read_recording`."""
    with open_to_read(path, "HDF5 data", "restore the file, or make it again") as file:
        arrays = datasets(file, StoredFile(path))
    return assemble(arrange(show(path), arrays, options), options)


def datasets(file: h5py.File, stored: StoredFile, reverse: bool = False) -> dict[str, Source]:
    """Find the datasets of a file, by their paths.

    Args:
        file: The file, open.
        stored: The same file, for reading later.
        reverse: True for arrays of MATLAB.
    """
    found: dict[str, Source] = {}

    def visit(name: str, thing: object) -> None:
        if isinstance(thing, h5py.Dataset) and thing.shape is not None and not name.startswith("#"):
            found[name] = Hdf5Source(stored, file, name, reverse)

    file.visititems(visit)
    return found
