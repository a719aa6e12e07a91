"""Numbers without anything around them, as `fwrite` and Fortran's stream access leave them."""

from __future__ import annotations

from typing import Literal

import numpy as np

from deepzero_sim.common.types import Array, is_integer
from deepzero_sim.connectors.formats.base import Content, Format, as_dtype, floating, need_size
from deepzero_sim.errors import ConfigError

#: Which axis runs fastest: the last (C), or the first (F, Fortran).
Order = Literal["C", "F"]


class Raw(Format):
    """`raw`: the numbers of one array, one after the other.

    Args:
        dtype: of the numbers, with their byte order if it is not this machine's: `'>f8'`; that of the states if None.
        order: `C` if the last axis runs fastest, as in C's `u[channel][y][x]` and Fortran's `u(x, y, channel)`; `F` if the
            first does.
        header: bytes before the numbers: zeros where a file is written, skipped where one is read.

    Raises:
        ConfigError: one of them is not usable.
    """

    def __init__(self, dtype: str | None = None, order: Order = "C", header: int = 0) -> None:
        self._dtype, self._order = floating(dtype), checked_order(order)
        if not is_integer(header) or header < 0:
            raise ConfigError(f"header must be a number of bytes, 0 or more, not {header!r}.")
        self._header = int(header)

    def encode(self, values: Array) -> Content:
        numbers = np.asarray(values, dtype=self._dtype or values.dtype)
        if self._order == "C" and not self._header:
            return np.ascontiguousarray(numbers).data.cast("B")
        return bytes(self._header) + numbers.tobytes(self._order)

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        held = self._dtype or dtype
        need_size(len(content), self._header + held.itemsize * int(np.prod(shape)))
        numbers = np.frombuffer(content, held, offset=self._header).reshape(shape, order=self._order)
        return as_dtype(numbers, dtype)


def checked_order(order: str) -> Order:
    """An axis order.

    Raises:
        ConfigError: it is none.
    """
    if order not in ("C", "F"):
        raise ConfigError(f"order must be C (the last axis runs fastest) or F (the first does), not {order!r}.")
    return "F" if order == "F" else "C"
