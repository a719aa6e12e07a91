"""Base class of file formats, and the checks that several formats share."""

from __future__ import annotations

import abc
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require
from deepzero_sim.common.types import Array
from deepzero_sim.errors import DeepZeroError, InvalidStateError, UnreadableOutputError

#: Content of a file.
Content: TypeAlias = bytes | bytearray | memoryview

#: Axis that runs fastest: the last (C), or the first (F, Fortran).
Order = Literal["C", "F"]

#: Largest size, in bytes, of a base: a file that inputs are written after.
LARGEST_BASE = 2**30


class Format(abc.ABC):
    """File format: how an array becomes the bytes of a file, and back. Files are opened elsewhere.

    Messages of errors begin with what the file holds, as in ``"holds 3 numbers, not 4"``; the caller puts its name in front.
    """

    #: True if the file has a row for each point and a column for each channel, so that arrays come as `(..., C)`.
    columns: ClassVar[bool] = False

    #: Endings that a program may add to the name of its file, in the order in which files are looked for.
    endings: ClassVar[tuple[str, ...]] = ("",)

    @abc.abstractmethod
    def encode(self, values: Array) -> Content:
        """Return the content of a file.

        Args:
            values: Array as the settings of the file ask for it: `(C, *N)` by default, `(*N, C)` with ``columns``.
        """

    @abc.abstractmethod
    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        """Return the numbers in a file.

        Args:
            content: Content of the file.
            shape: Expected shape.
            dtype: Dtype of the states.

        Returns:
            An array of that shape and dtype, NaN and infinity included.

        Raises:
            UnreadableOutputError: The file is truncated, holds more than it should, or is of another format.
            InvalidStateError: It holds an array of another shape, or no floating-point numbers.
        """

    def largest(self, values: int) -> int:
        """Return the largest size in bytes of a file of so many numbers; a larger file is not read."""
        return 64 * values + 2**20


def float_dtype(name: str | None) -> np.dtype[np.floating] | None:
    """Parse the setting `dtype` of a format, such as ``"float32"`` or ``">f8"``; None stays None."""
    if name is None:
        return None
    try:
        dtype = np.dtype(name)
    except TypeError:
        dtype = np.dtype(object)
    require(dtype.kind == "f", "dtype must name floating-point numbers as numpy does (float32, '<f8', '>f4')", name)
    return dtype


def require_order(order: str) -> Order:
    """Refuse an axis order other than C and F."""
    require(order in ("C", "F"), "order must be C (the last axis runs fastest) or F (the first does)", order)
    return "F" if order == "F" else "C"


def as_dtype(values: NDArray[np.generic], dtype: np.dtype[np.floating]) -> Array:
    """Convert floating-point numbers to another precision; those that are too large become infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        converted: Array = values.astype(dtype, copy=False)
    return converted


def as_state(values: NDArray[np.generic], shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
    """Convert an array whose file tells its shape and dtype, which must be as expected."""
    require_array(values.shape, values.dtype, shape)
    return as_dtype(values.reshape(shape), dtype)


def require_content(holds: bool, complaint: str, error: type[DeepZeroError] = UnreadableOutputError) -> None:
    """Refuse the content of a file unless a condition holds; the complaint leaves the file's name out."""
    if not holds:
        raise error(complaint)


def require_array(found: tuple[int, ...], held: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    """Refuse the shape and dtype of an array in a file unless they are as expected; axes of length 1 may be in front."""
    # a scalar may have no axes at all
    both_scalar = int(np.prod(shape)) == 1 and all(length == 1 for length in found)
    fits = found == (1,) * (len(found) - len(shape)) + shape or both_scalar
    require_content(fits, f"holds an array of shape {found}, not {shape}", InvalidStateError)
    require_content(held.kind == "f", f"holds {held}, not floating-point numbers", InvalidStateError)


def require_size(size: int, expected: int, unit: str = "bytes") -> None:
    """Refuse a file that holds more or less than expected."""
    reason = "it is truncated" if size < expected else "there is more than there should be"
    require_content(size == expected, f"holds {size} {unit}, not {expected}: {reason}, or it is of another format")
