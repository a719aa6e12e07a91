"""Paths inside of a working folder: what settings may name, and what may be read there after a program has had it."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from deepzero_sim.common.files import kind_of_file
from deepzero_sim.errors import ConfigError, MissingOutputError, UnreadableOutputError


def inside(path: str | os.PathLike[str], what: str) -> str:
    """A path of settings in plain form, held to stay inside of the folder that it starts at.

    Args:
        path: relative.
        what: it is for, in messages.

    Raises:
        ConfigError: it is absolute, leads out by `..`, or names the folder itself.
    """
    if not isinstance(path, str | os.PathLike) or not str(path) or not is_spelt(str(path)):
        raise ConfigError(f"{what} must have a path in the working folder, not {path!r}.")
    plain = PurePosixPath(path)
    if plain.is_absolute() or ".." in plain.parts or not plain.parts:
        raise ConfigError(f"{what} must be a relative path inside of the working folder, without '..', not {str(path)!r}.")
    return str(plain)


def is_spelt(text: str) -> bool:
    """Whether the system can take a text as a path, an argument or the value of a variable."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def read_file(path: str | os.PathLike[str], most: int) -> bytes:
    """A file that settings name. Nothing but a plain file is read: a pipe would wait for ever, a device never end.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        OSError: it is not there, or is no plain file.
        OverflowError: it is too large.
        ValueError: no file can have such a path.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(f"it is no plain file, but {kind_of_file(status.st_mode)}")
    with os.fdopen(descriptor, "rb") as file:
        content = b"" if status.st_size > most else file.read(status.st_size or most + 1)  # of some files no size is told
    if max(status.st_size, len(content)) > most:
        raise OverflowError(f"it has more than {most} bytes")
    return content


def read_inside(folder: Path, path: str, largest: int) -> bytes:
    """A file that a program left in its folder. No link leads out, and nothing but a plain file is opened.

    Args:
        folder: that the program worked in, by its path without links as it was before; it runs no more.
        path: of the file, as :func:`inside` returned it.
        largest: bytes that it may have.

    Raises:
        MissingOutputError: there is none.
        UnreadableOutputError: it is no plain file, lies outside, or is too large.
    """
    found = os.path.realpath(folder / path)  # a link may lead to another file inside
    if not found.startswith(f"{folder}{os.sep}"):
        raise UnreadableOutputError(f"is a link that leads out of the working folder, to {found}")
    try:
        _need_file(os.lstat(found), largest)  # before it is opened: a pipe or a device would wait, or do things
        descriptor = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingOutputError("is not there") from error
    except OSError as error:
        raise UnreadableOutputError(f"cannot be opened ({error.strerror})") from error
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_need_file(os.fstat(descriptor), largest))


def _need_file(status: os.stat_result, largest: int) -> int:
    """The size of a plain file that is not too large."""
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableOutputError(f"is no file ({stat.filemode(status.st_mode)})")
    if status.st_size > largest:
        raise UnreadableOutputError(f"has {status.st_size} bytes, far more than the state needs: it is of another format")
    return status.st_size
