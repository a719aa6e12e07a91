"""Size that a netCDF file of the classic formats must have: its library reads zeros, silently, where one was cut short.

Formats CDF-1, CDF-2 and CDF-5, as the netCDF User's Guide specifies them.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.hdf5 import show
from deepzero_sim.errors import DataError

#: Bytes of a number, by the code of its type.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}

#: Most entries of a list in a header that is not damaged.
_MOST = 10**6


def require_whole(path: Path) -> None:
    """Refuse a file of a classic format that ends before the last of its values; other files pass.

    Raises:
        DataError: It was cut short, or its header is damaged.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        if magic[:3] != b"CDF" or magic[3:] not in {b"\x01", b"\x02", b"\x05"}:
            return
        try:
            needed = _Header(file, magic[3]).size()
        except (struct.error, KeyError, IndexError, ValueError, OverflowError) as error:
            raise DataError(f"{show(path)} cannot be read as netCDF (its header is damaged): copy it again.") from error
    size = path.stat().st_size
    require_data(size >= needed, f"{show(path)} was cut short: it has {size} bytes, and needs {needed}: copy it again.")


class _Header:
    """Header of an open file, read in order.

    Args:
        file: File after its first four bytes.
        version: Number of the format.
    """

    def __init__(self, file: BinaryIO, version: int) -> None:
        self._file = file
        self._count = ">Q" if version == 5 else ">I"
        self._offset = ">I" if version == 1 else ">Q"

    def size(self) -> int:
        """Compute where the last value ends."""
        streaming = 2**64 - 1 if self._count == ">Q" else 2**32 - 1
        records = self._number(self._count)
        records = 0 if records == streaming else records
        dimensions = [self._dimension() for _ in range(self._list())]
        self._attributes()
        fixed, record_sizes, record_begins = [0], [], []
        for _ in range(self._list()):
            begin, size, is_record = self._variable(dimensions)
            if is_record:
                record_sizes.append(size)
                record_begins.append(begin)
            else:
                fixed.append(begin + size)
        if not record_sizes or not records:
            return max(fixed)
        step = record_sizes[0] if len(record_sizes) == 1 else sum(map(_pad, record_sizes))
        last = max(begin + size for begin, size in zip(record_begins, record_sizes, strict=True))
        return max(*fixed, last + (records - 1) * step)

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._file.read(struct.calcsize(form)))[0])

    def _list(self) -> int:
        """Read the head of a list: its tag, and how many entries it has."""
        self._number(">I")
        entries = self._number(self._count)
        if entries > _MOST:
            raise ValueError("more entries than a header can have")
        return entries

    def _skip_name(self) -> None:
        self._file.seek(_pad(self._number(self._count)), 1)

    def _dimension(self) -> int:
        self._skip_name()
        return self._number(self._count)

    def _attributes(self) -> None:
        for _ in range(self._list()):
            self._skip_name()
            kind = self._number(">I")
            self._file.seek(_pad(_SIZES[kind] * self._number(self._count)), 1)

    def _variable(self, dimensions: list[int]) -> tuple[int, int, bool]:
        """Read where a variable begins, how many bytes it, or one record of it, takes, and if it has records."""
        self._skip_name()
        rank = self._number(self._count)
        if rank > _MOST:
            raise ValueError("more dimensions than a variable can have")
        lengths = [dimensions[self._number(self._count)] for _ in range(rank)]
        self._attributes()
        kind = self._number(">I")
        self._number(self._count)  # the size is written, too, but is too small a number for large variables
        begin = self._number(self._offset)
        is_record = bool(lengths) and lengths[0] == 0
        return begin, math.prod(lengths[1:] if is_record else lengths) * _SIZES[kind], is_record


def _pad(size: int) -> int:
    """Round up to a multiple of four bytes."""
    return -(-size // 4) * 4
