"""Binary files of one array: NumPy's own, and plain numbers."""

from __future__ import annotations

import io

import numpy as np

from deepzero_sim.common.requirements import is_count, require
from deepzero_sim.common.types import Array
from deepzero_sim.connectors.formats.base import (
    Content,
    Format,
    Order,
    as_dtype,
    as_state,
    float_dtype,
    require_content,
    require_order,
    require_size,
)
from deepzero_sim.errors import UnreadableOutputError


class Npy(Format):
    """`npy`: one array, whose file tells its shape and dtype.

    Args:
        dtype: Dtype to write in; that of the states if None. Any precision can be read.

    Raises:
        ConfigError: `dtype` names no floating-point numbers.
    """

    def __init__(self, dtype: str | None = None) -> None:
        self._dtype = float_dtype(dtype)

    def encode(self, values: Array) -> Content:
        file = io.BytesIO()
        array = np.ascontiguousarray(values, dtype=self._dtype or values.dtype)
        np.lib.format.write_array(file, array, allow_pickle=False)
        return file.getbuffer()

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        file = io.BytesIO(content)
        try:
            array = np.lib.format.read_array(file, allow_pickle=False)
        except Exception as error:  # garbage makes numpy raise errors of many classes
            raise UnreadableOutputError(f"is no whole npy file ({type(error).__name__}: {error})") from error
        require_content(not file.read(1), "holds more than one npy array")
        return as_state(array, shape, dtype)


class Raw(Format):
    """`raw`: the numbers of one array, one after the other, as `fwrite` and Fortran's stream access write them.

    Args:
        dtype: Dtype of the numbers, with their byte order if it is not this machine's: `'>f8'`; that of the states if None.
        order: Axis that runs fastest: `C` for the last, as in C's `u[channel][y][x]` and Fortran's `u(x, y, channel)`; `F` for
            the first.
        header: Number of bytes before the numbers: zeros where a file is written, skipped where one is read.

    Raises:
        ConfigError: One of the arguments is not usable.
    """

    def __init__(self, dtype: str | None = None, order: Order = "C", header: int = 0) -> None:
        self._dtype, self._order = float_dtype(dtype), require_order(order)
        require(is_count(header, 0), "header must be a number of bytes, 0 or more", header)
        self._header = int(header)

    def encode(self, values: Array) -> Content:
        numbers = np.asarray(values, dtype=self._dtype or values.dtype)
        if self._order == "C" and not self._header:
            return np.ascontiguousarray(numbers).data.cast("B")
        return bytes(self._header) + numbers.tobytes(self._order)

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        held = self._dtype or dtype
        require_size(len(content), self._header + held.itemsize * int(np.prod(shape)))
        numbers = np.frombuffer(content, held, offset=self._header).reshape(shape, order=self._order)
        return as_dtype(numbers, dtype)
