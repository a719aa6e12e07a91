"""Difference rules of normalisations, batch statistics and all.

With `y = (x - m) / s`, `s = sqrt(v + eps)`, mean `m` and variance `v` over some axes, and changes `dx` of `x`:

    dm = mean(dx),   dv = 2 mean((x - m) dx) + mean(dx^2) - dm^2,   s' = sqrt(v + dv + eps)
    dy = (dx - dm) / s' - y dv / (s' (s + s'))

and, with weight and bias that may change too, `z = y w + b`: `dz = dy (w + dw) + y dw + db`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from deepzero_sim.oracle.difference.delta import (
    Changed,
    Delta,
    Dense,
    OneChannel,
    OneCoordinate,
    base_of,
    is_channels_last,
    memo_of,
)
from deepzero_sim.oracle.difference.rules.table import Ruled, rule


@rule(F.batch_norm)
def _batch_norm(
    out: torch.Tensor,
    input: Any,  # noqa: A002 - torch's names
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Ruled:
    if any(isinstance(statistic, Changed) for statistic in (running_mean, running_var)):
        return NotImplemented
    x = base_of(input)
    axes = [0, *range(2, x.dim())] if training or running_mean is None else []
    memo = memo_of(input, weight, bias)
    y, deviation = memo.once("normalised", lambda: normalised(x, running_mean, running_var, axes, eps))
    if not isinstance(input, Changed):
        return _parameter_step(out, y, weight, bias)
    if isinstance(input.delta, OneChannel) and input.delta.dim == 1 and not any(isinstance(p, Changed) for p in (weight, bias)):
        of_channel = (input.picked("y", y), input.delta.values, input.picked("deviation", deviation))
        values = normalised_difference(*of_channel, axes)
        return input.delta.with_values(
            values if weight is None else values * input.picked("weight", _along_channels(weight, x))
        )
    delta = normalised_difference(y, input.delta.dense(), deviation.unsqueeze(0), axes)
    return Dense(_affine(delta, y, weight, bias))


def normalised(
    x: torch.Tensor, mean: torch.Tensor | None, variance: torch.Tensor | None, axes: Sequence[int], eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised values and the deviation, by statistics of the batch or by given ones."""
    if axes:
        variance, mean = torch.var_mean(x, list(axes), correction=0, keepdim=True)
    else:
        assert mean is not None and variance is not None
        mean, variance = _along_channels(mean, x), _along_channels(variance, x)
    deviation = (variance + eps).sqrt()
    return (x - mean) / deviation, deviation


def normalised_difference(y: torch.Tensor, d: torch.Tensor, deviation: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    """What differences `d` of the inputs change of normalised values.

    Args:
        y: normalised values, `(*shape)` or `(P, *shape)`.
        d: `(P, *shape)`.
        deviation: `s`, which broadcasts to `(P, *shape)`.
        axes: of a value, that are averaged over; none for fixed statistics.
    """
    if not axes:
        return d / deviation
    over = [axis + 1 for axis in axes]
    mean = d.mean(over, keepdim=True)
    variance = 2 * deviation * (y * d).mean(over, keepdim=True) + d.square().mean(over, keepdim=True) - mean.square()
    moved = (deviation.square() + variance).sqrt()
    return (d - mean) / moved - y * (variance / (moved * (deviation + moved)))


def _along_channels(vector: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return vector.view(1, -1, *[1] * (x.dim() - 2))


def _parameter_step(out: torch.Tensor, y: torch.Tensor, weight: Any, bias: Any) -> Delta:
    """What a step in one channel's weight or bias changes: that channel."""
    changed = [p for p in (weight, bias) if isinstance(p, Changed)]
    (parameter, *more) = changed
    if more or not isinstance(parameter.delta, OneCoordinate) or not parameter.delta.complete:
        return Dense(_affine(None, y, weight, bias))
    shape = torch.Size((out.shape[0], 1, *out.shape[2:]))
    delta = parameter.delta
    channel = OneChannel(
        torch.ones(shape, dtype=out.dtype, device=out.device).expand(delta.count, *shape),
        delta.indices, 1, out.shape, is_channels_last(out),
    )  # fmt: skip
    factor = channel.pick(parameter.planes("y", y, 1)) if parameter is weight else channel.values
    return channel.with_values(factor * delta.column(channel.values))


def _affine(dy: torch.Tensor | None, y: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
    """`dy (w + dw) + y dw + db`, for weight and bias of one number a channel."""
    return _scaled(dy, y, weight, bias, lambda p: p.reshape(*p.shape[:-1], 1, -1, *[1] * (y.dim() - 2)))


def _scaled(
    dy: torch.Tensor | None, y: torch.Tensor, weight: Any, bias: Any, along: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    terms = []
    if isinstance(weight, Changed):
        dw = along(weight.delta.dense())
        terms.append(y * dw)
        if dy is not None:
            terms.append(dy * (along(weight.base) + dw))
    elif dy is not None:
        terms.append(dy if weight is None else dy * along(weight))
    if isinstance(bias, Changed):
        terms.append(along(bias.delta.dense()).expand(bias.count, *y.shape))
    return sum(terms[1:], start=terms[0])


@rule(F.layer_norm)
def _layer_norm(
    out: torch.Tensor,
    input: Any,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Delta:
    x = base_of(input)
    axes = list(range(x.dim() - len(normalized_shape), x.dim()))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    deviation = (variance + eps).sqrt()
    y = (x - mean) / deviation
    dy = normalised_difference(y, input.delta.dense(), deviation.unsqueeze(0), axes) if isinstance(input, Changed) else None

    def along(p: torch.Tensor) -> torch.Tensor:
        return p.reshape(*p.shape[: p.dim() - len(axes)], *[1] * (x.dim() - len(axes)), *normalized_shape)

    return Dense(_scaled(dy, y, weight, bias, along))


@rule(F.group_norm)
def _group_norm(
    out: torch.Tensor,
    input: Any,  # noqa: A002
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Delta:
    x = base_of(input)
    grouped = x.unflatten(1, (num_groups, -1))
    axes = list(range(2, grouped.dim()))
    variance, mean = torch.var_mean(grouped, axes, correction=0, keepdim=True)
    deviation = (variance + eps).sqrt()
    y = (grouped - mean) / deviation
    dy = None
    if isinstance(input, Changed):
        delta = torch.unflatten(input.delta.dense(), 2, (num_groups, -1))
        dy = normalised_difference(y, delta, deviation.unsqueeze(0), axes).flatten(2, 3)
    return Dense(_affine(dy, y.flatten(1, 2), weight, bias))
