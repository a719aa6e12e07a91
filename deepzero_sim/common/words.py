"""Words of sentences and reports."""

from __future__ import annotations


def count_of(number: int, thing: str) -> str:
    """Write how many things there are: `1 step`, `3 steps`.

    Args:
        number: Number of things.
        thing: Name of one, whose plural ends in s.
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"
