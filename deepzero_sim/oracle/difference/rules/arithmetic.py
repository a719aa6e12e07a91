"""Difference rules of arithmetic: sums, products, quotients, squares, and operations that only move or add up numbers.

(a + da) + (b + db) - (a + b) = da + db
(a + da) (b + db) - a b       = da b + a db + da db
(a + da) / (b + db) - a / b   = (da - (a / b) db) / (b + db)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch.utils import _pytree as pytree

from deepzero_sim.oracle.difference.delta import (
    Changed,
    Delta,
    Dense,
    InParameter,
    OneChannel,
    base_of,
    is_channels_last,
    zeros,
)
from deepzero_sim.oracle.difference.rules.table import RULES, RuleResult, rule

_Tensor = torch.Tensor


def _getter(attribute: str) -> Callable[..., Any]:
    """Return the function that torch calls where an attribute of a tensor is read."""
    getter: Callable[..., Any] = getattr(_Tensor, attribute).__get__
    return getter


@rule(torch.add, _Tensor.add, _Tensor.add_)
def _add(out: torch.Tensor, a: Any, b: Any, *, alpha: float = 1) -> RuleResult:
    if alpha != 1:
        return NotImplemented
    return _sum(out, a, b)


@rule(torch.sub, _Tensor.sub, _Tensor.sub_)
def _subtract(out: torch.Tensor, a: Any, b: Any, *, alpha: float = 1) -> RuleResult:
    if alpha != 1:
        return NotImplemented
    return _sum(out, a, Changed(b.base, Dense(-b.delta.dense())) if isinstance(b, Changed) else b)


def _sum(out: torch.Tensor, a: Any, b: Any) -> Delta:
    deltas = [x.delta for x in (a, b) if isinstance(x, Changed)]
    if len(deltas) == 1:
        (x,) = (x for x in (a, b) if isinstance(x, Changed))
        return x.delta if _has_shape_of(out, x) else Dense(_broadcast(x, out).expand(x.count, *out.shape))
    if all(_has_shape_of(out, x) for x in (a, b)):
        return _sum_of_two(*deltas)
    return Dense(_broadcast(a, out) + _broadcast(b, out))


def _sum_of_two(first: Delta, second: Delta) -> Delta:
    """Add two differences; of one in a single channel, only that channel."""
    if isinstance(first, OneChannel):
        first, second = second, first
    if isinstance(second, OneChannel):
        full = first.dense().clone() if isinstance(first, Dense) else first.dense()
        second.add_to(full)
        return Dense(full)
    return Dense(first.dense() + second.dense())


def _has_shape_of(out: torch.Tensor, x: Changed) -> bool:
    return x.base.shape == out.shape and not isinstance(x.delta, InParameter)


def _broadcast(x: Any, out: torch.Tensor) -> Any:
    """Shape differences, or leave a value, so that they broadcast against `(P, *out.shape)`."""
    if not isinstance(x, Changed):
        return x
    return x.delta.dense().reshape(x.count, *[1] * (out.dim() - x.base.dim()), *x.base.shape)


@rule(_Tensor.__rsub__)
def _subtract_from(out: torch.Tensor, a: Any, b: Any) -> RuleResult:
    return _subtract(out, b, a)


@rule(torch.mul, torch.multiply, _Tensor.mul, _Tensor.mul_, _Tensor.multiply)
def _multiply(out: torch.Tensor, a: Any, b: Any) -> Delta:
    if not isinstance(a, Changed):
        a, b = b, a
    if not isinstance(b, Changed):
        return Dense((_broadcast(a, out) * b).expand(a.count, *out.shape))
    da, db = _broadcast(a, out), _broadcast(b, out)
    return Dense(da * b.base + (a.base + da) * db)


@rule(torch.div, _Tensor.div, _Tensor.div_)
def _divide(out: torch.Tensor, a: Any, b: Any, *, rounding_mode: str | None = None) -> RuleResult:
    if rounding_mode is not None:
        return NotImplemented
    if not isinstance(b, Changed):
        return Dense((_broadcast(a, out) / b).expand(a.count, *out.shape))
    db = _broadcast(b, out)
    da = _broadcast(a, out) if isinstance(a, Changed) else 0
    return Dense((da - out * db) / (b.base + db))


@rule(_Tensor.__rdiv__)
def _divide_into(out: torch.Tensor, a: Any, b: Any) -> RuleResult:
    return _divide(out, b, a)


@rule(torch.neg, _Tensor.neg)
def _negate(out: torch.Tensor, a: Changed) -> Delta:
    return Dense(-a.delta.dense())


@rule(torch.square, _Tensor.square)
def _square(out: torch.Tensor, a: Changed) -> Delta:
    delta = a.delta.dense()
    return Dense(delta * (2 * a.base + delta))


@rule(torch.Tensor.__pow__, torch.pow, _Tensor.pow)
def _power(out: torch.Tensor, a: Any, exponent: Any) -> RuleResult:
    if not isinstance(a, Changed) or not isinstance(exponent, int | float) or exponent != 2:
        return NotImplemented
    return _square(out, a)


@rule(torch.matmul, _Tensor.matmul, torch.bmm, _Tensor.bmm, torch.mm, _Tensor.mm)
def _matrix_product(out: torch.Tensor, a: Any, b: Any) -> RuleResult:
    x, y = base_of(a), base_of(b)
    if min(x.dim(), y.dim()) < 2:
        return NotImplemented
    if not isinstance(b, Changed):
        return Dense(_broadcast(a, out) @ y)
    if not isinstance(a, Changed):
        return Dense(x @ _broadcast(b, out))
    da, db = _broadcast(a, out), _broadcast(b, out)
    return Dense(da @ y + (x + da) @ db)


def _linear_rule(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Make the rule of an operation that is linear, without an offset, in its first argument or a list of them.

    It must not depend on values of its other arguments, only on their shape or type.
    """

    def difference(out: Any, first: Any, *args: Any, **kwargs: Any) -> Any:
        summands, form = pytree.tree_flatten(first)
        places = [i for i, leaf in enumerate(summands) if isinstance(leaf, Changed)]
        if not places:
            return pytree.tree_map(lambda x: None, out)
        others, other_kwargs = pytree.tree_map(base_of, (args, kwargs))

        def apply(*changes: torch.Tensor) -> Any:
            arguments = [torch.zeros_like(x) if isinstance(x, torch.Tensor) else x for x in summands]
            for i, change in zip(places, changes, strict=True):
                arguments[i] = change
            return operation(pytree.tree_unflatten(arguments, form), *others, **other_kwargs)

        result = torch.func.vmap(apply)(*(summands[i].delta.dense() for i in places))
        return pytree.tree_map(Dense, result)

    return difference


@rule(torch.clone, _Tensor.clone, _Tensor.contiguous, _Tensor.detach, _getter("data"))
def _identity(out: torch.Tensor, a: Changed, **kwargs: Any) -> Delta:
    return a.delta


@rule(
    _Tensor.float, _Tensor.double, _Tensor.half, _Tensor.bfloat16, _Tensor.to, _Tensor.type, _Tensor.type_as,
)  # fmt: skip
def _convert(out: torch.Tensor, a: Any, *args: Any, **kwargs: Any) -> RuleResult:
    """Move differences to another device. A conversion of dtype leaves them the digits that it takes from values."""
    if not isinstance(a, Changed):
        return None
    if isinstance(a.delta, InParameter) or a.base.device != out.device:
        return Dense(a.delta.dense().to(out.device))
    return a.delta


@rule(
    torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze,
    _Tensor.flatten, _Tensor.reshape, _Tensor.squeeze, _Tensor.unsqueeze, _Tensor.view, _Tensor.unflatten,
)  # fmt: skip
def _reshape(out: torch.Tensor, a: Changed, *args: Any, **kwargs: Any) -> RuleResult:
    if args and isinstance(args[0], torch.dtype):
        return NotImplemented
    return Dense(a.delta.dense().reshape(a.count, *out.shape))


@rule(torch.zeros_like, torch.ones_like, torch.full_like)
def _no_difference(out: torch.Tensor, *args: Any, **kwargs: Any) -> None:
    return None


@rule(F.pad)
def _pad(out: torch.Tensor, input: Changed, pad: Any, mode: str = "constant", value: Any = None) -> RuleResult:  # noqa: A002
    if len(pad) // 2 >= input.base.dim():
        return _linear_rule(F.pad)(out, input, pad, mode)
    delta = input.delta.dense()
    if mode == "constant" and all(side >= 0 for side in pad):
        full = zeros(input.count, out.shape, delta, is_channels_last(out))
        for_axes = zip(pad[-2::-2], pad[-1::-2], out.shape[out.dim() - len(pad) // 2 :], strict=True)
        inside: tuple[Any, ...] = tuple(slice(before, size - after) for before, after, size in for_axes)
        full[(..., *inside)].copy_(delta)
        return Dense(full)
    # other modes do not pad the first axis, so that the queries can be stacked along it
    return Dense(torch.unflatten(F.pad(delta.flatten(0, 1), pad, mode), 0, delta.shape[:2]))


@rule(_Tensor.__getitem__)
def _index(out: torch.Tensor, input: Changed, index: Any) -> RuleResult:  # noqa: A002
    places = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(place, slice | int) for place in places):
        return _linear_rule(_Tensor.__getitem__)(out, input, index)
    return Dense(input.delta.dense()[(slice(None), *places)])


_MOVES: tuple[Callable[..., Any], ...] = (
    torch.permute, torch.transpose, torch.movedim,
    torch.sum, torch.mean, torch.cat, torch.concat, torch.stack, torch.chunk, torch.split, torch.unbind, torch.narrow,
    torch.select, torch.roll, torch.flip, torch.t, torch.tile, torch.pixel_shuffle,
    _Tensor.permute, _Tensor.transpose,
    _Tensor.movedim, _Tensor.expand, _Tensor.sum, _Tensor.mean, _Tensor.chunk, _Tensor.split, _Tensor.unbind,
    _Tensor.narrow, _Tensor.select, _Tensor.t, _Tensor.repeat,
    _getter("T"), _getter("mT"),
    F.unfold, F.fold,
)  # fmt: skip
_POOLS = (
    F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
)  # fmt: skip


def _pool_rule(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Make the rule of an operation that is linear, channel by channel, on batches: the queries make the batch larger."""

    def difference(out: torch.Tensor, input: Changed, *args: Any, **kwargs: Any) -> Delta:  # noqa: A002
        delta = input.delta
        if isinstance(delta, OneChannel) and delta.dim == 1:
            pooled = operation(delta.values.flatten(0, 1), *args, **kwargs).unflatten(0, delta.values.shape[:2])
            return OneChannel(pooled, delta.channels, 1, out.shape, delta.channels_last)
        full = delta.dense()
        return Dense(operation(full.flatten(0, 1), *args, **kwargs).unflatten(0, full.shape[:2]))

    def rule_for(out: torch.Tensor, input: Changed, *args: Any, **kwargs: Any) -> RuleResult:  # noqa: A002
        batched = input.base.dim() == 2 + int(operation.__name__[-2])
        return difference(out, input, *args, **kwargs) if batched else NotImplemented

    return rule_for


RULES.update({operation: _pool_rule(operation) for operation in _POOLS})
RULES.update({operation: _linear_rule(operation) for operation in _MOVES})
