"""Conversion of values that Python and YAML give the fields of a solver's spec.

Messages begin with `what`, the name of the object that has the field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepzero_sim.common.requirements import is_count, require
from deepzero_sim.common.types import is_number
from deepzero_sim.errors import ConfigError


def default_names(word: str, count: int) -> tuple[str, ...]:
    """Return names of what has none: `channel_0`, `channel_1` and so on."""
    return tuple(f"{word}_{i}" for i in range(count))


#: Remedy for a word that YAML does not take for text.
IN_QUOTES = "put it in quotes, as YAML takes NO, off, null, 1e3 or 12:30 for something else"


def list_of(what: str, field: str, value: Any) -> tuple[Any, ...]:
    """Convert a list. Text is refused: it would be taken letter by letter.

    Raises:
        ConfigError: The value is no list.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    require(is_list, f"{what} must have a list for {field}, such as [{value!r}]", value)
    return tuple(value)


def texts(what: str, field: str, value: Any) -> tuple[str, ...]:
    """Convert a list of text, or one text, which is one entry.

    Raises:
        ConfigError: The value is neither, or holds something else than text.
    """
    entries = (value,) if isinstance(value, str) else list_of(what, field, value)
    if isinstance(value, str) and "," in value:
        parts = [part.strip() for part in value.split(",")]
        raise ConfigError(f"{what}: {field} must be a list, or one text without commas, not {value!r}: write {parts}.")
    for entry in entries:
        require(isinstance(entry, str), f"{what}: {field} must be text", entry, IN_QUOTES)
    return tuple(map(str, entries))


def names(what: str, field: str, value: Any) -> tuple[str, ...]:
    """Convert a list of names: text, none of it empty, none twice.

    Raises:
        ConfigError: The value is no such list.
    """
    entries = texts(what, field, value)
    require(all(entry.strip() for entry in entries), f"{what}: {field} must have names", entries, "give each of them one")
    require(len(set(entries)) == len(entries), f"{what}: {field} must have different names", entries)
    return entries


def numbers(what: str, field: str, value: Any) -> tuple[float, ...]:
    """Convert a list of finite numbers.

    Raises:
        ConfigError: The value is no such list.
    """
    entries = list_of(what, field, value)
    for entry in entries:
        require(finite(entry) is not None, f"{what}: {field} must be finite numbers", entry, number_remedy(entry))
    return tuple(map(float, entries))


def finite(value: Any) -> float | None:
    """Convert a finite number; None stands for all else."""
    try:
        number = float(value) if is_number(value) else math.nan
    except OverflowError:  # a whole number beyond all floats
        return None
    return number if math.isfinite(number) else None


def number_remedy(value: Any) -> str:
    """Show the number that YAML took for text; empty for all else."""
    try:
        return f"write {float(value)}" if isinstance(value, str) else ""
    except ValueError:
        return ""


def shape(what: str, value: Any) -> tuple[int, ...]:
    """Convert a state's shape, a list as well, which would never equal an array's.

    Raises:
        ConfigError: The value is no shape, or has no axis of channels.
    """
    sizes = tuple(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes) else value
    fits = isinstance(sizes, tuple) and len(sizes) >= 2 and all(map(is_count, sizes))
    expected = f"{what}: state_shape must be (channels, points, ...), all positive"
    require(fits, expected, sizes, "add the channel axis even for one channel")
    return tuple(map(int, sizes))
