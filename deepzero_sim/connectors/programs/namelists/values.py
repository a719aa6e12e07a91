"""Values as Fortran's namelists spell them, each of the kind that its entry has in the base."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn, TypeAlias

from deepzero_sim.common.requirements import require
from deepzero_sim.connectors.programs.templates import Text, Values
from deepzero_sim.errors import ConfigError

Kind: TypeAlias = Literal["logical", "integer", "real", "complex", "text"]

#: Value that settings give an entry.
Scalar: TypeAlias = str | bool | int | float | complex

#: Null value: the program's own value stays.
NULL = "1*"

#: Numbers, each of which can hold those before it.
_NUMBERS: tuple[Kind, ...] = ("integer", "real", "complex")

_LOGICALS = {
    **dict.fromkeys(("true", ".true.", "t", ".t."), ".true."),
    **dict.fromkeys(("false", ".false.", "f", ".f."), ".false."),
}

_WHOLE = re.compile(r"([+-]?)0*(\d+)", re.ASCII)

_REAL = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[deq][+-]?\d+|[+-]\d+)?|inf(?:inity)?|nan)", re.IGNORECASE | re.ASCII)

#: Logical in any form that Fortran reads, `.TRUE`, `tr` and `.f` too; text stands in quotes.
_LOGICAL = re.compile(r"\.?[tf]\w*\.?", re.IGNORECASE | re.ASCII)

_COMPLEX = re.compile(rf"\(\s*{_REAL.pattern}\s*,\s*{_REAL.pattern}\s*\)", re.IGNORECASE | re.ASCII)

#: Forms of values without quotes, in the order in which they are tried.
_FORMS: dict[Kind, re.Pattern[str]] = {"integer": _WHOLE, "real": _REAL, "complex": _COMPLEX, "logical": _LOGICAL}

#: Largest number up to which all whole numbers are doubles, too.
_EXACT = 2**53

_EXPECTED = {
    "logical": "true or false",
    "integer": "a number",
    "real": "a number",
    "complex": "a number, or two as in (1.0, 2.0)",
    "text": "text",
}


@dataclass(frozen=True)
class Placeholder:
    """Value with placeholders, which differs from state to state, of an entry of some kind; None if the base lacks it."""

    text: Text
    kind: Kind | None
    where: str

    def render(self, values: Values) -> str:
        """Spell the value for one state."""
        return spell_text(self.text.render(values), self.kind, self.where)


def kinds_of(values: Sequence[object], quoted: bool) -> list[Kind | None]:
    """Tell the kinds of an entry's values in the base. An array of numbers has one, whichever of them are whole.

    Args:
        values: Values as f90nml reads them; numbers of some forms, such as `(1.0, -2.0)`, are text to it.
        quoted: True if any of them stand in quotes.
    """
    kinds = [_kind_of(value, quoted) for value in values]
    distinct = {kind for kind in kinds if kind is not None}
    if distinct and (len(distinct) == 1 or distinct <= set(_NUMBERS)):
        common = max(distinct, key=(*_NUMBERS, "logical", "text").index)
        return [common] * len(kinds)
    return kinds


def _kind_of(value: object, quoted: bool) -> Kind | None:
    if value is None:
        return None
    if isinstance(value, str):
        return "text" if quoted else next((kind for kind, form in _FORMS.items() if form.fullmatch(value)), "text")
    if isinstance(value, bool):
        return "logical"
    if isinstance(value, int):
        return "integer"
    return "real" if isinstance(value, float) else "complex"


def spell(value: Scalar, kind: Kind | None, where: str) -> str:
    """Spell a value of settings."""
    if isinstance(value, str):
        return _quote(value, where) if kind is None else spell_text(value, kind, where)
    if isinstance(value, bool):
        spelling = (".true." if value else ".false.") if kind in (None, "logical") else None
    else:
        spelling = None if kind in ("logical", "text") else _spell_number(value, kind)
    return spelling or _refuse(value, kind, where)


def spell_text(words: str, kind: Kind | None, where: str) -> str:
    """Spell text that a placeholder was filled in with: the entry's kind, or else the form of the text, says what is meant."""
    bare = words.strip()
    if kind == "text":
        return _quote(words, where)
    if kind == "logical":
        return _LOGICALS.get(bare.lower()) or _refuse(words, kind, where)
    if number := _number_in(bare, kind):
        return number
    if kind is not None:
        return _refuse(words, kind, where)
    return _LOGICALS[bare.lower()] if len(bare) > 1 and bare.lower() in _LOGICALS else _quote(words, where)


def _refuse(value: object, kind: Kind | None, where: str) -> NoReturn:
    remedy = "compare it, as in {{ params.flag > 0.5 }}" if kind == "logical" else "mend the value, or what the base has there"
    raise ConfigError(f"{where} must be {_EXPECTED[kind or 'text']}, as in the base, not {value!r}: {remedy}.")


def _number_in(bare: str, kind: Kind | None) -> str | None:
    """Spell a number in text, with all digits that it has there; None if there is none."""
    if whole := _WHOLE.fullmatch(bare):  # 007 may be a name: an integer and text are both read from it as it is
        return bare if kind is None else _spell_whole("".join(whole.groups()), kind)
    if _REAL.fullmatch(bare):
        is_date = kind is None and re.search(r"[\d.][+-]", bare)  # 2024-01 is a date rather than a number without a letter
        return None if is_date else _spell_real(bare, _double(bare), kind)
    return _complex_in(bare, kind) if kind in (None, "complex") else None


def _complex_in(bare: str, kind: Kind | None) -> str | None:
    """Spell a complex number in text, as Fortran or Python writes it; None if there is none."""
    if _COMPLEX.fullmatch(bare):
        return bare
    try:
        return _spell_number(complex(bare), kind) if re.search(r"\dj\)?$", bare) else None
    except ValueError:
        return None


def _double(bare: str) -> float:
    plain = re.sub("[dq]", "e", bare.lower())
    return float(re.sub(r"(?<=[\d.])(?=[+-])", "e", plain))


def _spell_number(value: complex, kind: Kind | None) -> str | None:
    """Spell a number of Python's; None if it does not fit."""
    if isinstance(value, int):
        return _spell_whole(str(int(value)), kind)
    if isinstance(value, float):
        return _spell_real(repr(float(value)), value, kind)
    pair = complex(value)
    return f"({pair.real!r}, {pair.imag!r})" if kind in (None, "complex") else None


def _spell_whole(digits: str, kind: Kind | None) -> str:
    return f"({digits}.0, 0.0)" if kind == "complex" else f"{digits}.0" if kind == "real" else digits


def _spell_real(digits: str, value: float, kind: Kind | None) -> str:
    if kind == "integer" and value.is_integer() and abs(value) <= _EXACT:
        return str(int(value))  # where the base has a whole one, a program may read no other
    return f"({digits}, 0.0)" if kind == "complex" else digits


def _quote(words: str, where: str) -> str:
    misfit = next((character for character in "\n\r\0" if character in words), "")
    require(not misfit, f"{where} must be text of one line", words, f"a namelist cannot hold {misfit!r}")
    try:
        words.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where} must be text in UTF-8, not {words!r} ({error.reason}): mend it.") from error
    return "'" + words.replace("'", "''") + "'"
