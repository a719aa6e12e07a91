"""NumPy's files: one array in .npy, named arrays in .npz, or a folder of them. Nothing pickled is ever loaded."""

from __future__ import annotations

import math
import re
import struct
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from deepzero_sim.common.machine import memory
from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.file_state import FileState
from deepzero_sim.datasets.foreign.content import assemble
from deepzero_sim.datasets.foreign.damage import explain
from deepzero_sim.datasets.foreign.named_arrays import arrange
from deepzero_sim.datasets.foreign.options import ReadingOptions
from deepzero_sim.datasets.foreign.variables import Index, Source
from deepzero_sim.datasets.hdf5 import show
from deepzero_sim.datasets.recording import Recording

#: Share of memory that a compressed member may take: it cannot be read in parts.
_SHARE = 0.25

_REMEDY = "save it again by numpy.save or numpy.savez, with numbers only"


def natural_order(name: str) -> list[tuple[int, int | str]]:
    """Return a key by which `run_2` comes before `run_10`."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def is_collection(files: Sequence[Path]) -> bool:
    """Tell .npy files that are arrays of one set, `u.npy` and `t.npy`, from those that are simulations, `run_1.npy`, .."""
    patterns = {re.sub(r"\d+", "#", path.stem) for path in files}
    return len(patterns) > 1 or (len(files) == 1 and not any(letter.isdecimal() for letter in files[0].stem))


def read_npy(path: Path, options: ReadingOptions) -> Recording:
    """Read an array, or a folder of named ones; see :func:`deepzero_sim.datasets.foreign.read_recording`."""
    if not path.is_dir():
        own = re.sub(r"[\W_]*\d+$", "", path.stem) or "data"  # the number of a simulation is no part of a channel's name
        return assemble(arrange(show(path), {own: NpySource(path)}, options, has_names=False), options)
    arrays: dict[str, Source] = {file.stem: NpySource(file) for file in sorted(path.glob("*.npy"))}
    return assemble(arrange(show(path), arrays, options), options)


def read_npz(path: Path, options: ReadingOptions) -> Recording:
    """Read named arrays; see :func:`deepzero_sim.datasets.foreign.read_recording`."""
    with _explain(path), zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
    require_data(bool(members), f"{show(path)} is an archive without arrays (.npy): {_REMEDY}.")
    arrays: dict[str, Source] = {member.filename.removesuffix(".npy"): _member(path, member) for member in members}
    return assemble(arrange(show(path), arrays, options), options)


def _explain(path: Path, member: str = "") -> AbstractContextManager[None]:
    return explain(f"{member} of {show(path)}" if member else show(path), "an array", _REMEDY)


class NpySource:
    """Array in a .npy file, or in a part of an archive that is not compressed, mapped when it is read.

    Args:
        path: Path of the file.
        member: Name of the archive's member, for messages; empty for a file of its own.
        start: Place in the file where the array's own header begins.
        length: Number of bytes from there on; None for all of the file.
    """

    def __init__(self, path: Path, member: str = "", start: int = 0, length: int | None = None) -> None:
        self._path, self._member, self._start = path.absolute(), member, start
        self._state = FileState(path)
        values = self._map()
        self.shape, self.dtype = values.shape, values.dtype.newbyteorder("=")
        self._require_nothing_more(path.stat().st_size - start if length is None else length, values.nbytes)

    def _require_nothing_more(self, length: int, size: int) -> None:
        """Refuse bytes behind the array: a second one, or what an older and larger file left."""
        with _explain(self._path, self._member), self._path.open("rb") as file:
            file.seek(self._start)
            _read_header(file)
            _require_end(length - (file.tell() - self._start) - size)

    def _map(self) -> NDArray[Any]:
        with _explain(self._path, self._member), self._path.open("rb") as file:
            file.seek(self._start)
            shape, by_columns, dtype = _read_header(file)
            if dtype.hasobject:
                raise ValueError("allow_pickle")
            order: Any = "F" if by_columns else "C"
            if 0 in shape or not shape:
                return np.fromfile(file, dtype, count=int(np.prod(shape))).reshape(shape, order=order)
            return np.memmap(self._path, dtype, mode="r", offset=file.tell(), shape=shape, order=order)

    def read(self, index: Index) -> NDArray[Any]:
        """Read a part; see :class:`deepzero_sim.datasets.foreign.variables.Source`."""
        self._state.require_unchanged()
        return np.array(self._map()[index])


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    start = file.tell()
    try:
        return _parse_header(file)
    except SystemError:  # Python 3.11 counts how deep it parses for all threads at once, and another one parsed meanwhile
        file.seek(start)
        return _parse_header(file)


def _parse_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(file)
    if version == (1, 0):
        return npy_format.read_array_header_1_0(file)
    if version == (2, 0):
        return npy_format.read_array_header_2_0(file)
    raise ValueError(f"its format is of version {version[0]}.{version[1]}, expected 1.0 or 2.0")


def _require_end(more: int) -> None:
    if more > 0:
        raise ValueError(f"{more} bytes lie behind the array, such as those of another one")


class _CompressedSource:
    """Array in a compressed member of an archive, which is read as a whole when it is first asked for.

    Args:
        path: Path of the archive.
        member: Name of the member.
    """

    def __init__(self, path: Path, member: str) -> None:
        self._path, self._member = path.absolute(), member
        self._values: NDArray[Any] | None = None
        self._state = FileState(path)
        with _explain(path, member), zipfile.ZipFile(path) as archive, archive.open(member) as file:
            self.shape, _, dtype = _read_header(file)
            if dtype.hasobject:
                raise ValueError("allow_pickle")
            _require_end(archive.getinfo(member).file_size - file.tell() - math.prod(self.shape) * dtype.itemsize)
        self.dtype = dtype.newbyteorder("=")
        size = int(np.prod(self.shape, dtype=np.float64)) * dtype.itemsize
        require_data(
            size <= _SHARE * memory(),
            f"{member} of {show(path)} takes {size / 2**30:,.0f} GiB and is compressed, so that it cannot be read in parts: "
            "save it by numpy.save instead.",
        )

    def read(self, index: Index) -> NDArray[Any]:
        """Read a part; see :class:`deepzero_sim.datasets.foreign.variables.Source`."""
        if self._values is None:
            self._state.require_unchanged()
            with _explain(self._path, self._member), zipfile.ZipFile(self._path) as archive, archive.open(self._member) as file:
                self._values = npy_format.read_array(file, allow_pickle=False)
        return self._values[index]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_values": None}


def _member(path: Path, member: zipfile.ZipInfo) -> Source:
    """Open a member of an archive: mapped if it is stored as it is."""
    if member.compress_type != zipfile.ZIP_STORED:
        return _CompressedSource(path, member.filename)
    with _explain(path, member.filename), path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)  # of the member itself, whose name and extra field may be longer than in the directory
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise ValueError("the archive's directory does not fit its content")
        name, extra = struct.unpack("<HH", header[26:30])
    return NpySource(path, member.filename, member.header_offset + 30 + name + extra, member.file_size)
