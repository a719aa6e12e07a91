"""Types that cross the package's seams, and conversions between them."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

#: Solver states, shape `(B, C, *N)`, or parameters, shape `(B, K)`; float32 or float64.
Array: TypeAlias = NDArray[np.floating[Any]]

#: Numbers or truth values.
_AnyArray = TypeVar("_AnyArray", bound=NDArray[Any])

#: Tensors named as in `torch.nn.Module.named_parameters()`: gradients, or the parameters themselves.
NamedTensors: TypeAlias = "dict[str, torch.Tensor]"


def to_array(tensor: torch.Tensor) -> Array:
    """Convert a tensor to a numpy array, without a copy where it lies in main memory."""
    array: Array = tensor.detach().cpu().numpy()
    return np.ascontiguousarray(array)


def to_array_or_none(tensor: torch.Tensor | None) -> Array | None:
    """Convert parameters, which may be absent, to a numpy array or None."""
    return None if tensor is None else to_array(tensor)


def read_only_copy(array: _AnyArray) -> _AnyArray:
    """Copy an array for code that is not ours, so that neither that code nor what it stores can change ours.

    The flag makes numpy refuse a write, so that the mistake is noticed. The copy protects where the flag does not: torch,
    ctypes and compiled code write through it.
    """
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def read_only_view(array: _AnyArray) -> _AnyArray:
    """View an array that others may read but not write to, without a copy; see :func:`read_only_copy` for who can."""
    view = array.view()
    view.flags.writeable = False
    return view


def is_number(value: object) -> TypeGuard[float]:
    """Tell real numbers from all else, whatever the type hints promised; true and false are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_integer(value: object) -> TypeGuard[int]:
    """Tell whole numbers from all else; true and false are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


#: One-sided differences `(f(x + mu v) - f(x)) / mu`, or two-sided `(f(x + mu v) - f(x - mu v)) / (2 mu)`.
Scheme: TypeAlias = Literal["forward", "central"]

#: Active coordinates: a bool tensor of the parameter's own shape for each name that is active at all.
Mask: TypeAlias = "Mapping[str, torch.Tensor]"
