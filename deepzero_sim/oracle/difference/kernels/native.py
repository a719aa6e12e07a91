"""Kernels in C for differences of images on CPUs (`native.c`): one pass over memory where torch's operations take several.

They are compiled when the package is installed. Without them torch computes the same, at a fraction of the speed. Images lie
with their channels innermost, in float32; the number of output channels is a multiple of :data:`CHANNELS`, or at most
:data:`FEW_CHANNELS`. Kernels run on one thread, since queries are divided among workers, and what they compute for a query does
not depend on the other queries of its chunk.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import warnings
from typing import NamedTuple

import torch

#: Factor of the numbers of channels that the kernels expect.
CHANNELS = 8

#: Largest number of channels, in and out, for :func:`narrow_convolution`.
FEW_CHANNELS = 4

_Pointer, _Int, _Size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t

_SIGNATURES = {
    "dz_instructions": (_Int, [_Int]),
    "dz_convolution_scratch": (_Size, [_Int] * 8),
    "dz_convolution": (None, [*[_Pointer] * 6, *[_Int] * 9]),
    "dz_narrow_convolution_scratch": (_Size, [_Int] * 5),
    "dz_narrow_convolution": (None, [*[_Pointer] * 4, *[_Int] * 7]),
    "dz_leaky_relu": (None, [*[_Pointer] * 3, _Int, _Size, ctypes.c_float]),
    "dz_moments": (None, [*[_Pointer] * 3, _Int, _Size, _Int]),
    "dz_norm_relu": (None, [*[_Pointer] * 6, _Int, _Size, _Int, *[_Pointer] * 4]),
    "dz_norm_relu_mean": (None, [*[_Pointer] * 6, _Int, _Int, _Size, _Int, *[_Pointer] * 4]),
    "dz_layer": (None, [*[_Pointer] * 14, *[_Int] * 10]),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """Load the compiled kernels; warn and return None if there are none."""
    spec = importlib.util.find_spec("deepzero_sim.oracle.difference.kernels._native")
    try:
        loaded = ctypes.CDLL(spec.origin if spec and spec.origin else "_native was not compiled")
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


def supports(*tensors: torch.Tensor) -> bool:
    """Tell whether there are kernels for such tensors."""
    return all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors) and library() is not None


class Weight(NamedTuple):
    """Weight of a convolution with a border of zeros, to a multiple of :data:`CHANNELS`.

    Attributes:
        values: Numbers, `(k, k, C, O)`, or `(n^2, C, O)` as transformed for Winograd's method (`image_convolution.py`).
        points: Number `n` of that method, for a multiple of :data:`CHANNELS` in, stride 1, and a border that keeps the size
            of the images; 0 for the other form.
        kernel: Size of the kernel in both directions.
        stride: Stride in both directions.
        border: Width of the border on all sides.
    """

    values: torch.Tensor
    points: int
    kernel: int
    stride: int
    border: int


def convolution(
    x: torch.Tensor, weight: Weight, result: torch.Tensor, next_y: torch.Tensor | None = None
) -> torch.Tensor | None:
    """Convolve images without a bias.

    Args:
        x: Images, `(B, H, W, C)`.
        weight: Weight from `C` channels to `O`.
        result: Images to write, `(B, H', W', O)`.
        next_y: Normalised values, in the base network, of the norm after the convolution, `(M', O)`, if there is one.

    Returns:
        Moments of the result with `next_y`, `(3, O)`, float64; None without `next_y`.
    """
    functions, sizes = _functions(), (*x.shape, result.shape[3])
    scratch = torch.empty(functions.dz_convolution_scratch(*sizes, weight.kernel, weight.border, weight.points))
    sums = None if next_y is None else torch.zeros(3, result.shape[3], dtype=torch.float64)
    functions.dz_convolution(*_addresses(x, weight.values, next_y, result, sums, scratch), *sizes, *_geometry(weight))
    return sums


def _geometry(weight: Weight) -> tuple[int, int, int, int]:
    return weight.kernel, weight.stride, weight.border, weight.points


def narrow_convolution(x: torch.Tensor, weight: torch.Tensor, border: int, result: torch.Tensor) -> None:
    """Convolve images of at most :data:`FEW_CHANNELS` to at most as many, with stride 1 and without a bias.

    Args:
        x: Images, `(B, H, W, C)`.
        weight: Weight, `(k, k, C, O)`.
        border: Width of the border of zeros on all sides.
        result: Images to write, `(B, H', W', O)`.
    """
    count, height, width, inputs = x.shape
    kernel, outputs = weight.shape[0], weight.shape[3]
    functions = _functions()
    scratch = torch.empty(functions.dz_narrow_convolution_scratch(height, width, inputs, kernel, border))
    pointers = _addresses(x, weight, result, scratch)
    functions.dz_narrow_convolution(*pointers, count, height, width, inputs, outputs, kernel, border)


def leaky_relu(d: torch.Tensor, x: torch.Tensor, slope: float) -> torch.Tensor:
    """Compute the difference of a leaky ReLU, `max(x, slope x)` (`activations.py`).

    Args:
        d: Difference of the input, `(P, *shape)`, each query laid out as `x`.
        x: Input in the base network, `(*shape)`, without gaps in memory.
        slope: Slope below zero; 0 for a ReLU.

    Returns:
        Difference of the result, `(P, *shape)`, laid out as `d`.
    """
    result = torch.empty(d.numel()).as_strided(d.shape, d.stride())
    _functions().dz_leaky_relu(d.data_ptr(), x.data_ptr(), result.data_ptr(), len(d), x.numel(), slope)
    return result


class BaseActivation(NamedTuple):
    """Batch normalisation in training mode, perhaps a sum, and a ReLU in the base network.

    Attributes:
        y: Normalised values, `(M, C)`.
        deviation: Standard deviation `s`, `(C,)`.
        weight: Weight of the norm, `(C,)`.
        before: Input of the ReLU, `(M, C)`.
    """

    y: torch.Tensor
    deviation: torch.Tensor
    weight: torch.Tensor
    before: torch.Tensor


def moments(d: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sum `d`, `y d` and `d^2` over all rows: the statistics of a norm follow from them.

    Args:
        d: Difference of the norm's input, `(P, M, C)`.
        y: Normalised values in the base network, `(M, C)`.

    Returns:
        Sums, `(P, 3, C)`, float64.
    """
    count, rows, channels = d.shape
    result = torch.zeros(count, 3, channels, dtype=torch.float64)
    _functions().dz_moments(*_addresses(d, y, result), count, rows, channels)
    return result


class Skip(NamedTuple):
    """Difference of what is added between a norm and a ReLU.

    Attributes:
        values: Difference, `(P, M, C)`, or `(P, M)` of one channel a query.
        channels: Channel of each query, `(P,)`, int32; None if all channels change.
    """

    values: torch.Tensor
    channels: torch.Tensor | None = None


#: Rows on which the kernels compute a ReLU at a time (`ROWS` of `native.c`).
_ROWS = 64

_NO_SKIP: tuple[None, None] = (None, None)


def norm_relu(d: torch.Tensor, sums: torch.Tensor, skip: Skip | None, base: BaseActivation, result: torch.Tensor) -> None:
    """Compute the difference after batch normalisation in training mode, a sum with `skip`, and a ReLU (`norms.py`).

    Args:
        d: Difference of the norm's input, `(P, M, C)`.
        sums: Moments of `d` (:func:`moments`).
        skip: Difference to add, if any.
        base: Values of the base network.
        result: Difference to write, `(P, M, C)`; may be `d`.
    """
    scratch = torch.empty((3 + _ROWS) * d.shape[2])
    _functions().dz_norm_relu(*_addresses(d, sums, *(skip or _NO_SKIP), result, scratch), *d.shape, *_addresses(*base))


def norm_relu_mean(d: torch.Tensor, sums: torch.Tensor, skip: Skip | None, base: BaseActivation, images: int) -> torch.Tensor:
    """Compute what :func:`norm_relu` does, and its mean over the pixels of each image.

    Args:
        d: Difference of the norm's input, `(P, M, C)`.
        sums: Moments of `d` (:func:`moments`).
        skip: Difference to add, if any.
        base: Values of the base network.
        images: Number `B` of images, of `M / B` pixels each.

    Returns:
        Difference of the means, `(P, B, C)`.
    """
    count, rows, channels = d.shape
    pixels = rows // images
    result, scratch = torch.empty(count, images, channels), torch.empty((3 + pixels) * channels)
    pointers = _addresses(d, sums, *(skip or _NO_SKIP), result, scratch)
    _functions().dz_norm_relu_mean(*pointers, count, images, pixels, channels, *_addresses(*base))
    return result


def layer(
    d: torch.Tensor,
    sums: torch.Tensor,
    skip: Skip | None,
    base: BaseActivation,
    activation: torch.Tensor | None,
    weight: Weight,
    next_y: torch.Tensor | None,
    result: torch.Tensor,
) -> torch.Tensor | None:
    """Compute what :func:`norm_relu` does and a convolution, in one pass over memory.

    Args:
        d: Difference of the norm's input, `(P, B, H, W, C)`.
        sums: Moments of `d` (:func:`moments`).
        skip: Difference to add, if any.
        base: Values of the base network.
        activation: Difference after the ReLU to write, laid out as `d`, if it is wanted; may be that of `skip` if all channels
            change there.
        weight: Weight of the convolution.
        next_y: Normalised values of the next norm, as in :func:`convolution`.
        result: Difference to write, `(P, B, H', W', O)`; may be `d` if it has the same shape.

    Returns:
        Moments of the result with `next_y`, `(P, 3, O)`, float64; None without `next_y`.
    """
    functions, sizes = _functions(), (*d.shape, result.shape[4])
    queries, *_, width, channels = d.shape
    size = functions.dz_convolution_scratch(*sizes[1:], weight.kernel, weight.border, weight.points)
    scratch = torch.empty(size + (3 * queries + width) * channels)
    next_sums = None if next_y is None else torch.zeros(queries, 3, result.shape[4], dtype=torch.float64)
    tensors = (d, sums, *(skip or _NO_SKIP), activation, result, next_sums, scratch, *base, weight.values, next_y)
    functions.dz_layer(*_addresses(*tensors), *sizes, *_geometry(weight))
    return next_sums


def _functions() -> ctypes.CDLL:
    loaded = library()
    assert loaded is not None  # callers asked `supports` first
    return loaded


def _addresses(*tensors: torch.Tensor | None) -> list[int | None]:
    assert all(x is None or x.is_contiguous() for x in tensors)
    return [None if x is None else x.data_ptr() for x in tensors]
