"""Values as Fortran's namelists spell them, each of the kind that its entry has in the base."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn, TypeAlias

from deepzero_sim.connectors.programs.templates import Text, Values
from deepzero_sim.errors import ConfigError

Kind: TypeAlias = Literal["logical", "integer", "real", "complex", "text"]

#: A value that settings give an entry.
Scalar: TypeAlias = str | bool | int | float | complex

#: A null value: what the program has stays.
NULL = "1*"

#: Numbers, each of which can hold those before it.
_NUMBERS: tuple[Kind, ...] = ("integer", "real", "complex")

_LOGICALS = {
    **dict.fromkeys(("true", ".true.", "t", ".t."), ".true."),
    **dict.fromkeys(("false", ".false.", "f", ".f."), ".false."),
}

_WHOLE = re.compile(r"([+-]?)0*(\d+)", re.ASCII)

_REAL = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[deq][+-]?\d+|[+-]\d+)?|inf(?:inity)?|nan)", re.IGNORECASE | re.ASCII)

#: A logical in any form that Fortran reads, `.TRUE`, `tr` and `.f` too; text stands in quotes.
_LOGICAL = re.compile(r"\.?[tf]\w*\.?", re.IGNORECASE | re.ASCII)

_COMPLEX = re.compile(rf"\(\s*{_REAL.pattern}\s*,\s*{_REAL.pattern}\s*\)", re.IGNORECASE | re.ASCII)

#: Whole numbers up to here are whole numbers as doubles, too.
_EXACT = 2**53

_WANTED = {
    "logical": "true or false",
    "integer": "a number",
    "real": "a number",
    "complex": "a number, or two as in (1.0, 2.0)",
    "text": "text",
}


@dataclass(frozen=True)
class Filled:
    """A value with placeholders.

    Args:
        text: with the placeholders.
        kind: of the entry; None if the base does not have it.
        where: it stands, for messages.
    """

    text: Text
    kind: Kind | None
    where: str

    def render(self, values: Values) -> str:
        """Spell it for one state.

        Raises:
            ConfigError: it cannot be filled in, or does not fit the entry.
        """
        return spell_filled(self.text.render(values), self.kind, self.where)


def kinds_of(values: Sequence[object], quoted: bool) -> list[Kind | None]:
    """Kinds of an entry's values in the base. An array of numbers has one, whichever of them are whole.

    Args:
        values: as f90nml reads them; numbers of some forms, such as `(1.0, -2.0)`, are text to it.
        quoted: whether any of them stand in quotes.
    """
    kinds = [_kind_of(value, quoted) for value in values]
    found = {kind for kind in kinds if kind is not None}
    if found and (len(found) == 1 or found <= set(_NUMBERS)):
        common = max(found, key=(*_NUMBERS, "logical", "text").index)
        return [common] * len(kinds)
    return kinds


def _kind_of(value: object, quoted: bool) -> Kind | None:
    if value is None:
        return None
    if isinstance(value, str):
        forms: dict[Kind, re.Pattern[str]] = {"integer": _WHOLE, "real": _REAL, "complex": _COMPLEX, "logical": _LOGICAL}
        return "text" if quoted else next((kind for kind, form in forms.items() if form.fullmatch(value)), "text")
    if isinstance(value, bool):
        return "logical"
    if isinstance(value, int):
        return "integer"
    return "real" if isinstance(value, float) else "complex"


def spell(value: Scalar, kind: Kind | None, where: str) -> str:
    """Spell a value of settings.

    Raises:
        ConfigError: it does not fit the entry.
    """
    if isinstance(value, str):
        return _quoted(value, where) if kind is None else spell_filled(value, kind, where)
    if isinstance(value, bool):
        spelt = (".true." if value else ".false.") if kind in (None, "logical") else None
    else:
        spelt = None if kind in ("logical", "text") else _number(value, kind)
    return spelt or _refuse(value, kind, where)


def spell_filled(words: str, kind: Kind | None, where: str) -> str:
    """Spell text that a placeholder was filled in with: the entry's kind, or else its form, says what is meant.

    Raises:
        ConfigError: it does not fit the entry.
    """
    bare = words.strip()
    if kind == "text":
        return _quoted(words, where)
    if kind == "logical":
        return _LOGICALS.get(bare.lower()) or _refuse(words, kind, where)
    if number := _number_in(bare, kind):
        return number
    if kind is not None:
        return _refuse(words, kind, where)
    return _LOGICALS[bare.lower()] if len(bare) > 1 and bare.lower() in _LOGICALS else _quoted(words, where)


def _refuse(value: object, kind: Kind | None, where: str) -> NoReturn:
    wanted = _WANTED[kind or "text"]
    remedy = "compare it, as in {{ params.flag > 0.5 }}" if kind == "logical" else "mend the value, or what the base has there"
    raise ConfigError(f"{where} must be {wanted}, as in the base, not {value!r}: {remedy}.")


def _number_in(bare: str, kind: Kind | None) -> str | None:
    """A number in text, with all digits that it has there; None if there is none."""
    if whole := _WHOLE.fullmatch(bare):  # 007 may be a name: an integer and text are both read from it as it is
        return bare if kind is None else _of_whole("".join(whole.groups()), kind)
    if _REAL.fullmatch(bare):
        dated = kind is None and re.search(r"[\d.][+-]", bare)  # 2024-01 is a date rather than a number without a letter
        return None if dated else _of_real(bare, _double(bare), kind)
    return _complex_in(bare, kind) if kind in (None, "complex") else None


def _complex_in(bare: str, kind: Kind | None) -> str | None:
    """A complex number in text, as Fortran or Python writes it; None if there is none."""
    if _COMPLEX.fullmatch(bare):
        return bare
    try:
        return _number(complex(bare), kind) if re.search(r"\dj\)?$", bare) else None
    except ValueError:
        return None


def _double(bare: str) -> float:
    plain = re.sub("[dq]", "e", bare.lower())
    return float(re.sub(r"(?<=[\d.])(?=[+-])", "e", plain))


def _number(value: complex, kind: Kind | None) -> str | None:
    """A number of Python's; None if it does not fit."""
    if isinstance(value, int):
        return _of_whole(str(int(value)), kind)
    if isinstance(value, float):
        return _of_real(repr(float(value)), value, kind)
    pair = complex(value)
    return f"({pair.real!r}, {pair.imag!r})" if kind in (None, "complex") else None


def _of_whole(digits: str, kind: Kind | None) -> str:
    return f"({digits}.0, 0.0)" if kind == "complex" else f"{digits}.0" if kind == "real" else digits


def _of_real(digits: str, value: float, kind: Kind | None) -> str:
    if kind == "integer" and value.is_integer() and abs(value) <= _EXACT:
        return str(int(value))  # where the base has a whole one, a program may read no other
    return f"({digits}, 0.0)" if kind == "complex" else digits


def _quoted(words: str, where: str) -> str:
    if lost := [character for character in "\n\r\0" if character in words]:
        raise ConfigError(f"{where} must be text of one line, not {words!r}: a namelist cannot hold {lost[0]!r}.")
    try:
        words.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where} must be text in UTF-8, not {words!r} ({error.reason}): mend it.") from error
    return "'" + words.replace("'", "''") + "'"
