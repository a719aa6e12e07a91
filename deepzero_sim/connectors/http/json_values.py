"""JSON as it comes from servers of numbers: read as fast as it can be, and also where it holds what JSON has no word for.

NaN and infinity are no JSON. Servers write them all the same: as `NaN` and `Infinity` (Python), `nan` and `inf` (text that was
formatted by hand), or as `null` (C++). All of them are read as what they stand for, so that a solver that diverged is said to
have diverged, and not to write garbage.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.errors import ConfigError, MissingExtraError
from deepzero_sim.solver.spec_fields import IN_QUOTES

#: A vector of numbers, as they travel.
Vector: TypeAlias = NDArray[np.float64]

_NUMBER_TYPES = frozenset((float, int, type(None)))

#: Words in quotes, as R and Java write what is not finite.
_QUOTED = {"nan": math.nan, "na": math.nan, "inf": math.inf, "infinity": math.inf, "-inf": -math.inf, "-infinity": -math.inf}

#: Bytes of a number in an answer, its comma and white space included.
NUMBER = 64


def require_json() -> None:
    """Say it at once if the package that reads and writes JSON is missing.

    Raises:
        MissingExtraError: it is.
    """
    try:
        import orjson  # noqa: F401, PLC0415 - optional
    except ImportError as error:
        raise MissingExtraError("a solver or server of HTTP", "orjson", "http") from error


def written(value: Any) -> bytes:
    """A value as JSON; arrays of float64 as lists that read as the same bits, what is not finite as null."""
    import orjson  # noqa: PLC0415 - optional

    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def named_values(what: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings that travel as JSON, a copy of their own; nothing for None.

    Raises:
        ConfigError: in words that begin with `what`: they are none, or hold what JSON cannot.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{what} must be values by their names, not {given!r}.")
    values = dict(given or {})
    try:
        written(values)
    except TypeError as error:
        hint = f": {IN_QUOTES}" if "key must be str" in str(error) else ""
        raise ConfigError(f"{what} must hold what JSON can, not {values!r} ({error}){hint}.") from error
    _require_finite(what, values)
    return copy.deepcopy(values)


def _require_finite(what: str, value: Any) -> None:
    """Refuse NaN and infinity, which would go out as null."""
    if isinstance(value, Mapping):
        for entry in value.values():
            _require_finite(what, entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            _require_finite(what, entry)
    elif isinstance(value, float | np.floating | np.ndarray) and not np.isfinite(value).all():
        raise ConfigError(f"{what} must hold what JSON can, which has no word for {value!r}: write a finite number.")


def read(text: bytes) -> Any:
    """A value of JSON, numbers that are not finite included.

    Raises:
        ValueError: it is no JSON.
    """
    import orjson  # noqa: PLC0415 - optional

    try:
        return orjson.loads(text)
    except ValueError:
        return _read_tolerantly(text.decode("utf-8-sig"))  # some begin with a mark of their encoding


def _read_tolerantly(text: str) -> Any:
    try:
        return json.loads(_NOT_FINITE.sub(_python_word, text))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


#: As C writes them: `-nan(ind)` and `nan(0x8000)`, and long ago `1.#QNAN`, `-1.#IND` and `1.#INF00`.
_NOT_FINITE = re.compile(
    r"[-+]?(?:\b1\.#(?P<old>q?nan|snan|ind|inf)0*\b|\b(?P<word>nan|inf(?:inity)?)\b(?:\(\w*\))?)", re.IGNORECASE
)


def _python_word(found: re.Match[str]) -> str:
    is_infinite = (found["old"] or found["word"]).lower() in ("inf", "infinity")
    return f"{'-' if found[0].startswith('-') else ''}Infinity" if is_infinite else "NaN"


def vector(value: Any) -> Vector:
    """A list of numbers as an array.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, list):
        raise ValueError(f"expected a list of numbers, not {type(value).__name__}")  # noqa: TRY004 - of text, not of a program
    if str in set(map(type, value)):
        value = [_QUOTED.get(entry.lower(), entry) if isinstance(entry, str) else entry for entry in value]
    if not _NUMBER_TYPES.issuperset(map(type, value)):
        raise ValueError("expected a list of numbers, but it holds something else")
    try:
        return np.array(value, dtype=np.float64)
    except OverflowError:
        return np.array([_float(number) for number in value])


def _float(number: float | None) -> float:
    try:
        return float("nan") if number is None else float(number)
    except OverflowError:  # a whole number beyond all floats
        return float("inf") if number is not None and number > 0 else float("-inf")
