"""The table of difference rules: for an operation `f`, how `f(x + dx) - f(x)` follows from `x`, `f(x)` and `dx`.

A rule is called as the operation is, with the operation's result on the base network before everything else, and with a
:class:`Changed` for every argument that the queries change. It returns the difference of the result, or
:data:`NotImplemented` for arguments that it does not cover; those are recomputed from values (`recompute.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from deepzero_sim.oracle.difference.delta import Delta

#: A difference, None where nothing changes, or :data:`NotImplemented`, whose type is Any to type checkers.
Ruled: TypeAlias = Delta | Any | None

#: `(base result, *arguments of the operation) -> difference of the result`.
Rule: TypeAlias = Callable[..., Ruled]

_R = TypeVar("_R", bound=Rule)

#: By function, or by unbound method of `torch.Tensor`.
RULES: dict[Callable[..., Any], Rule] = {}


def rule(*operations: Callable[..., Any]) -> Callable[[_R], _R]:
    """Enter a rule for some operations."""

    def entered(function: _R) -> _R:
        RULES.update(dict.fromkeys(operations, function))
        return function

    return entered
