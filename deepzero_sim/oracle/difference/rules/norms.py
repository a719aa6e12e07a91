"""Difference rules of normalisations, including what queries change of batch statistics.

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
    bias_term,
    first_changed,
)
from deepzero_sim.oracle.difference.rules.table import RuleResult, rule


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
) -> RuleResult:
    if any(isinstance(statistic, Changed) for statistic in (running_mean, running_var)):
        return NotImplemented
    x = base_of(input)
    axes = [0, *range(2, x.dim())] if training or running_mean is None else []
    memo = first_changed(input, weight, bias)
    y, deviation = memo.cached("normalised", lambda: normalise(x, running_mean, running_var, axes, eps))
    if not isinstance(input, Changed):
        return _parameter_term(out, y, weight, bias)
    if isinstance(input.delta, OneChannel) and input.delta.dim == 1 and not any(isinstance(p, Changed) for p in (weight, bias)):
        values = norm_difference(input.pick("y", y), input.delta.values, input.pick("deviation", deviation), axes)
        return input.delta.with_values(values if weight is None else values * input.pick("weight", _along_channels(weight, x)))
    delta = norm_difference(y, input.delta.dense(), deviation.unsqueeze(0), axes)
    return Dense(_affine(delta, y, weight, bias))


def normalise(
    x: torch.Tensor, mean: torch.Tensor | None, variance: torch.Tensor | None, axes: Sequence[int], eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalise values by statistics of the batch, or by given ones if there are no axes; return the deviation too."""
    if axes:
        variance, mean = torch.var_mean(x, list(axes), correction=0, keepdim=True)
    else:
        assert mean is not None and variance is not None
        mean, variance = _along_channels(mean, x), _along_channels(variance, x)
    deviation = (variance + eps).sqrt()
    return (x - mean) / deviation, deviation


def norm_difference(y: torch.Tensor, d: torch.Tensor, deviation: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    """Compute the difference of normalised values.

    Args:
        y: Normalised values, `(*shape)` or `(P, *shape)`.
        d: Difference of the input, `(P, *shape)`.
        deviation: Standard deviation `s`, which broadcasts to `(P, *shape)`.
        axes: Axes of a value that are averaged over; none for fixed statistics.
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


def _parameter_term(out: torch.Tensor, y: torch.Tensor, weight: Any, bias: Any) -> Delta:
    """Compute the difference that steps in weight or bias make: a step in one of them changes one channel."""
    parameter, *more = (p for p in (weight, bias) if isinstance(p, Changed))
    delta = parameter.delta
    if more or not isinstance(delta, OneCoordinate) or not delta.complete:
        return Dense(_affine(None, y, weight, bias))
    term = bias_term(delta, out, 1)
    return term.with_values(term.pick(parameter.planes("y", y, 1)) * delta.column(term.values)) if parameter is weight else term


def _affine(dy: torch.Tensor | None, y: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
    """Compute `dy (w + dw) + y dw + db`, for weight and bias of one number per channel."""
    return _affine_along(dy, y, weight, bias, lambda p: p.reshape(*p.shape[:-1], 1, -1, *[1] * (y.dim() - 2)))


def _affine_along(
    dy: torch.Tensor | None, y: torch.Tensor, weight: Any, bias: Any, along: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Compute `dy (w + dw) + y dw + db`, for weight and bias that `along` makes broadcast against `y`."""
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
    y, deviation = normalise(x, None, None, axes, eps)
    dy = norm_difference(y, input.delta.dense(), deviation.unsqueeze(0), axes) if isinstance(input, Changed) else None

    def along(p: torch.Tensor) -> torch.Tensor:
        return p.reshape(*p.shape[: p.dim() - len(axes)], *[1] * (x.dim() - len(axes)), *normalized_shape)

    return Dense(_affine_along(dy, y, weight, bias, along))


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
    groups = x.unflatten(1, (num_groups, -1))
    axes = list(range(2, groups.dim()))
    y, deviation = normalise(groups, None, None, axes, eps)
    dy = None
    if isinstance(input, Changed):
        delta = torch.unflatten(input.delta.dense(), 2, (num_groups, -1))
        dy = norm_difference(y, delta, deviation.unsqueeze(0), axes).flatten(2, 3)
    return Dense(_affine(dy, y.flatten(1, 2), weight, bias))
