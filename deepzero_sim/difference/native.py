"""Kernels in C for differences of images on CPUs (`native.c`): one pass over memory where torch's operations take several.

They are compiled when the package is installed. Without them the same is computed by torch, at a fraction of the speed.
Images lie with their channels innermost, in float32; output channels are multiples of :data:`CHANNELS`, or few. Kernels use one
thread, since queries are dealt out to workers, and what they give for a query does not depend on the others of its chunk.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import warnings
from typing import NamedTuple

import torch

from deepzero_sim.difference import memory

#: Channels come in multiples of this.
CHANNELS = 8

#: As many have a convolution of their own.
FEW_CHANNELS = 4

_Pointer, _Int, _Size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t

_SIGNATURES = {
    "dz_instructions": (_Int, [_Int]),
    "dz_winograd_scratch": (_Size, [_Int] * 2),
    "dz_winograd": (None, [*[_Pointer] * 4, *[_Int] * 6]),
    "dz_summed_scratch": (_Size, [_Int] * 4),
    "dz_summed": (None, [*[_Pointer] * 4, *[_Int] * 8]),
    "dz_narrow_scratch": (_Size, [_Int] * 5),
    "dz_narrow": (None, [*[_Pointer] * 4, *[_Int] * 7]),
    "dz_bent": (None, [*[_Pointer] * 3, _Int, _Size, ctypes.c_float]),
    "dz_normalised_relu": (None, [*[_Pointer] * 4, _Size, _Int, *[_Pointer] * 4]),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, if there are any; a warning says so if not."""
    found = importlib.util.find_spec("deepzero_sim.difference._native")
    try:
        loaded = ctypes.CDLL(found.origin if found and found.origin else "_native was not compiled")
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        warnings.warn(
            f"deepzero-sim was installed without its kernels in C ({error}): queries of convolutional networks take some "
            "three times as long; install a C compiler such as gcc, then install deepzero-sim again.",
            stacklevel=2,
        )
        return None
    return loaded


def serves(*tensors: torch.Tensor) -> bool:
    """Whether there are kernels for such tensors."""
    return all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors) and library() is not None


def winograd(x: torch.Tensor, transformed: torch.Tensor, kernel: int, result: torch.Tensor) -> None:
    """A convolution with a border of zeros that keeps the size of the images.

    Args:
        x: `(B, H, W, C)`.
        transformed: the weights (`winograd.py`), `(36, C, O)`.
        kernel: 3 or 5.
        result: `(B, H, W, O)`, is written.
    """
    count, height, width, inputs = x.shape
    outputs = result.shape[3]
    functions = _library()
    scratch = memory.empty(functions.dz_winograd_scratch(inputs, outputs))
    functions.dz_winograd(*_at(x, transformed, result, scratch), count, height, width, inputs, outputs, kernel)


def summed(x: torch.Tensor, weight: torch.Tensor, stride: int, border: int, result: torch.Tensor) -> None:
    """A convolution with a border of zeros, by summation.

    Args:
        x: `(B, H, W, C)`, any `C`.
        weight: `(k, k, C, O)`.
        stride: in both directions.
        border: on all sides.
        result: `(B, H', W', O)`, is written.
    """
    count, height, width, inputs = x.shape
    kernel, outputs = weight.shape[0], weight.shape[3]
    functions = _library()
    scratch = memory.empty(functions.dz_summed_scratch(height, width, inputs, border))
    sizes = (count, height, width, inputs, outputs, kernel, stride, border)
    functions.dz_summed(*_at(x, weight, result, scratch), *sizes)


def narrow(x: torch.Tensor, weight: torch.Tensor, border: int, result: torch.Tensor) -> None:
    """As :func:`summed` with stride 1, of at most :data:`FEW_CHANNELS` to at most as many."""
    count, height, width, inputs = x.shape
    kernel, outputs = weight.shape[0], weight.shape[3]
    functions = _library()
    scratch = memory.empty(functions.dz_narrow_scratch(height, width, inputs, kernel, border))
    functions.dz_narrow(*_at(x, weight, result, scratch), count, height, width, inputs, outputs, kernel, border)


def bent(d: torch.Tensor, x: torch.Tensor, slope: float) -> torch.Tensor:
    """The difference of a ReLU with a slope below zero (`activations.py`).

    Args:
        d: `(P, *shape)`, each query in memory as `x`.
        x: `(*shape)`, without gaps.
        slope: below zero.

    Returns:
        `(P, *shape)`, laid out as `d`.
    """
    result = memory.empty(d.numel()).as_strided(d.shape, d.stride())
    _library().dz_bent(d.data_ptr(), x.data_ptr(), result.data_ptr(), len(d), x.numel(), slope)
    return result


class NormalisedBase(NamedTuple):
    """Batch normalisation and a ReLU in the base network.

    Args:
        y: normalised values, `(M, C)`.
        deviation: `s`, `(C,)`.
        weight: `(C,)`.
        before: what the ReLU gets, `(M, C)`.
    """

    y: torch.Tensor
    deviation: torch.Tensor
    weight: torch.Tensor
    before: torch.Tensor


def normalised_relu(d: torch.Tensor, skip: torch.Tensor | None, base: NormalisedBase, result: torch.Tensor) -> None:
    """The difference behind batch normalisation in training mode, a sum with `skip`, and a ReLU (`norms.py`).

    Args:
        d: `(M, C)`.
        skip: a difference that is added before the ReLU, `(M, C)`, if any.
        base: the network as it is.
        result: `(M, C)`, is written; may be `d`.
    """
    rows, channels = base.y.shape
    scratch = memory.empty(9 * channels)
    _library().dz_normalised_relu(*_at(d, skip, result, scratch), rows, channels, *_at(*base))


def _library() -> ctypes.CDLL:
    loaded = library()
    assert loaded is not None  # `serves` was asked
    return loaded


def _at(*tensors: torch.Tensor | None) -> list[int | None]:
    """Where they lie in memory."""
    assert all(x is None or x.is_contiguous() for x in tensors)
    return [None if x is None else x.data_ptr() for x in tensors]
