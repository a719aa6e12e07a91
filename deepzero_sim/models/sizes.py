"""Numbers that networks are made with."""

from __future__ import annotations

from deepzero_sim.common.types import is_integer
from deepzero_sim.errors import ConfigError


def require_whole(least: int = 1, **sizes: object) -> None:
    """Refuse what is no whole number, or too small: torch makes networks without weights of it, or none.

    Args:
        least: that a size may be.
        sizes: by name.

    Raises:
        ConfigError: one of them is not.
    """
    for name, size in sizes.items():
        if not is_integer(size) or size < least:  # type: ignore[operator]
            raise ConfigError(f"{name} must be a whole number of at least {least}, not {size!r}.")
