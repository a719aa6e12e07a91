"""What torch compiles for GPUs: one pass over memory where single operations would take several.

These are functions of plain torch, and give the same uncompiled. Images lie with their channels innermost, `(P, N, C)`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from deepzero_sim.oracle.difference.kernels.native import NormalisedBase


@functools.cache
def available(device: str) -> bool:
    """Whether torch can compile for a type of device here: for GPUs, by Triton."""
    if device != "cuda":
        return False
    from torch.utils._triton import has_triton  # noqa: PLC0415 - nowhere else

    return has_triton()


def normalised_relu(d: torch.Tensor, skip: torch.Tensor | None, base: NormalisedBase) -> torch.Tensor:
    """As `native.normalised_relu`, in the dtype of `d`."""
    return _compiled(_normalised_relu)(d, skip, *base).to(d.dtype)  # type: ignore[no-any-return]


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, dynamic=True)


def _normalised_relu(
    given: torch.Tensor,
    skip: torch.Tensor | None,
    y: torch.Tensor,
    s: torch.Tensor,
    weight: torch.Tensor,
    before: torch.Tensor,
) -> torch.Tensor:
    d = given.to(y.dtype)
    mean = d.mean(1, keepdim=True)
    variance = 2 * s * (y * d).mean(1, keepdim=True) + d.square().mean(1, keepdim=True) - mean.square()
    moved = (s.square() + variance).sqrt()
    a = weight / moved
    z = a * d - a * variance / (s + moved) * y - a * mean
    if skip is not None:
        z = z + skip
    return torch.maximum(z + before.clamp(max=0), -before.clamp(min=0))
