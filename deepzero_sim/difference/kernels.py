"""Functions that torch compiles: one pass over memory where single operations would take several.

They are plain torch, and run as such where there is no compiler. Compiled ones use one thread: the queries are dealt out
to workers. Images lie with their channels innermost, `(N, H, W, C)`.
"""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

#: Numbers below which compiling a function is not worth its wait, and calling it not worth its guards.
SMALLEST = 2**17


@functools.cache
def available(device: str) -> bool:
    """Whether torch can compile for a type of device here: that takes a C++ compiler, or Triton on a GPU."""
    try:
        if device == "cuda":
            from torch.utils._triton import has_triton  # noqa: PLC0415 - nowhere else

            return has_triton()
        from torch._inductor import cpp_builder  # noqa: PLC0415 - takes a second to import

        return bool(cpp_builder.get_cpp_compiler())
    except Exception as error:  # torch's own search raises several kinds
        warnings.warn(
            f"torch.compile finds no compiler ({type(error).__name__}): differences are computed by single operations, "
            "at a fraction of the speed; install a C++ compiler such as g++.",
            stacklevel=2,
        )
        return False


def compiles(x: torch.Tensor) -> bool:
    """Whether functions of such a tensor are compiled."""
    return x.numel() >= SMALLEST and available(x.device.type)


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function compiled for the shapes of its tensors."""
    key = tuple((x.shape, x.stride(), x.dtype) if isinstance(x, torch.Tensor) else x for x in args)
    return _compiled(function, key)(*args)


@functools.cache
def _compiled(function: Callable[..., Any], key: Any) -> Callable[..., Any]:
    # torch keeps what it compiled with the code object, and gives up after a few shapes: so every shape has its own
    fresh = types.FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    return torch.compile(fresh, fullgraph=True, dynamic=False, options={"cpp.threads": 1, "compile_threads": 1})


def normalised(d: torch.Tensor, y: torch.Tensor, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The difference of batch normalisation in training mode (`norms.py`).

    Args:
        d: `(P, N, C)`.
        y: normalised values, `(1, N, C)`.
        s: deviation, `(C,)`.
        weight: `(C,)`.
    """
    d = d.to(y.dtype)
    mean = d.mean(1)
    variance = 2 * s * (y * d).mean(1) + d.square().mean(1) - mean.square()
    moved = (s.square() + variance).sqrt()
    a = weight / moved
    b = -weight * variance / (moved * (s + moved))
    return a.unsqueeze(1) * d + (b.unsqueeze(1) * y - (a * mean).unsqueeze(1))


def normalised_relu(d: torch.Tensor, y: torch.Tensor, s: torch.Tensor, weight: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """... and of the ReLU behind it, `before` which the values are `(1, N, C)`."""
    z = normalised(d, y, s, weight)
    return torch.maximum(z + before.clamp(max=0), -before.clamp(min=0)).to(d.dtype)


def normalised_add_relu(
    d: torch.Tensor, y: torch.Tensor, s: torch.Tensor, weight: torch.Tensor, before: torch.Tensor, skip: torch.Tensor
) -> torch.Tensor:
    """... with differences `skip`, `(P, N, C)`, added before the ReLU."""
    z = normalised(d, y, s, weight) + skip
    return torch.maximum(z + before.clamp(max=0), -before.clamp(min=0)).to(d.dtype)
