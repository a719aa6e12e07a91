"""What has no rule: recomputed from values, query by query, in double precision.

    df = f(x + dx) - f(x)

loses digits that the rules keep, and doubles have digits to lose.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from deepzero_sim.oracle.difference.delta import Changed, Dense, base_of


def recompute(operation: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The difference of any operation's result, in double precision, in the result's form, with None for what is no number.

    Args:
        operation: called with values; every floating-point tensor comes as double.
        args: with a :class:`Changed` for what the queries change.
        kwargs: likewise.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Changed)]
    base = [_double(base_of(leaf)) for leaf in leaves]

    def result_of(*values: torch.Tensor) -> Any:
        given = list(base)
        for i, value in zip(places, values, strict=True):
            given[i] = value.clone()  # an operation may write into what it is given
        given_args, given_kwargs = pytree.tree_unflatten(given, spec)
        return operation(*given_args, **given_kwargs)

    before = result_of(*(base[i] for i in places))
    moved = [base[i] + leaves[i].delta.dense().to(base[i]) for i in places]
    after = _for_each_query(result_of, moved)
    return pytree.tree_map(_difference, after, before)


def _for_each_query(function: Callable[..., Any], stacked: list[torch.Tensor]) -> Any:
    """`function` of every query's values, the results stacked."""
    try:
        with warnings.catch_warnings():
            # what torch says of its own code, for scaled dot products and PReLUs
            warnings.filterwarnings("ignore", "There is a performance drop")
            warnings.filterwarnings("ignore", "An output with one or more elements was resized")
            return torch.func.vmap(function)(*stacked)
    except Exception:  # not everything can be mapped: then one after the other
        results = [function(*values) for values in zip(*stacked, strict=True)]
        return pytree.tree_map(lambda *each: torch.stack(each) if isinstance(each[0], torch.Tensor) else None, *results)


def _double(leaf: Any) -> Any:
    """Values, and dtypes that the operation is told to compute in, in double precision."""
    if isinstance(leaf, torch.dtype):
        return torch.float64 if leaf.is_floating_point else leaf
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf


def _difference(after: Any, before: Any) -> Dense | None:
    numbers = isinstance(after, torch.Tensor) and after.is_floating_point()
    return Dense(after - before) if numbers else None
