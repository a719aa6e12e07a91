"""Unformatted sequential files of Fortran: records between markers of their length, as gfortran and ifort write them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.connectors.formats.base import Content, Format, as_dtype, floating, need_size
from deepzero_sim.connectors.formats.raw import Order, checked_order
from deepzero_sim.errors import ConfigError, UnreadableOutputError
from deepzero_sim.types import Array, is_whole

#: Bytes of a marker.
MARKER = 4


class Fortran(Format):
    """`fortran`: what `write(unit) u` leaves in a file that was opened with `form='unformatted'`.

    Args:
        dtype: of the numbers, `float64` for `real(8)`, with the byte order of the file if it is not this machine's, as in
            `'>f8'`; that of the states if None.
        order: `C` for states `(channels, y, x)` that the program holds as `u(x, y, channels)`; `F` if it holds them as
            `u(channels, y, x)`.
        records: that the array is divided into, equal ones, such as one a channel.

    Raises:
        ConfigError: one of them is not usable.
    """

    def __init__(self, dtype: str | None = None, order: Order = "C", records: int = 1) -> None:
        self._dtype, self._order = floating(dtype), checked_order(order)
        if not is_whole(records) or records < 1:
            raise ConfigError(f"records must be a whole number, 1 or more, not {records!r}.")
        self._records = int(records)

    def encode(self, values: Array) -> Content:
        numbers = np.asarray(values, dtype=self._dtype or values.dtype).ravel(self._order)
        if numbers.size % self._records:
            raise ConfigError(f"records must divide the {numbers.size} numbers of the array, but there are {self._records}.")
        marker = _marker(numbers.dtype, numbers.nbytes // self._records)
        return b"".join(marker + part.tobytes() + marker for part in np.split(numbers, self._records))

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        held = self._dtype or dtype
        records = list(_records(content, held))
        need_size(len(records), self._records, "records")
        numbers: NDArray[np.floating] = np.frombuffer(b"".join(records), held)
        need_size(numbers.size, int(np.prod(shape)), "numbers")
        return as_dtype(numbers.reshape(shape, order=self._order), dtype)


def _marker(dtype: np.dtype[np.floating], size: int) -> bytes:
    return np.array(size, dtype=np.dtype(np.uint32).newbyteorder(dtype.byteorder)).tobytes()


def _records(content: bytes, dtype: np.dtype[np.floating]) -> Iterator[bytes]:
    """The inside of each record.

    Raises:
        UnreadableOutputError: they are no whole records of such numbers.
    """
    place, kind = 0, np.dtype(np.uint32).newbyteorder(dtype.byteorder)
    while place < len(content):
        marker = content[place : place + MARKER]
        size = int(np.frombuffer(marker, kind)[0]) if len(marker) == MARKER else 0
        end = place + MARKER + size
        if len(marker) < MARKER or content[end : end + MARKER] != marker or size % dtype.itemsize:
            raise UnreadableOutputError(
                f"holds no whole record of {dtype} at byte {place}: it is truncated, or of another format"
            )
        yield content[place + MARKER : end]
        place = end + MARKER
