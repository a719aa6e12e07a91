"""NumPy's own format."""

from __future__ import annotations

import io

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.connectors.formats.base import Content, Format, checked, floating
from deepzero_sim.errors import UnreadableOutputError


class Npy(Format):
    """`npy`: one array, which says its shape and dtype itself.

    Args:
        dtype: to write in; that of the states if None. Any precision can be read.

    Raises:
        ConfigError: `dtype` names no floating-point numbers.
    """

    def __init__(self, dtype: str | None = None) -> None:
        self._dtype = floating(dtype)

    def encode(self, values: Array) -> Content:
        file = io.BytesIO()
        array = np.ascontiguousarray(values, dtype=self._dtype or values.dtype)
        np.lib.format.write_array(file, array, allow_pickle=False)
        return file.getbuffer()

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        file = io.BytesIO(content)
        try:
            array = np.lib.format.read_array(file, allow_pickle=False)
        except Exception as error:  # whatever garbage makes of it
            raise UnreadableOutputError(f"is no whole npy file ({type(error).__name__}: {error})") from error
        if file.read(1):
            raise UnreadableOutputError("holds more than one npy array")
        return checked(array, shape, dtype)
