"""Fields of a solver's spec as Python and YAML have them, as plain tuples of text and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepzero_sim.common.types import is_integer, is_number
from deepzero_sim.errors import ConfigError

#: What to do about a word that YAML takes for something else.
IN_QUOTES = "put it in quotes, as YAML takes NO, off, null, 1e3 or 12:30 for something else"


def list_of(what: str, field: str, value: Any) -> tuple[Any, ...]:
    """A field's entries.

    Raises:
        ConfigError: in words that begin with `what`: it is no list; text would be taken letter by letter.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ConfigError(f"{what} must have a list for {field}, such as [{value!r}], not {value!r}.")
    return tuple(value)


def texts(what: str, field: str, value: Any) -> tuple[str, ...]:
    """A list of text.

    Raises:
        ConfigError: in words that begin with `what`.
    """
    entries = list_of(what, field, value)
    for entry in entries:
        if not isinstance(entry, str):
            raise ConfigError(f"{what}: {field} must be text, not {entry!r}: {IN_QUOTES}.")
    return tuple(map(str, entries))


def names(what: str, field: str, value: Any) -> tuple[str, ...]:
    """A list of names: text, none of it empty, none twice.

    Raises:
        ConfigError: in words that begin with `what`.
    """
    entries = texts(what, field, value)
    if not all(entry.strip() for entry in entries):
        raise ConfigError(f"{what}: {field} must have names, not {entries}: give each of them one.")
    if len(set(entries)) < len(entries):
        raise ConfigError(f"{what}: {field} must have different names, not {entries}.")
    return entries


def numbers(what: str, field: str, value: Any) -> tuple[float, ...]:
    """A list of finite numbers.

    Raises:
        ConfigError: in words that begin with `what`.
    """
    entries = list_of(what, field, value)
    for entry in entries:
        if finite(entry) is None:
            raise ConfigError(f"{what}: {field} must be finite numbers, not {entry!r}{as_number(entry)}.")
    return tuple(map(float, entries))


def finite(value: Any) -> float | None:
    """A finite number; None of all else."""
    try:
        number = float(value) if is_number(value) else math.nan
    except OverflowError:  # a whole number beyond all floats
        return None
    return number if math.isfinite(number) else None


def as_number(value: Any) -> str:
    """How to write a number that YAML takes for text, to be put behind it; nothing for all else."""
    try:
        return f": write {float(value)}" if isinstance(value, str) else ""
    except ValueError:
        return ""


def shape(what: str, value: Any) -> tuple[int, ...]:
    """A state's shape, a list as well: it would never equal an array's.

    Raises:
        ConfigError: in words that begin with `what`: it is none, or has no axis of channels.
    """
    sizes = tuple(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes) else value
    if not isinstance(sizes, tuple) or len(sizes) < 2 or not all(is_integer(size) and size >= 1 for size in sizes):
        raise ConfigError(
            f"{what}: state_shape must be (channels, points, ...), all positive, "
            f"not {sizes!r}: add the channel axis even for one channel."
        )
    return tuple(map(int, sizes))
