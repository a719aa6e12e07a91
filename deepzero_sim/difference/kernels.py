"""Functions that torch compiles: one pass over memory where single operations would take several.

They are plain torch, and run as such where there is no compiler. Compiled ones use one thread: the queries are dealt out
to workers. Images lie with their channels innermost, `(N, H, W, C)`.
"""

from __future__ import annotations

import functools
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch

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
    key = function, *((x.shape, x.stride(), x.dtype) if isinstance(x, torch.Tensor) else x for x in args)
    compiled = _compiled.get(key)
    return _first_call(key, function, args) if compiled is None else compiled(*args)


_compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}
_compiling = threading.Lock()


def _first_call(key: tuple[Any, ...], function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Compile a function by calling it, without the warnings that torch has for its own code."""
    with _compiling, warnings.catch_warnings():  # which are not for several threads at once
        warnings.simplefilter("ignore")
        compiled = _compiled.get(key) or _to_be_compiled(function)
        result = compiled(*args)
        _compiled[key] = compiled
        return result


def _to_be_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # torch keeps what it compiled with the code object, and gives up after a few shapes: so every shape has its own
    fresh = types.FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    return torch.compile(fresh, fullgraph=True, dynamic=False, options={"cpp.threads": 1, "compile_threads": 1})


def normalised_relu(
    d: torch.Tensor, y: torch.Tensor, s: torch.Tensor, weight: torch.Tensor, before: torch.Tensor, result: torch.Tensor
) -> None:
    """The difference of batch normalisation in training mode and the ReLU behind it, of one query (`norms.py`).

    Args:
        d: `(N, C)`.
        y: normalised values, `(N, C)`.
        s: deviation, `(C,)`.
        weight: `(C,)`.
        before: what the ReLU gets in the base network, `(N, C)`.
        result: `(N, C)`, is written.
    """
    z = _normalised(d.to(y.dtype), y, s, weight)
    result.copy_(torch.maximum(z + before.clamp(max=0), -before.clamp(min=0)))


def normalised_add_relu(
    d: torch.Tensor,
    y: torch.Tensor,
    s: torch.Tensor,
    weight: torch.Tensor,
    before: torch.Tensor,
    result: torch.Tensor,
    skip: torch.Tensor,
) -> None:
    """... with differences `skip`, `(N, C)`, added before the ReLU."""
    z = _normalised(d.to(y.dtype), y, s, weight) + skip
    result.copy_(torch.maximum(z + before.clamp(max=0), -before.clamp(min=0)))


def _normalised(d: torch.Tensor, y: torch.Tensor, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    mean = d.mean(0)
    variance = 2 * s * (y * d).mean(0) + d.square().mean(0) - mean.square()
    moved = (s.square() + variance).sqrt()
    a = weight / moved
    b = -weight * variance / (moved * (s + moved))
    return a * d + (b * y - a * mean)
