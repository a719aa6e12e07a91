"""The table of difference rules: for an operation `f`, how `f(x + dx) - f(x)` follows from `x`, `f(x)` and `dx`.

A rule is called as the operation is, with the operation's result on the base network before everything else, and with a
:class:`Changed` for every argument that the queries change. It returns the difference of the result, or :data:`NotImplemented`
for arguments that it does not cover.

An operation without a rule is recomputed from values, query by query: `f(x + dx) - f(x)` loses digits that the rules keep, but
is computed in double precision, which has digits to lose.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
from torch.utils import _pytree as pytree

from deepzero_sim.oracle.difference.delta import Changed, Delta, Dense, base_of

#: A difference, None where nothing changes, or :data:`NotImplemented`, whose type is Any to type checkers.
RuleResult: TypeAlias = Delta | Any | None

#: `(base result, *arguments of the operation) -> difference of the result`.
Rule: TypeAlias = Callable[..., RuleResult]

_R = TypeVar("_R", bound=Rule)

#: Rules by function, or by unbound method of `torch.Tensor`.
RULES: dict[Callable[..., Any], Rule] = {}


def rule(*operations: Callable[..., Any]) -> Callable[[_R], _R]:
    """Register the decorated rule for some operations."""

    def register(function: _R) -> _R:
        RULES.update(dict.fromkeys(operations, function))
        return function

    return register


def difference(operation: Callable[..., Any], out: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute the difference of an operation's result, by its rule or else from values.

    Args:
        operation: Function of torch.
        out: Result in the base network, the first one if there are several.
        args: Arguments, with a :class:`Changed` for those that the queries change.
        kwargs: Keyword arguments, likewise.
    """
    known = RULES.get(operation)
    accepted = known is not None and _accepts(known, len(args), tuple(kwargs))
    delta = known(out, *args, **kwargs) if known is not None and accepted else NotImplemented
    return recompute(operation, args, kwargs) if delta is NotImplemented else delta


@functools.cache
def _accepts(known: Rule, count: int, names: tuple[str, ...]) -> bool:
    """Tell whether a rule can be called with `count` arguments and these keywords; torch has several names for some."""
    try:
        inspect.signature(known).bind(None, *[None] * count, **dict.fromkeys(names))
    except TypeError:
        return False
    return True


def recompute(operation: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute the difference of an operation's result from values, in double precision.

    Args:
        operation: Function of torch, called with values; every floating-point tensor comes as double.
        args: Arguments, with a :class:`Changed` for those that the queries change.
        kwargs: Keyword arguments, likewise.

    Returns:
        Differences in the structure of the result, with None for what is no floating-point tensor.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Changed)]
    base = [_double(base_of(leaf)) for leaf in leaves]

    def result_of(*values: torch.Tensor) -> Any:
        arguments = list(base)
        for i, value in zip(places, values, strict=True):
            arguments[i] = value.clone()  # an operation may write into its arguments
        value_args, value_kwargs = pytree.tree_unflatten(arguments, spec)
        return operation(*value_args, **value_kwargs)

    before = result_of(*(base[i] for i in places))
    moved = [base[i] + leaves[i].delta.dense().to(base[i]) for i in places]
    after = _map_queries(result_of, moved)
    return pytree.tree_map(_subtract, after, before)


def _map_queries(function: Callable[..., Any], stacked: list[torch.Tensor]) -> Any:
    """Call a function with every query's values and stack the results."""
    try:
        with warnings.catch_warnings():
            # what torch says of its own code, for scaled dot products and PReLUs
            warnings.filterwarnings("ignore", "There is a performance drop")
            warnings.filterwarnings("ignore", "An output with one or more elements was resized")
            return torch.func.vmap(function)(*stacked)
    except Exception:  # vmap does not cover everything: then one query after the other
        results = [function(*values) for values in zip(*stacked, strict=True)]
        return pytree.tree_map(lambda *each: torch.stack(each) if isinstance(each[0], torch.Tensor) else None, *results)


def _double(leaf: Any) -> Any:
    """Convert values, and dtypes that the operation computes in, to double precision."""
    if isinstance(leaf, torch.dtype):
        return torch.float64 if leaf.is_floating_point else leaf
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf


def _subtract(after: Any, before: Any) -> Dense | None:
    numbers = isinstance(after, torch.Tensor) and after.is_floating_point()
    return Dense(after - before) if numbers else None
