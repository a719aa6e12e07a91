"""Names for the types that cross the package's seams."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

#: Solver states, shape `(B, C, *N)`, or parameters, shape `(B, K)`; float32 or float64.
Array: TypeAlias = NDArray[np.floating[Any]]

#: Tensors named as in `torch.nn.Module.named_parameters()`: gradients, or the parameters themselves.
NamedTensors: TypeAlias = dict[str, torch.Tensor]


def to_array(tensor: torch.Tensor) -> Array:
    """A tensor's values as a numpy array, without a copy where it lies in main memory."""
    array: Array = tensor.detach().cpu().numpy()
    return np.ascontiguousarray(array)


def to_array_or_none(tensor: torch.Tensor | None) -> Array | None:
    """Of parameters, which there may be none of."""
    return None if tensor is None else to_array(tensor)


def is_number(value: object) -> bool:
    """Whether it is a real number, whatever the type hints promised."""
    return isinstance(value, numbers.Real)


def is_whole(value: object) -> bool:
    """Whether it is a whole number."""
    return isinstance(value, numbers.Integral)


#: Active coordinates: a bool tensor of the parameter's own shape for each name that is active at all.
Mask: TypeAlias = Mapping[str, torch.Tensor]
