"""Paths inside of a working folder: what settings may name, and what may be read there after a program has had it."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from deepzero_sim.common.requirements import require
from deepzero_sim.connectors.formats.base import require_content
from deepzero_sim.errors import MissingOutputError, UnreadableOutputError


def inner_path(path: str | os.PathLike[str], what: str) -> str:
    """Normalise a relative path of settings, which must stay inside of its folder; `what` is its purpose, for messages."""
    possible = isinstance(path, str | os.PathLike) and bool(str(path)) and is_encodable(str(path))
    require(possible, f"{what} must have a path in the working folder", path)
    pure = PurePosixPath(path)
    inside = not pure.is_absolute() and ".." not in pure.parts and bool(pure.parts)
    require(inside, f"{what} must be a relative path inside of the working folder, without '..'", str(path))
    return str(pure)


def is_encodable(text: str) -> bool:
    """Tell whether the system can take a text as a path, an argument or the value of a variable."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def read_output(folder: Path, path: str, largest: int) -> bytes:
    """Read a file that a program left in its folder. No link leads out, and nothing but a plain file is opened.

    Args:
        folder: Folder that the program worked in, by its path without links as it was before; the program runs no more.
        path: Path of the file, as :func:`inner_path` returned it.
        largest: Bytes that it may have.

    Raises:
        MissingOutputError: The file is missing.
        UnreadableOutputError: The file is no plain file, lies outside, or is too large.
    """
    target = os.path.realpath(folder / path)  # a link may lead to another file inside
    inside = target.startswith(f"{folder}{os.sep}")
    require_content(inside, f"is a link that leads out of the working folder, to {target}")
    try:
        _require_plain(os.lstat(target), largest)  # before it is opened: a pipe or a device would wait, or do things
        descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingOutputError("is not there") from error
    except OSError as error:
        raise UnreadableOutputError(f"cannot be opened ({error.strerror})") from error
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_require_plain(os.fstat(descriptor), largest))


def _require_plain(status: os.stat_result, largest: int) -> int:
    """Return the size of a file, which must be a plain one and not too large."""
    size = status.st_size
    require_content(stat.S_ISREG(status.st_mode), f"is no file ({stat.filemode(status.st_mode)})")
    require_content(size <= largest, f"has {size} bytes, far more than the state needs: it is of another format")
    return size
