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

from deepzero_sim.oracle.difference import buffer_pool

#: Channels come in multiples of this.
CHANNELS = 8

#: As many have a convolution of their own.
FEW_CHANNELS = 4

_Pointer, _Int, _Size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t

_SIGNATURES = {
    "dz_instructions": (_Int, [_Int]),
    "dz_convolution_scratch": (_Size, [_Int] * 8),
    "dz_convolution": (None, [*[_Pointer] * 6, *[_Int] * 9]),
    "dz_narrow_scratch": (_Size, [_Int] * 5),
    "dz_narrow": (None, [*[_Pointer] * 4, *[_Int] * 7]),
    "dz_bent": (None, [*[_Pointer] * 3, _Int, _Size, ctypes.c_float]),
    "dz_moments": (None, [*[_Pointer] * 3, _Int, _Size, _Int]),
    "dz_normalised_relu": (None, [*[_Pointer] * 6, _Int, _Size, _Int, *[_Pointer] * 4]),
    "dz_normalised_mean": (None, [*[_Pointer] * 6, _Int, _Int, _Size, _Int, *[_Pointer] * 4]),
    "dz_layer": (None, [*[_Pointer] * 14, *[_Int] * 10]),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, if there are any; a warning says so if not."""
    found = importlib.util.find_spec("deepzero_sim.oracle.difference.kernels._native")
    try:
        loaded = ctypes.CDLL(found.origin if found and found.origin else "_native was not compiled")
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        warnings.warn(
            f"deepzero-sim was installed without its kernels in C ({error}): queries of convolutional networks take some "
            "four times as long; install a C compiler such as gcc, then install deepzero-sim again.",
            stacklevel=2,
        )
        return None
    return loaded


def serves(*tensors: torch.Tensor) -> bool:
    """Whether there are kernels for such tensors."""
    return all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors) and library() is not None


class Weight(NamedTuple):
    """The weight of a convolution with a border of zeros, to whole :data:`CHANNELS`.

    Args:
        values: `(k, k, C, O)`, or `(n^2, C, O)` as transformed for Winograd's method (`winograd.py`).
        points: `n` of that method, from whole :data:`CHANNELS`, with stride 1 and a border that keeps the size of the images;
            0 for the other form.
        kernel: in both directions, as all that follows.
        stride: of the results.
        border: on all sides.
    """

    values: torch.Tensor
    points: int
    kernel: int
    stride: int
    border: int


def convolution(
    x: torch.Tensor, weight: Weight, result: torch.Tensor, next_y: torch.Tensor | None = None
) -> torch.Tensor | None:
    """A convolution without a bias.

    Args:
        x: `(B, H, W, C)`.
        weight: from as many channels.
        result: `(B, H', W', O)`, is written.
        next_y: what a norm behind the convolution gives in the base network, `(M', O)`, if there is one.

    Returns:
        The moments of the result with `next_y`, `(3, O)`, float64, if that is given.
    """
    functions, sizes = _library(), (*x.shape, result.shape[3])
    scratch = buffer_pool.empty(functions.dz_convolution_scratch(*sizes, weight.kernel, weight.border, weight.points))
    sums = None if next_y is None else torch.zeros(3, result.shape[3], dtype=torch.float64)
    functions.dz_convolution(*_at(x, weight.values, next_y, result, sums, scratch), *sizes, *_geometry(weight))
    return sums


def _geometry(weight: Weight) -> tuple[int, int, int, int]:
    return weight.kernel, weight.stride, weight.border, weight.points


def narrow(x: torch.Tensor, weight: torch.Tensor, border: int, result: torch.Tensor) -> None:
    """As :func:`convolution` with stride 1, of at most :data:`FEW_CHANNELS` to at most as many.

    Args:
        x: `(B, H, W, C)`.
        weight: `(k, k, C, O)`.
        border: on all sides.
        result: `(B, H', W', O)`, is written.
    """
    count, height, width, inputs = x.shape
    kernel, outputs = weight.shape[0], weight.shape[3]
    functions = _library()
    scratch = buffer_pool.empty(functions.dz_narrow_scratch(height, width, inputs, kernel, border))
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
    result = buffer_pool.empty(d.numel()).as_strided(d.shape, d.stride())
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


def moments(d: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sums over all rows of `d`, `y d` and `d^2`, from which the statistics of a norm follow.

    Args:
        d: `(P, M, C)`.
        y: normalised values, `(M, C)`.

    Returns:
        `(P, 3, C)`, float64.
    """
    count, rows, channels = d.shape
    result = torch.zeros(count, 3, channels, dtype=torch.float64)
    _library().dz_moments(*_at(d, y, result), count, rows, channels)
    return result


class Added(NamedTuple):
    """A difference that is added before a ReLU.

    Args:
        values: `(P, M, C)`, or `(P, M)` of one channel a query.
        channels: `(P,)`, int32, which one; None if it has all.
    """

    values: torch.Tensor
    channels: torch.Tensor | None = None


#: Rows that a ReLU is taken of together.
_ROWS = 64

_NOTHING: tuple[None, None] = (None, None)


def normalised_relu(
    d: torch.Tensor, sums: torch.Tensor, skip: Added | None, base: NormalisedBase, result: torch.Tensor
) -> None:
    """The difference behind batch normalisation in training mode, a sum with `skip`, and a ReLU (`norms.py`).

    Args:
        d: `(P, M, C)`.
        sums: its :func:`moments`.
        skip: if something is added.
        base: the network as it is.
        result: `(P, M, C)`, is written; may be `d`.
    """
    scratch = torch.empty((3 + _ROWS) * d.shape[2])
    _library().dz_normalised_relu(*_at(d, sums, *(skip or _NOTHING), result, scratch), *d.shape, *_at(*base))


def normalised_mean(d: torch.Tensor, sums: torch.Tensor, skip: Added | None, base: NormalisedBase, images: int) -> torch.Tensor:
    """The mean over the pixels of each image of what :func:`normalised_relu` gives, `(P, B, C)`.

    Args:
        d: `(P, M, C)`.
        sums: its :func:`moments`.
        skip: if something is added.
        base: the network as it is.
        images: `B`, of `M / B` pixels each.
    """
    count, rows, channels = d.shape
    pixels = rows // images
    result, scratch = torch.empty(count, images, channels), torch.empty((3 + pixels) * channels)
    pointers = _at(d, sums, *(skip or _NOTHING), result, scratch)
    _library().dz_normalised_mean(*pointers, count, images, pixels, channels, *_at(*base))
    return result


def layer(
    d: torch.Tensor,
    sums: torch.Tensor,
    skip: Added | None,
    base: NormalisedBase,
    kept: torch.Tensor | None,
    weight: Weight,
    next_y: torch.Tensor | None,
    result: torch.Tensor,
) -> torch.Tensor | None:
    """The difference behind what :func:`normalised_relu` does and a convolution, in one pass over memory.

    Args:
        d: `(P, B, H, W, C)`.
        sums: its :func:`moments`.
        skip: if something is added.
        base: the network as it is.
        kept: as `d`, is written with what the ReLU gives, if that is wanted; may be what is added, if that has all channels.
        weight: of the convolution.
        next_y: as in :func:`convolution`.
        result: `(P, B, H', W', O)`, is written; may be `d` if it has the same shape.

    Returns:
        The moments of the result with `next_y`, if that is given.
    """
    functions, sizes = _library(), (*d.shape, result.shape[4])
    queries, *_, width, channels = d.shape
    size = functions.dz_convolution_scratch(*sizes[1:], weight.kernel, weight.border, weight.points)
    scratch = buffer_pool.empty(size + (3 * queries + width) * channels)
    behind = None if next_y is None else torch.zeros(queries, 3, result.shape[4], dtype=torch.float64)
    pointers = _at(d, sums, *(skip or _NOTHING), kept, result, behind, scratch, *base, weight.values, next_y)
    functions.dz_layer(*pointers, *sizes, *_geometry(weight))
    return behind


def _library() -> ctypes.CDLL:
    loaded = library()
    assert loaded is not None  # `serves` was asked
    return loaded


def _at(*tensors: torch.Tensor | None) -> list[int | None]:
    """Where they lie in memory."""
    assert all(x is None or x.is_contiguous() for x in tensors)
    return [None if x is None else x.data_ptr() for x in tensors]
