"""HDF5 files that are whole or not there."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from deepzero_sim.files import replacing


@contextmanager
def writing(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file that appears when it is whole. It is made in memory: HDF5 cannot give up cleanly on a full disk.

    Yields:
        The open file.
    """
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        yield file
    with replacing(path) as aside:
        aside.write_bytes(image.getbuffer())
