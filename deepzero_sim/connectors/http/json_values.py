"""JSON as servers of numbers write it: read fast, and read also where it holds numbers that JSON has no word for.

NaN and infinity are no JSON. Servers write them all the same: as `NaN` and `Infinity` (Python), `nan` and `inf` (text that was
formatted by hand), or as `null` (C++). All of them are read as the numbers they stand for, so that a solver that diverged is
reported as diverged, and not as one that writes garbage.
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

from deepzero_sim.common.requirements import require
from deepzero_sim.errors import ConfigError, MissingExtraError
from deepzero_sim.solver.spec_values import IN_QUOTES

#: Numbers `(n,)`.
Vector: TypeAlias = NDArray[np.float64]

#: Most bytes of one number in JSON, with its comma and white space.
BYTES_PER_NUMBER = 64

_NUMBER_TYPES = frozenset((float, int, type(None)))

#: Words in quotes by which R and Java write what is not finite.
_QUOTED = {"nan": math.nan, "na": math.nan, "inf": math.inf, "infinity": math.inf, "-inf": -math.inf, "-infinity": -math.inf}

#: Words of C, such as `-nan(ind)` and `nan(0x8000)`, and long ago `1.#QNAN`, `-1.#IND` and `1.#INF00`.
_NOT_FINITE = re.compile(
    r"[-+]?(?:\b1\.#(?P<old>q?nan|snan|ind|inf)0*\b|\b(?P<word>nan|inf(?:inity)?)\b(?:\(\w*\))?)", re.IGNORECASE
)


def require_json() -> None:
    """Refuse to go on without the package that reads and writes JSON."""
    try:
        import orjson  # noqa: F401, PLC0415 - optional
    except ImportError as error:
        raise MissingExtraError("a solver or server of HTTP", "orjson", "http") from error


def dumps(value: Any) -> bytes:
    """Write a value as JSON: float64 arrays as lists that read as the same bits, and what is not finite as null."""
    import orjson  # noqa: PLC0415 - optional

    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def loads(text: bytes) -> Any:
    """Read a value of JSON, numbers that are not finite included.

    Raises:
        ValueError: The text is no JSON.
    """
    import orjson  # noqa: PLC0415 - optional

    try:
        return orjson.loads(text)
    except ValueError:
        return _loads_not_finite(text.decode("utf-8-sig"))  # some begin with a mark of their encoding


def _loads_not_finite(text: str) -> Any:
    try:
        return json.loads(_NOT_FINITE.sub(_python_word, text))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _python_word(match: re.Match[str]) -> str:
    is_infinite = (match["old"] or match["word"]).lower() in ("inf", "infinity")
    return f"{'-' if match[0].startswith('-') else ''}Infinity" if is_infinite else "NaN"


def to_vector(value: Any) -> Vector:
    """Convert a list of numbers to an array.

    Raises:
        ValueError: The value is no such list.
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
        return np.array([_to_float(number) for number in value])


def _to_float(number: float | None) -> float:
    try:
        return math.nan if number is None else float(number)
    except OverflowError:  # a whole number beyond all floats
        return math.inf if number is not None and number > 0 else -math.inf


def json_object(what: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a deep copy of settings that travel as JSON; empty for None."""
    require(given is None or isinstance(given, Mapping), f"{what} must be values by their names", given)
    values = dict(given or {})
    try:
        dumps(values)
    except TypeError as error:
        hint = f": {IN_QUOTES}" if "key must be str" in str(error) else ""
        raise ConfigError(f"{what} must hold what JSON can, not {values!r} ({error}){hint}.") from error
    _require_finite(what, values)
    return copy.deepcopy(values)


def _require_finite(what: str, value: Any) -> None:
    """Refuse NaN and infinity, which would go out as null."""
    if isinstance(value, Mapping | list | tuple):
        for entry in value.values() if isinstance(value, Mapping) else value:
            _require_finite(what, entry)
    elif isinstance(value, float | np.floating | np.ndarray) and not np.isfinite(value).all():
        raise ConfigError(f"{what} must hold what JSON can, which has no word for {value!r}: write a finite number.")
