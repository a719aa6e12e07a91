"""Files: written so that a reader never sees half of one, read although they may be anything; checksums of their content."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from safetensors import SafetensorError

from deepzero_sim.errors import ConfigError, RunError

if TYPE_CHECKING:
    import torch

#: Bytes of the largest text file that is read.
LARGEST_TEXT = 8 * 2**20


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Write aside, then rename: `path` is whole and on disk when the block ends, and untouched if it fails.

    Yields:
        Path to write to, in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path)
    aside = _name_aside(path)
    try:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def replace_tensor_file(path: Path, what: str) -> Iterator[Path]:
    """Write a file of safetensors as :func:`replace_file` does, and raise the library's own input/output error as an OSError.

    Args:
        path: Path of the file.
        what: Content of the file, for messages.
    """
    with replace_file(path) as aside:
        try:
            yield aside
        except SafetensorError as error:
            raise OSError(f"{what} cannot be written ({error})") from error


def require_writable(path: Path, what: str) -> None:
    """Refuse a path that :func:`replace_file` cannot write, before hours are spent on what is to be written there.

    Args:
        path: Path of the file, which may exist.
        what: Content of the file, for the message.

    Raises:
        RunError: No file can be made next to it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = _name_aside(path)
        aside.touch(exist_ok=False)
        aside.unlink()
    except (OSError, ValueError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise RunError(
            f"{what} cannot be kept in {str(path)!r} ({reason}): name a file in a folder that can be written."
        ) from error


def _name_aside(path: Path) -> Path:
    """Name a file next to another, which no other thread, process or machine writes to."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}.part")


def clear_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they wrote this file left of it."""
    for left in path.parent.glob(f".{escape(path.name)}.*.part"):
        writer = left.suffixes[-2].removeprefix(".")
        if writer.isdecimal() and not _is_running(int(writer)):
            left.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    """Tell the number of a process that may be running."""
    if os.name == "posix":
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
    return True


def write_text(path: Path, text: str) -> None:
    """Write a whole text file, or nothing."""
    with replace_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def require_regular(path: Path) -> None:
    """Refuse a file of a run that is a pipe or a device: opening a pipe waits for ever, and a device has no end."""
    if path.exists() and not path.is_file() and not path.is_dir():  # opening a folder raises anyway
        raise RunError(f"{path} must be a regular file, but it is something else: restore it, or delete it.")


def read_text(path: Path, what: str) -> str:
    """Read a text file that may turn out to be anything: a pipe that nobody writes to, a device without an end, a picture.

    Args:
        path: Path of the file.
        what: Content that it should have, for messages.

    Raises:
        ConfigError: It is no regular file of text in UTF-8, or too large for one.
        OSError: It cannot be read.
    """
    try:
        with open(path, "rb", opener=_open_regular) as file:
            content = file.read(LARGEST_TEXT + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"expected {what} at {path}, but there is none: check the path.") from error
    except IsADirectoryError as error:
        raise ConfigError(f"expected {what} at {path}, but that is no regular file: check the path.") from error
    except ValueError as error:
        raise ConfigError(f"expected {what} at {str(path)!r}, but that can be no path ({error}): check it.") from error
    if len(content) > LARGEST_TEXT:
        raise ConfigError(f"{what} may have {LARGEST_TEXT // 2**20} MiB, but {path} is larger: check the path.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"expected {what} as text in UTF-8 at {path}, not other bytes ({error}): check the path.") from error


def read_plain_file(path: str | os.PathLike[str], most: int) -> bytes:
    """Read a file that settings name. Nothing but a plain file is read: a pipe would wait for ever, a device never end.

    Args:
        path: Path of the file.
        most: Bytes that it may have.

    Raises:
        OSError: The file is missing, or is no plain file.
        OverflowError: The file is too large.
        ValueError: No file can have such a path.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(f"it is no plain file, but {kind_of_file(status.st_mode)}")
    with os.fdopen(descriptor, "rb") as file:
        content = b"" if status.st_size > most else file.read(status.st_size or most + 1)  # some files tell no size
    if max(status.st_size, len(content)) > most:
        raise OverflowError(f"it has more than {most} bytes")
    return content


def require_file_or_folder(path: str) -> None:
    """Refuse the path of a pipe, a socket or a device, which can be read without an end, or waited for."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - text that is no path at all may be asked about
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ConfigError(
            f"expected a file or a folder, but {path} is a pipe, a socket or a device: copy what it holds to a file."
        )


def kind_of_file(mode: int) -> str:
    """Name the kind of a file that is no plain one."""
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _open_regular(path: str, flags: int) -> int:
    """Open a regular file, without waiting for somebody to write to what is a pipe; anything else is an IsADirectoryError."""
    file = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise IsADirectoryError
    return file


class ArrayInParts(NamedTuple):
    """Array that is larger than memory.

    Args:
        dtype: Type of its numbers.
        shape: Shape.
        parts: Its numbers in order, in arrays of any shapes.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    parts: Iterable[np.ndarray[Any, Any]]


def digest(words: Sequence[str], arrays: Iterable[np.ndarray[Any, Any] | torch.Tensor | ArrayInParts] = ()) -> str:
    """Compute the SHA-256 of texts and of arrays with their types and shapes, in the order given."""
    checksum = hashlib.sha256(json.dumps(list(words)).encode())
    for array in arrays:
        checksum.update(f"{array.dtype} {tuple(array.shape)}".encode())
        for part in array.parts if isinstance(array, ArrayInParts) else (array,):
            checksum.update(_bytes(part).data)
    return checksum.hexdigest()


def digest_of_named(words: Sequence[str], arrays: Mapping[str, np.ndarray[Any, Any] | torch.Tensor]) -> str:
    """Compute the SHA-256 of texts and of arrays by name, in whatever order a file lists them."""
    names = sorted(arrays)
    return digest([*words, *names], (arrays[name] for name in names))


def _bytes(array: np.ndarray[Any, Any] | torch.Tensor) -> np.ndarray[Any, Any]:
    if not np.prod(array.shape):
        return np.empty(0, np.uint8)
    if isinstance(array, np.ndarray):
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    import torch  # noqa: PLC0415 - who reads settings has no tensors

    return array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
