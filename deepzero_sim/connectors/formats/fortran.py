"""Unformatted sequential files of Fortran: records between markers of their length, as gfortran and ifort write them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.files import read_plain_file
from deepzero_sim.common.requirements import is_count, require
from deepzero_sim.common.types import Array, is_integer
from deepzero_sim.connectors.formats.base import (
    LARGEST_BASE,
    Content,
    Format,
    Order,
    as_dtype,
    float_dtype,
    require_content,
    require_order,
    require_size,
)
from deepzero_sim.errors import ConfigError, UnreadableOutputError

#: Bytes of a marker: what gfortran calls -frecord-marker.
Marker: TypeAlias = Literal[4, 8]

ByteOrder: TypeAlias = Literal["little", "big"]

#: Number of records whose lengths a message shows.
SHOWN = 5


class Fortran(Format):
    """`fortran`: what `write(unit) u` leaves in a file that was opened with `form='unformatted'`.

    Args:
        dtype: Dtype of the numbers, `float64` for `real(8)`, with the byte order of the file if it is not this machine's, as in
            `'>f8'`; that of the states if None.
        order: Axis that runs fastest: `C` for states `(channels, y, x)` that the program holds as `u(x, y, channels)`; `F` if
            it holds them as `u(channels, y, x)`.
        records: Number of equal records that the array is divided into, such as one a channel.
        marker: Bytes of the length around a record: 4, or 8 after `gfortran -frecord-marker=8`.
        record: Index of the array's first record in a file that has others, from 0, or from the end if negative, as in -1 for
            the last; None if there are no others.
        base: Path of a file of such records, for inputs: a file that is written has the other records of `base`.

    Raises:
        ConfigError: One of the arguments is not usable.
    """

    #: Bytes that a record may have in one piece where markers are of 4 bytes; it is divided into subrecords otherwise.
    longest_piece: ClassVar[int] = 2147483639

    def __init__(
        self,
        dtype: str | None = None,
        order: Order = "C",
        records: int = 1,
        marker: Marker = 4,
        record: int | None = None,
        base: str | Path | None = None,
    ) -> None:
        self._dtype, self._order = float_dtype(dtype), require_order(order)
        require(is_count(records), "records must be a whole number, 1 or more", records)
        marks = is_integer(marker) and marker in get_args(Marker)
        require(marks, "marker must be 4 or 8, the bytes of a record's length", marker)
        whole = record is None or is_integer(record)
        require(whole, "record must be the place of a record, from 0, or -1 for the last", record)
        self._records, self._marker, self._record = int(records), marker, record
        self._base = None if base is None else _read_base(base)

    def encode(self, values: Array) -> Content:
        numbers = np.asarray(values, dtype=self._dtype or values.dtype).ravel(self._order)
        if numbers.size % self._records:
            raise ConfigError(f"records must divide the {numbers.size} numbers of the array, but there are {self._records}.")
        layout = self._layout(numbers.dtype)
        records = self._with_others([part.tobytes() for part in np.split(numbers, self._records)], layout, numbers.dtype)
        limit = self.longest_piece if layout.marker == 4 else None
        return b"".join(piece for record in records for piece in layout.pieces(record, limit))

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        held = self._dtype or dtype
        count = int(np.prod(shape))
        records = self._layout(held).records(content)
        if records is None:
            raise UnreadableOutputError(_diagnosis(content, self._layout(held), held, count))
        inside = b"".join(records[self._span(records)])
        whole = len(inside) % held.itemsize == 0
        require_content(whole, f"holds {len(inside)} bytes, no whole number of {held}, in {_lengths(records)}")
        numbers: NDArray[np.floating] = np.frombuffer(inside, held)
        require_size(numbers.size, count, "numbers")
        return as_dtype(numbers.reshape(shape, order=self._order), dtype)

    def largest(self, values: int) -> int:
        # other records may lie around the array's
        return super().largest(values) if self._record is None else 2**13 * values + 2**26

    def _layout(self, dtype: np.dtype[np.floating]) -> _Layout:
        return _Layout(self._marker, "little" if dtype.isnative == (sys.byteorder == "little") else "big")

    def _span(self, records: Sequence[bytes]) -> slice:
        """Locate the array's records among those of a file."""
        if self._record is None:
            alone = len(records) <= self._records
            remedy = "say by record, from 0, which is the first of the array"
            require_content(alone, f"holds {_lengths(records)}, not {self._records}: {remedy}")
            require_size(len(records), self._records, "records")
        first = self._record or 0
        start = first if first >= 0 else len(records) + first
        inside = 0 <= start <= len(records) - self._records
        require_content(inside, f"holds {_lengths(records)}: not {self._records} from the record {first}")
        return slice(start, start + self._records)

    def _with_others(self, written: Sequence[bytes], layout: _Layout, dtype: np.dtype[np.floating]) -> Sequence[bytes]:
        """Put the other records of `base` around those of the array."""
        if self._base is None:
            if self._record not in (None, 0):
                raise ConfigError(f"record {self._record} needs a base: a file whose other records are written around it.")
            return written
        records = layout.records(self._base)
        if records is None:
            raise ConfigError(f"base {_diagnosis(self._base, layout, dtype, 0)}.")
        try:
            span = self._span(records)
        except UnreadableOutputError as error:
            raise ConfigError(f"base {error}.") from error
        replaced, length = _lengths(records[span]), len(written[0])
        if any(len(record) != length for record in records[span]):
            raise ConfigError(f"base must have records of {length} bytes where the array is written, but there are {replaced}.")
        return [*records[: span.start], *written, *records[span.stop :]]


@dataclass(frozen=True)
class _Layout:
    """Markers of a file's records: the bytes of one, and their order."""

    marker: int
    order: ByteOrder

    def __str__(self) -> str:
        return f"markers of {self.marker} bytes, {self.order}-endian"

    def pieces(self, record: bytes, limit: int | None) -> Iterator[bytes]:
        """Divide a record into subrecords, with their markers.

        A leading marker is negative if another subrecord follows, a trailing one if another was before.
        """
        view = memoryview(record)
        step = limit or max(1, len(record))
        for start in range(0, max(1, len(record)), step):
            part = view[start : start + step]
            yield self._length(-len(part) if start + step < len(record) else len(part))
            yield bytes(part)
            yield self._length(-len(part) if start else len(part))

    def records(self, content: bytes) -> list[bytes] | None:
        """Return the inside of each record, subrecords put together; None if there are no whole records."""
        records: list[bytes] = []
        parts: list[bytes] = []
        place = 0
        while place < len(content):
            leading = self._length_at(content, place)
            end = place + self.marker + abs(leading)
            trailing = self._length_at(content, end)
            if end + self.marker > len(content) or trailing != (-abs(leading) if parts else abs(leading)):
                return None
            parts.append(content[place + self.marker : end])
            if leading >= 0:
                records.append(parts[0] if len(parts) == 1 else b"".join(parts))
                parts = []
            place = end + self.marker
        return None if parts else records

    def _length(self, length: int) -> bytes:
        return length.to_bytes(self.marker, self.order, signed=True)

    def _length_at(self, content: bytes, place: int) -> int:
        return int.from_bytes(content[place : place + self.marker], self.order, signed=True)


def _read_base(path: str | Path) -> bytes:
    require(isinstance(path, str | Path), "base must be the path of a file of unformatted records", path)
    if not Path(path).is_file():
        raise ConfigError(f"base must be a file of unformatted records, but {path} is none.")
    try:
        return read_plain_file(path, LARGEST_BASE)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"base must be a file of unformatted records, but {path} cannot be read ({error}).") from error


def _lengths(records: Sequence[bytes]) -> str:
    shown = ", ".join(str(len(record)) for record in records[:SHOWN])
    more = ", ..." if len(records) > SHOWN else ""
    noun = "record" if len(records) == 1 else "records"
    return f"{len(records)} {noun} of {shown}{more} bytes" if records else "0 records"


def _diagnosis(content: bytes, expected: _Layout, dtype: np.dtype[np.floating], count: int) -> str:
    """Say what a file without whole records is, as far as its bytes tell."""
    missing = f"holds no whole records with {expected}"
    for marker in get_args(Marker):
        for order in get_args(ByteOrder):
            other = _Layout(marker, order)
            if content and other.records(content) is not None:
                options = [f"marker: {marker}"] * (marker != expected.marker)
                options += [f"dtype: '{dtype.newbyteorder().str}'"] * (order != expected.order)
                return f"{missing}, but some with {other}: set {' and '.join(options)}"
    if len(content) == count * dtype.itemsize:
        return f"{missing}, but {count} numbers of {dtype} without any, as access='stream' leaves them: use the format raw"
    return f"{missing}: it is truncated, or of another format"
