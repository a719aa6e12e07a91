"""HDF5 files that are whole or not there, and that hold what they say themselves."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from deepzero_sim.common.files import kind_of_file, replace_file
from deepzero_sim.errors import DataError

#: What :func:`not_a_file` says of a path where nothing is.
NOTHING = "there is none"


@contextmanager
def writing(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file that appears when it is whole. It is made in memory: HDF5 cannot give up cleanly on a full disk.

    Yields:
        The open file.
    """
    image = io.BytesIO()
    with h5py.File(image, "w", libver="v110") as file:  # whose structures have checksums
        yield file
    with replace_file(path) as aside:
        aside.write_bytes(image.getbuffer())


@contextmanager
def reading(path: Path, what: str, remedy: str) -> Iterator[h5py.File]:
    """An HDF5 file to read from; whatever is wrong with it, also while it is read, is one sentence.

    Args:
        path: of the file.
        what: it should hold.
        remedy: what to do if it does not.

    Yields:
        The open file.

    Raises:
        DataError: it is no file, is no HDF5, or does not hold what is read from it.
    """
    instead = not_a_file(path)
    if instead is not None:
        raise DataError(f"{show(path)} cannot be read as {what}, because {instead}: {remedy}.")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        words = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise DataError(f"{path} cannot be read as {what} ({words}): {remedy}.") from error


def not_a_file(path: Path) -> str | None:
    """What stands at a path instead of a regular file, in words; None where there is one.

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
    """A path in a message; with what cannot be printed written out."""
    return str(path) if str(path).isprintable() else repr(str(path))
