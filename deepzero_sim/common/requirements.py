"""Requirements of values that somebody gave: a ConfigError in one sentence says what was expected, what came, what to do."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from deepzero_sim.common.types import is_integer, is_number
from deepzero_sim.errors import ConfigError, DataError, DeepZeroError

#: Most seconds of a timeout: eleven days.
LONGEST_TIMEOUT = 1e6

#: Largest count of what is stored or computed with: up to it, float64 tells all whole numbers apart.
LARGEST_COUNT = 2**53


class Words(str):
    """Description of a value, which messages show without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def require(holds: bool, expected: str, value: object, remedy: str = "", error: type[DeepZeroError] = ConfigError) -> None:
    """Refuse a value unless a condition holds: `EXPECTED, not VALUE: REMEDY.`

    Args:
        holds: Condition on the value.
        expected: Beginning of the sentence, such as ``"radius must be a whole number of points, 0 or more"``.
        value: Value that came, shown as Python writes it; :class:`Words` are shown as they are.
        remedy: Advice, where it is not plain.
        error: Class of the error.
    """
    if not holds:
        raise error(f"{expected}, not {_show(value)}{f': {remedy}' if remedy else ''}.")


def _show(value: object) -> str:
    """Show a value as Python writes it, which it does not do with whole numbers of thousands of digits."""
    try:
        return repr(value)
    except ValueError:
        return f"{type(value).__name__} of too many digits"


def require_that(holds: bool, otherwise: str, error: type[DeepZeroError] = ConfigError) -> None:
    """Refuse something unless a condition holds, in a sentence that says what was expected, what came, and what to do."""
    if not holds:
        raise error(otherwise)


def require_data(holds: bool, otherwise: str) -> None:
    """Refuse data unless a condition holds, as :func:`require_that` does, with a DataError."""
    require_that(holds, otherwise, DataError)


def require_type(value: object, kinds: type | tuple[type, ...], expected: str, remedy: str = "") -> None:
    """Refuse an object of another type, as :func:`require` does: `EXPECTED, not TYPE: REMEDY.`"""
    if not isinstance(value, kinds):
        raise ConfigError(f"{expected}, not {type(value).__name__}{f': {remedy}' if remedy else ''}.")


def require_one_of(value: object, known: Iterable[Any], name: str) -> None:
    """Refuse a value that is none of those known: `NAME must be one of A, B, not VALUE.`"""
    known = tuple(known)
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(map(str, known))}, not {value!r}.")


def require_flag(value: object, name: str, remedy: str = "") -> None:
    """Refuse anything but true and false, such as text that YAML or a shell made of them."""
    require(isinstance(value, bool), f"{name} must be true or false", value, remedy)


def require_timeout(timeout: float) -> float:
    """Refuse what is no number of seconds that a program or an evaluation may be given; return it as a float."""
    usable = is_number(timeout) and 0 < timeout <= LONGEST_TIMEOUT
    require(usable, f"timeout must be a positive number of seconds, up to {LONGEST_TIMEOUT:g}", timeout)
    return float(timeout)


def require_sparsity(sparsity: float) -> None:
    """Refuse a sparsity outside [0, 1)."""
    fits = is_number(sparsity) and 0 <= sparsity < 1
    require(fits, "sparsity must be in [0, 1), the share of weights that is not active", Words(sparsity))


def require_executor(executor: object) -> None:
    """Refuse what takes no tasks; None stands for the calling thread."""
    if executor is not None and not hasattr(executor, "submit"):
        raise ConfigError(f"an executor must have submit, as those of dz.open_executor do, but {executor!r} has none.")


def is_count(value: object, least: int = 1, most: float = math.inf) -> bool:
    """Tell whole numbers from `least` to `most` from all else, whatever the type hints promised; true and false are none."""
    return is_integer(value) and least <= value <= most


def is_positive(value: object) -> TypeGuard[float]:
    """Tell positive numbers that arrays can hold from all else: infinity is none, nor is a whole number of 400 digits."""
    return is_number(value) and 0 < value <= sys.float_info.max


def did_you_mean(name: object, known: Iterable[str], meant: Mapping[str, str] | None = None) -> str:
    """Suggest the known name most like a misspelt one, as a question in parentheses; empty if none is close.

    Args:
        name: Name that is not known.
        known: Names that are.
        meant: Known names by others that people give by mistake, however little they are alike.
    """
    by_mistake = (meant or {}).get(str(name))
    close = [by_mistake] if by_mistake else difflib.get_close_matches(str(name), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def require_known(given: Iterable[object], known: Sequence[str], what: str, meant: Mapping[str, str] | None = None) -> None:
    """Refuse unknown names, with a suggestion: `WHAT may have A, B, not 'C' (did you mean 'B'?).`; see :func:`did_you_mean`."""
    for name in given:
        if name not in known:
            raise ConfigError(f"{what} may have {', '.join(known)}, not {name!r}{did_you_mean(name, known, meant)}.")
