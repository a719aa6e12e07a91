"""How numbers lie in a file: the base of all formats, and what several of them share."""

from __future__ import annotations

import abc
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.types import Array
from deepzero_sim.errors import ConfigError, InvalidStateError, UnreadableOutputError

#: What goes into a file.
Content: TypeAlias = bytes | bytearray | memoryview


#: Bytes of a file that others are made from.
LARGEST_BASE = 2**30


class Format(abc.ABC):
    """A file format. Subclasses say how an array becomes the bytes of a file, and back; files are opened elsewhere.

    Messages of errors begin with what the file holds, as in ``"holds 3 numbers, not 4"``: the rest is put around them.
    """

    #: Whether the file has a row for each point and a column for each channel, so that arrays come as `(..., C)`.
    columns: ClassVar[bool] = False

    #: What a program may put behind the name of its file, in the order in which files are looked for.
    endings: ClassVar[tuple[str, ...]] = ("",)

    @abc.abstractmethod
    def encode(self, values: Array) -> Content:
        """The content of a file.

        Args:
            values: what the settings of the file ask for: `(C, *N)` by default, `(*N, C)` if there are ``columns``.
        """

    @abc.abstractmethod
    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        """The numbers in a file.

        Args:
            content: of the file.
            shape: that is expected.
            dtype: of the states.

        Returns:
            An array of that shape and dtype, NaN and infinity as they are.

        Raises:
            UnreadableOutputError: the file is truncated, holds more than it should, or is of another format.
            InvalidStateError: it holds an array of another shape, or no floating-point numbers.
        """

    def largest(self, values: int) -> int:
        """Bytes that a file of so many numbers may have; one that has more is not read."""
        return 64 * values + 2**20


def floating(dtype: str | None, default: str | None = None) -> np.dtype[np.floating] | None:
    """A setting `dtype` of a format, such as ``"float32"`` or ``">f8"``, or None if it is left out.

    Raises:
        ConfigError: it names no floating-point numbers.
    """
    if dtype is None:
        return None
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if found.kind != "f":
        raise ConfigError(f"dtype must name floating-point numbers as numpy does (float32, '<f8', '>f4'), not {dtype!r}.")
    return found


def as_dtype(values: NDArray[np.generic], dtype: np.dtype[np.floating]) -> Array:
    """Floating-point numbers in another precision; what is too large becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        converted: Array = values.astype(dtype, copy=False)
    return converted


def checked(values: NDArray[np.generic], shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
    """An array that a file describes itself, held to what is expected.

    Raises:
        InvalidStateError: another shape, or no floating-point numbers.
    """
    require_array(values.shape, values.dtype, shape)
    return as_dtype(values.reshape(shape), dtype)


def require_array(found: tuple[int, ...], held: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    """Hold shape and dtype of a file's array to what is expected; axes of length 1 may be in front.

    Raises:
        InvalidStateError: another shape, or no floating-point numbers.
    """
    alone = int(np.prod(shape)) == 1 and all(length == 1 for length in found)  # a scalar may have no axes at all
    if found != (1,) * (len(found) - len(shape)) + shape and not alone:
        raise InvalidStateError(f"holds an array of shape {found}, not {shape}")
    if held.kind != "f":
        raise InvalidStateError(f"holds {held}, not floating-point numbers")


def need_size(size: int, expected: int, unit: str = "bytes") -> None:
    """Hold what is found in a file to its expected size.

    Raises:
        UnreadableOutputError: it differs.
    """
    if size != expected:
        why = "it is truncated" if size < expected else "there is more than there should be"
        raise UnreadableOutputError(f"holds {size} {unit}, not {expected}: {why}, or it is of another format")
