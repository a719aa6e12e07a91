"""HDF5 files, whole or not there, opened with one sentence for whatever is wrong with them."""

from __future__ import annotations

import io
import os
import stat
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from deepzero_sim.common.files import kind_of_file, replace_file
from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.file_state import FileState
from deepzero_sim.errors import DataError

#: Most files that a process keeps open at once; far fewer than systems allow, as others open files, too.
MOST_OPEN = 64

#: Answer of :func:`not_a_file` for a path where nothing is.
NOTHING = "there is none"


@contextmanager
def open_to_write(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file that appears on disk when it is whole.

    Yields:
        Open file, of the first format whose structures have checksums.

    Raises:
        OSError: It cannot be written, for one because the disk is full; then there is none.
    """
    with replace_file(path) as aside, aside.open("w+b", buffering=0) as raw:
        sink = _Sink(raw)
        try:
            with h5py.File(sink, "w", libver="v110") as file:
                yield file
        finally:
            if sink.error is not None:
                raise sink.error


class _Sink(io.RawIOBase):
    """File that HDF5 writes to, and that never fails: HDF5 cannot give up cleanly, on a full disk for one.

    Args:
        file: File on disk, not buffered.

    Attributes:
        error: First error of the file, after which nothing more is written.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer) or 0

    def write(self, data: Any) -> int:
        view, written = memoryview(data).cast("B"), 0
        while self.error is None and written < len(view):
            try:
                written += self._file.write(view[written:])
            except OSError as error:
                self.error = error
        return len(view)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


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
    with explain_damage(path, what, remedy), h5py.File(path, "r") as file:
        yield file


@contextmanager
def explain_damage(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn what HDF5 says of a file that cannot be read into one sentence; the arguments are those of :func:`open_to_read`.

    Raises:
        DataError: It cannot be read.
    """
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        words = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise DataError(f"{path} cannot be read as {what} ({words}): {remedy}.") from error


class StoredFile:
    """HDF5 file that is read on demand, here or in the workers that it is sent to, as long as nobody changes it.

    It stays open between reads, unless :data:`MOST_OPEN` others were read since: a set may have thousands of files.

    Args:
        path: Path of the file.
        what: Content that it should have, for messages.
    """

    def __init__(self, path: Path, what: str = "HDF5 data") -> None:
        self.path, self.what = path.absolute(), what
        self._state = FileState(path)
        self._file: h5py.File | None = None
        self._process, self._readers = 0, 0

    @contextmanager
    def open(self) -> Iterator[h5py.File]:
        """Open the file, or go on with it as it is open.

        Yields:
            Open file, which is not to be closed.

        Raises:
            DataError: The file was changed since it was first looked at, or cannot be read.
        """
        self._state.require_unchanged()
        with explain_damage(self.path, self.what, "restore the file, or make it again"):
            file = self._acquire()
            try:
                yield file
            finally:
                with _open_files.lock:
                    self._readers -= 1

    def _acquire(self) -> h5py.File:
        with _open_files.lock:
            if self._file is None or self._process != os.getpid():  # a handle is not shared with a forked process
                _open_files.make_room()
                self._file, self._process, self._readers = h5py.File(self.path, "r"), os.getpid(), 0
            self._readers += 1
            _open_files.note(self)
            return self._file

    def close_if_idle(self) -> bool:
        """Close the file if nobody reads it; returns whether it is closed."""
        if self._readers == 0 and self._file is not None:
            self._file.close()
            self._file = None
        return self._file is None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_file": None, "_readers": 0}


class _OpenFiles:
    """Files that are open in this process, in the order in which they were last read.

    Attributes:
        lock: Lock that is held while files are opened and closed.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._files = weakref.WeakKeyDictionary[StoredFile, None]()

    def note(self, file: StoredFile) -> None:
        """Put a file behind all others, as the one read last."""
        self._files.pop(file, None)
        self._files[file] = None

    def make_room(self) -> None:
        """Close files that were not read for longest, until one more can be opened."""
        for file in list(self._files):
            if len(self._files) < MOST_OPEN:
                return
            if file.close_if_idle():
                self._files.pop(file, None)


_open_files = _OpenFiles()


def _forget_open_files() -> None:
    """Begin anew in a forked process, to which neither the lock nor the files of its parent belong."""
    global _open_files  # noqa: PLW0603 - one for a process
    _open_files = _OpenFiles()


os.register_at_fork(after_in_child=_forget_open_files)


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
