"""Difference rules of activations and of softmax, none of which loses digits to cancellation.

    relu(x + d) - relu(x)          = max(d + min(x, 0), -max(x, 0)), likewise with a slope below zero
    sigmoid(x + d) - sigmoid(x)    = sigmoid(x + d) sigmoid(-x) (1 - exp(-d)),   tanh(x) = 2 sigmoid(2 x) - 1
    exp(x + d) - exp(x)            = exp(x) (exp(d) - 1)
    softmax(x + d) - softmax(x)    = s (e - sum(s e)) / (1 + sum(s e)),   s = softmax(x), e = exp(d) - 1

For GELU, the normal density is integrated by four-point Gauss-Legendre quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from deepzero_sim.oracle.difference.delta import Changed, Delta, Dense, OneChannel, is_channels_last
from deepzero_sim.oracle.difference.kernels import native
from deepzero_sim.oracle.difference.rules.table import RuleResult, rule

_Tensor = torch.Tensor
_NODES = tuple(float(0.5 + 0.5 * node) for node in np.polynomial.legendre.leggauss(4)[0])
_WEIGHTS = tuple(float(0.5 * weight) for weight in np.polynomial.legendre.leggauss(4)[1])

#: `(values, differences) -> differences of the activation`.
_Elementwise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _elementwise(x: Changed, difference: _Elementwise) -> Delta:
    if isinstance(x.delta, OneChannel):
        return x.delta.with_values(difference(x.pick("base", x.base), x.delta.values))
    return Dense(difference(x.base, x.delta.dense()))


def relu_difference(x: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Compute `relu(x + d) - relu(x)` exactly."""
    return torch.maximum(d + x.clamp(max=0), -x.clamp(min=0))


@rule(F.relu, torch.relu, _Tensor.relu, F.relu_, torch.relu_, _Tensor.relu_)
def _relu(out: torch.Tensor, input: Changed, inplace: bool = False) -> Delta:  # noqa: A002 - torch's names
    return _piecewise_linear(input, 0.0)


@rule(F.leaky_relu)
def _leaky_relu(out: torch.Tensor, input: Changed, negative_slope: float = 0.01, inplace: bool = False) -> RuleResult:  # noqa: A002
    return _piecewise_linear(input, negative_slope) if 0 <= negative_slope <= 1 else NotImplemented


def _piecewise_linear(input: Changed, slope: float) -> Delta:  # noqa: A002
    """Compute the difference of `max(x, a x)`: `max(d + (1 - a) min(x, 0), a d - (1 - a) max(x, 0))`.

    Terms that do not depend on `d` are computed once for all chunks.
    """
    delta, x = input.delta, input.base
    if isinstance(delta, Dense) and native.supports(delta.values, x) and _has_layout_of(x, delta):
        return Dense(native.leaky_relu(delta.values, x, slope))
    below = input.cached("below", lambda: (1 - slope) * x.clamp(max=0))
    above = input.cached("above", lambda: (slope - 1) * x.clamp(min=0))
    if isinstance(delta, OneChannel):
        d, below, above = delta.values, input.pick("below", below), input.pick("above", above)
        return delta.with_values(torch.maximum(d + below, torch.add(above, d, alpha=slope)))
    d = delta.dense()
    return Dense(torch.maximum(d + below, torch.add(above, d, alpha=slope) if slope else above))


def _has_layout_of(base: torch.Tensor, delta: Dense) -> bool:
    """Tell whether the differences of every query lie in memory as the value does, without gaps."""
    whole = base.is_contiguous() or is_channels_last(base)
    return whole and delta.values.stride() == (base.numel(), *base.stride())


@rule(F.elu)
def _elu(out: torch.Tensor, input: Changed, alpha: float = 1.0, inplace: bool = False) -> Delta:  # noqa: A002

    def difference(x: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        above = relu_difference(x, d)
        below = torch.minimum(d + x.clamp(min=0), -x.clamp(max=0))  # min(x + d, 0) - min(x, 0)
        return above + alpha * torch.exp(x.clamp(max=0)) * torch.expm1(below)

    return _elementwise(input, difference)


@rule(torch.tanh, _Tensor.tanh, F.tanh)
def _tanh(out: torch.Tensor, input: Changed) -> Delta:  # noqa: A002
    return _elementwise(input, _tanh_difference)


def _tanh_difference(x: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    return 2 * _sigmoid_difference(2 * x, 2 * d)


def _sigmoid_difference(x: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Compute the difference upwards from the smaller of the two: to full relative precision in saturation, too."""
    low, high = torch.minimum(x, x + d), torch.maximum(x, x + d)
    return torch.copysign(torch.sigmoid(high) * torch.sigmoid(-low) * -torch.expm1(-d.abs()), d)


@rule(torch.sigmoid, _Tensor.sigmoid, F.sigmoid)
def _sigmoid(out: torch.Tensor, input: Changed) -> Delta:  # noqa: A002
    return _elementwise(input, _sigmoid_difference)


@rule(F.silu)
def _silu(out: torch.Tensor, input: Changed, inplace: bool = False) -> Delta:  # noqa: A002
    return _elementwise(input, lambda x, d: d * torch.sigmoid(x + d) + x * _sigmoid_difference(x, d))


@rule(torch.exp, _Tensor.exp)
def _exp(out: torch.Tensor, input: Changed) -> Delta:  # noqa: A002
    return _elementwise(input, lambda x, d: torch.exp(x) * torch.expm1(d))


@rule(F.gelu)
def _gelu(out: torch.Tensor, input: Changed, approximate: str = "none") -> Delta:  # noqa: A002
    return _elementwise(input, _gelu_difference if approximate == "none" else _tanh_gelu_difference)


def _gelu_difference(x: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Compute the difference of `x Phi(x)`, with `Phi` the normal distribution."""
    phi: torch.Tensor = torch.special.ndtr(x + d)
    return d * phi + x * _normal_difference(x, d)


def _normal_difference(x: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Compute `Phi(x + d) - Phi(x)`: the integral of its density, or the difference where `d` is large and nothing cancels."""
    density = sum(w * torch.exp(-0.5 * (x + s * d).square()) for s, w in zip(_NODES, _WEIGHTS, strict=True))
    direct = torch.special.ndtr(x + d) - torch.special.ndtr(x)
    return torch.where(d.abs() <= 1, d * density / math.sqrt(2 * math.pi), direct)


def _tanh_gelu_difference(x: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Compute the difference of `x (1 + tanh u) / 2`, `u = sqrt(2 / pi) (x + 0.044715 x^3)`."""
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    du = math.sqrt(2 / math.pi) * d * (1 + 0.044715 * (3 * x.square() + 3 * x * d + d.square()))
    return 0.5 * (d * (1 + torch.tanh(u + du)) + x * _tanh_difference(u, du))


@rule(F.softplus)
def _softplus(out: torch.Tensor, input: Changed, beta: float = 1, threshold: float = 20) -> RuleResult:  # noqa: A002
    if threshold < 20:  # linear from where it is not yet linear to rounding
        return NotImplemented
    return _elementwise(input, lambda x, d: _softplus_difference(beta * x, beta * d) / beta)


def _softplus_difference(x: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Compute the difference upwards from the smaller of the two, `log(1 + sigmoid(x) (exp(d) - 1))`."""
    low, rise = torch.minimum(x, x + d), d.abs()
    small = torch.log1p(torch.sigmoid(low) * torch.expm1(rise.clamp(max=20)))
    return torch.sign(d) * torch.where(rise <= 20, small, F.softplus(low + rise) - F.softplus(low))


@rule(F.mish)
def _mish(out: torch.Tensor, input: Changed, inplace: bool = False) -> Delta:  # noqa: A002
    """Compute the difference of `x tanh(softplus(x))`."""

    def difference(x: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        return d * torch.tanh(F.softplus(x + d)) + x * _tanh_difference(F.softplus(x), _softplus_difference(x, d))

    return _elementwise(input, difference)


@rule(F.softmax, torch.softmax, _Tensor.softmax)
def _softmax(out: torch.Tensor, input: Changed, dim: int | None = None, **others: Any) -> RuleResult:  # noqa: A002
    if dim is None or any(value is not None for key, value in others.items() if key != "_stacklevel"):
        return NotImplemented
    dim = dim % out.dim() + 1
    e = torch.expm1(input.delta.dense())
    mean = (out * e).sum(dim, keepdim=True)
    return Dense(out * (e - mean) / (1 + mean))


@rule(F.log_softmax, torch.log_softmax, _Tensor.log_softmax)
def _log_softmax(out: torch.Tensor, input: Changed, dim: int | None = None, **others: Any) -> RuleResult:  # noqa: A002
    if dim is None or any(value is not None for key, value in others.items() if key != "_stacklevel"):
        return NotImplemented
    dim = dim % out.dim() + 1
    delta = input.delta.dense()
    return Dense(delta - torch.log1p((out.exp() * torch.expm1(delta)).sum(dim, keepdim=True)))


@rule(F.max_pool2d, torch.max_pool2d)
def _max_pool2d(
    out: torch.Tensor,
    input: Changed,  # noqa: A002
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> RuleResult:
    """Compute `max_j (x_j + d_j) - max_j x_j` as `max_j ((x_j - max x) + d_j)`."""
    if ceil_mode or return_indices or dilation not in (1, (1, 1), [1, 1]) or input.base.dim() != 4:
        return NotImplemented
    kernel, step, side = (_pair(value) for value in (kernel_size, stride or kernel_size, padding))
    delta = input.delta.dense()
    below = _windows(input.base, kernel, step, side, -torch.inf) - out.unsqueeze(-1)
    above = torch.unflatten(_windows(delta.flatten(0, 1), kernel, step, side, 0.0), 0, delta.shape[:2])
    return Dense((below + above).amax(-1))


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else tuple(value)
    return first, second


def _windows(
    x: torch.Tensor, kernel: tuple[int, int], step: tuple[int, int], side: tuple[int, int], fill: float
) -> torch.Tensor:
    """Cut images into the windows of a pooling: `(B, C, H, W)` to `(B, C, H', W', taps)`."""
    padded = F.pad(x, (side[1], side[1], side[0], side[0]), value=fill)
    return padded.unfold(2, kernel[0], step[0]).unfold(3, kernel[1], step[1]).flatten(-2)
