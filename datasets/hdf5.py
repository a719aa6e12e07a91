"""HDF5 files, whole or not there, opened with one sentence for whatever is wrong with them."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from deepzero_sim.common.files import kind_of_file, replace_file
from deepzero_sim.common.requirements import require_data
from deepzero_sim.errors import DataError

#: Answer of :func:`not_a_file` for a path where nothing is.
NOTHING = "there is none"


@contextmanager
def open_to_write(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file that appears on disk when it is whole.

    It is made in memory, because HDF5 cannot give up cleanly on a full disk.

    Yields:
        Open file.
    """
    image = io.BytesIO()
    with h5py.File(image, "w", libver="v110") as file:  # the first format whose structures have checksums
        yield file
    with replace_file(path) as aside:
        aside.write_bytes(image.getbuffer())


@contextmanager
def open_to_read(path: Path, what: str, remedy: str) -> Iterator[h5py.File]:
    """Open an HDF5 file to read it; whatever is wrong with it, also later while it is read, becomes one sentence.

    Args:
        path: Path of the file.
        what: Content that it should have, for messages.
        remedy: Advice for one that has not.

    Yields:
        Open file.

    Raises:
        DataError: It is no file, is no HDF5, or does not hold what is read from it.
    """
    instead = not_a_file(path)
    require_data(instead is None, f"{show(path)} cannot be read as {what}, because {instead}: {remedy}.")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        words = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise DataError(f"{path} cannot be read as {what} ({words}): {remedy}.") from error


def not_a_file(path: Path) -> str | None:
    """Say what stands at a path instead of a regular file; None where there is one.

    Anything else is never opened: a pipe waits for somebody who writes to it, and a device may have no end.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return NOTHING
    except ValueError:
        return "that can be no path"
    except OSError as error:
        return f"it is out of reach ({os.strerror(error.errno) if error.errno else error})"
    if stat.S_ISREG(mode):
        return None
    return f"that is {kind_of_file(mode)}"


def show(path: Path) -> str:
    """Write a path for a message, with characters that cannot be printed escaped."""
    return str(path) if str(path).isprintable() else repr(str(path))
