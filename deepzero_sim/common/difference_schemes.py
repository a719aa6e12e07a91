"""Finite-difference schemes, of losses and of solver steps alike."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from deepzero_sim.errors import ConfigError

#: One-sided differences `(f(x + mu v) - f(x)) / mu`, or two-sided `(f(x + mu v) - f(x - mu v)) / (2 mu)`.
Scheme: TypeAlias = Literal["forward", "central"]


def require_scheme(scheme: str) -> None:
    """Refuse what is no scheme.

    Raises:
        ConfigError: it is none.
    """
    if scheme not in get_args(Scheme):
        raise ConfigError(f"scheme must be one of {', '.join(get_args(Scheme))}, not {scheme!r}.")
