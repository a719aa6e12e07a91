"""Entries of a folder, a tar or a zip, one after another, and within bounds: an archive may unpack to anything."""

from __future__ import annotations

import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tarfile import EOFHeaderError as EndOfTarError  # type: ignore[attr-defined]
from tarfile import HeaderError, ReadError
from typing import Literal, Self, TypeAlias

from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.hdf5 import show
from deepzero_sim.errors import DataError

#: Bytes of the largest file that is read whole.
LARGEST = 2**28

#: Multiple of its own size that an archive may unpack to, beyond the first GiB: images hardly get smaller in one.
EXPANSION, FREE = 200, 2**30

Kind: TypeAlias = Literal["file", "folder", "link", "special"]


@dataclass(frozen=True)
class Entry:
    """File, folder or anything else that has a name in a source.

    Args:
        name: Path within the source, with slashes.
        kind: Kind of entry; a link is one that leads nowhere, or one in an archive.
        size: Bytes of a file.
        read: Function that returns the content of a file; to be called before the next entry is asked for.
    """

    name: str
    kind: Kind
    size: int = 0
    read: Callable[[], bytes] = bytes

    def content(self, source: Path) -> bytes:
        """Read a file.

        Raises:
            DataError: It is too large for an image.
            UnreadableArchiveError: The archive that it is in is damaged.
        """
        require_data(
            self.size <= LARGEST,
            f"{show(source)} must hold images, but {self.name} has {self.size:,} bytes, more than one may have "
            f"({LARGEST:,}): take it out.",
        )
        try:
            return self.read()
        except _DAMAGED as error:
            raise UnreadableArchiveError(_first_line(error)) from error


class UnreadableArchiveError(Exception):
    """Damage of an archive, which cannot be read to its end."""


def entries(source: Path) -> Iterator[Entry]:
    """Go through everything in a source: the files of a folder in the order of their names, of an archive in its own.

    Raises:
        UnreadableArchiveError: An archive is damaged.
        DataError: The source is no archive, or unpacks to far more than its size.
    """
    if source.is_dir():
        yield from _folder_entries(source, "", frozenset())
        return
    read_entries = _tar_entries if _is_tar(source) else _zip_entries if zipfile.is_zipfile(source) else None
    if read_entries is None:
        raise DataError(
            f"{show(source)} is no archive that can be read (no tar, zip or npz file): expected CIFAR-10's python archive, an "
            "archive or folder of images by class, or an npz file; if it was cut short, fetch it again."
        )
    unpacked, size = 0, source.stat().st_size
    for entry in read_entries(source):
        unpacked += entry.size + 512
        require_data(
            unpacked <= FREE + EXPANSION * size,
            f"{show(source)} has {size:,} bytes and unpacks to more than {unpacked:,}, as no archive of images does: check it.",
        )
        yield entry


def _folder_entries(folder: Path, within: str, above: frozenset[str]) -> Iterator[Entry]:
    """Go through a folder. Links are followed, to folders as well: many choose classes by them."""
    real = os.path.realpath(folder)
    require_data(real not in above, f"{show(folder)} is a link to a folder that it lies in: take it out.")
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names alone
    except OSError as error:
        raise DataError(f"{show(folder)} cannot be read ({error.strerror}): check its permissions.") from error
    for name in names:
        path, shown = folder / name, f"{within}{name}"
        try:
            status = path.stat()
        except OSError:
            yield Entry(shown, "link")
            continue
        if stat.S_ISDIR(status.st_mode):
            yield Entry(shown, "folder")
            yield from _folder_entries(path, f"{shown}/", above | {real})
        elif stat.S_ISREG(status.st_mode):
            yield Entry(shown, "file", status.st_size, _file_reader(path))
        else:
            yield Entry(shown, "special")


def _file_reader(path: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{show(path)} cannot be read ({error.strerror}): check its permissions.") from error

    return read


#: What the standard library raises where an archive is damaged.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    lzma.LZMAError,
    zlib.error,
    OSError,
    ValueError,
    IndexError,
    OverflowError,
    RuntimeError,  # a password
    NotImplementedError,
)


class _Header(tarfile.TarInfo):
    """Header of a tar's member. Where there is neither one nor the block that ends a tar, the tar is damaged."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except EndOfTarError:
            raise
        except HeaderError as error:
            raise ReadError(str(error)) from error


def _is_tar(source: Path) -> bool:
    try:
        return tarfile.is_tarfile(source)
    except _DAMAGED:  # the beginning of one, cut off
        return not zipfile.is_zipfile(source)


def _tar_entries(source: Path) -> Iterator[Entry]:
    try:
        with tarfile.open(source, tarinfo=_Header) as archive:
            for member in archive:
                if member.isreg():
                    yield Entry(_plain(member.name), "file", member.size, _member_reader(archive, member))
                elif member.isdir():
                    yield Entry(_plain(member.name), "folder")
                else:
                    yield Entry(_plain(member.name), "link" if member.issym() or member.islnk() else "special")
    except _DAMAGED as error:
        raise UnreadableArchiveError(_first_line(error)) from error


def _member_reader(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        file = archive.extractfile(member)
        return b"" if file is None else file.read()

    return read


def _zip_entries(source: Path) -> Iterator[Entry]:
    try:
        with zipfile.ZipFile(source) as archive:
            for info in archive.infolist():
                mode = info.external_attr >> 16
                if info.is_dir():
                    yield Entry(_plain(info.filename), "folder")
                elif stat.S_ISLNK(mode):
                    yield Entry(_plain(info.filename), "link")
                else:
                    yield Entry(_plain(info.filename), "file", info.file_size, partial(archive.read, info))
    except _DAMAGED as error:
        raise UnreadableArchiveError(_first_line(error)) from error


def _plain(name: str) -> str:
    """Drop the dots of a name that say nothing, and write slashes where Windows wrote others."""
    slashes = name if "/" in name else name.replace("\\", "/")
    return "/".join(part for part in slashes.split("/") if part not in {"", "."})


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
