"""Batch normalisation, a sum and a ReLU on GPUs: torch compiles them to one pass over memory where its operations take several.

Compiled or not, the function gives the same numbers. Images lie with their channels innermost, `(P, M, C)`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from deepzero_sim.oracle.difference.kernels.native import BaseActivation


@functools.cache
def available(device: str) -> bool:
    """Tell whether torch can compile for a type of device here: for GPUs, by Triton."""
    if device != "cuda":
        return False
    from torch.utils._triton import has_triton  # noqa: PLC0415 - machines without a GPU never need it

    return has_triton()


def norm_relu(d: torch.Tensor, skip: torch.Tensor | None, base: BaseActivation) -> torch.Tensor:
    """Compute what `native.norm_relu` does, in the dtype of `d`.

    Args:
        d: Difference of the norm's input, `(P, M, C)`.
        skip: Difference that is added before the ReLU, `(P, M, C)`, if any.
        base: Values of the base network.
    """
    return _compile(_norm_relu)(d, skip, *base).to(d.dtype)  # type: ignore[no-any-return]


@functools.cache
def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, dynamic=True)


def _norm_relu(
    change: torch.Tensor,
    skip: torch.Tensor | None,
    y: torch.Tensor,
    s: torch.Tensor,
    weight: torch.Tensor,
    before: torch.Tensor,
) -> torch.Tensor:
    d = change.to(y.dtype)
    mean = d.mean(1, keepdim=True)
    variance = 2 * s * (y * d).mean(1, keepdim=True) + d.square().mean(1, keepdim=True) - mean.square()
    moved = (s.square() + variance).sqrt()
    a = weight / moved
    z = a * d - a * variance / (s + moved) * y - a * mean
    if skip is not None:
        z = z + skip
    return torch.maximum(z + before.clamp(max=0), -before.clamp(min=0))
