"""Units as text, compared by meaning as far as their spelling tells: `m s-1`, `m/s`, `m*s**-1` and `metre/second` are one.

`cm` and `m` are two units, one of which is 0.01 of the other.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

#: Short names of what is spelt out.
_NAMES = {
    "metre": "m", "meter": "m", "centimetre": "cm", "centimeter": "cm", "millimetre": "mm", "millimeter": "mm",
    "kilometre": "km", "kilometer": "km", "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "day": "d",
    "kilogram": "kg", "gram": "g", "kelvin": "K", "pascal": "Pa", "hectopascal": "hPa", "newton": "N", "joule": "J",
    "watt": "W", "mole": "mol", "radian": "rad", "degree": "deg", "°": "deg", "degc": "degC", "celsius": "degC",
    "°c": "degC", "deg_c": "degC", "degree_celsius": "degC", "degrees_celsius": "degC", "percent": "%",
    "degrees_north": "degN", "degree_north": "degN", "degrees_east": "degE", "degree_east": "degE",
    "micrometre": "um", "micrometer": "um", "nanometre": "nm", "nanometer": "nm", "millisecond": "ms", "msec": "ms",
    "microsecond": "us", "nanosecond": "ns", "kilopascal": "kPa", "millibar": "mbar", "litre": "L", "liter": "L", "hertz": "Hz",
    "degf": "degF", "fahrenheit": "degF", "degree_fahrenheit": "degF", "degrees_fahrenheit": "degF", "°f": "degF",
    "degk": "K", "degree_kelvin": "K", "degrees_kelvin": "K",
}  # fmt: skip

#: Units as multiples of others, which are in the table themselves or stand for themselves.
_MULTIPLES = {
    "ms": (1e-3, "s"), "us": (1e-6, "s"), "µs": (1e-6, "s"), "ns": (1e-9, "s"), "min": (60.0, "s"), "h": (3600.0, "s"),
    "d": (86400.0, "s"), "Hz": (1.0, "s-1"), "km": (1e3, "m"), "cm": (1e-2, "m"), "mm": (1e-3, "m"), "um": (1e-6, "m"),
    "µm": (1e-6, "m"), "nm": (1e-9, "m"), "g": (1e-3, "kg"), "mg": (1e-6, "kg"), "N": (1.0, "kg m s-2"),
    "Pa": (1.0, "kg m-1 s-2"), "hPa": (1e2, "kg m-1 s-2"), "kPa": (1e3, "kg m-1 s-2"), "MPa": (1e6, "kg m-1 s-2"),
    "bar": (1e5, "kg m-1 s-2"), "mbar": (1e2, "kg m-1 s-2"), "J": (1.0, "kg m2 s-2"), "kJ": (1e3, "kg m2 s-2"),
    "W": (1.0, "kg m2 s-3"), "kW": (1e3, "kg m2 s-3"), "L": (1e-3, "m3"), "%": (1e-2, "1"), "mmol": (1e-3, "mol"),
}  # fmt: skip

#: Units with an origin of their own: how many K one of them is, and where it begins, in K.
_SCALES = {"K": (1.0, 0.0), "degC": (1.0, 273.15), "degF": (5 / 9, 459.67 * 5 / 9)}

#: Words for numbers without a unit.
_NONE = {"1", "-", "none", "dimensionless", "unitless", "nondimensional", "non-dimensional", "[]", "n/a"}

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_FACTOR = re.compile(r"([^\W\d]+(?:_[^\W\d]+)*|[°%][^\W\d]*|\d+(?:\.\d+)?)(?:\^|\*\*)?([+-]?\d+)?$")


class Conversion(NamedTuple):
    """Conversion of a number to another unit: `factor * number + shift`."""

    factor: float
    shift: float


def same_unit(one: str, other: str) -> bool:
    """Tell whether two texts spell one unit; an empty text says nothing, and is compared with nothing."""
    if not one.strip() or not other.strip() or one.strip() == other.strip() or _parse(one) == _parse(other):
        return True
    return conversion(one, other) == (1.0, 0.0)


def conversion(one: str, other: str) -> Conversion | None:
    """Find how numbers in one unit become such in another; None if that is not known, or cannot be."""
    parsed = _parse(one), _parse(other)
    names = [next(iter(unit)) if isinstance(unit, Counter) and list(unit.values()) == [1] else "" for unit in parsed]
    if all(name in _SCALES for name in names):
        (size, begin), (wanted, origin) = (_SCALES[name] for name in names)
        return Conversion(size / wanted, 0.0 if names[0] == names[1] else float(f"{(begin - origin) / wanted:.15g}"))
    units = [_in_base(unit) for unit in parsed if isinstance(unit, Counter)]
    if len(units) < len(parsed) or units[0][1] != units[1][1]:
        return None
    return Conversion(float(f"{units[0][0] / units[1][0]:.15g}"), 0.0)


def _in_base(unit: Counter[str]) -> tuple[float, Counter[str]]:
    """Write a product of powers as a number times a product of powers of units that are no multiples of others."""
    factor, powers = 1.0, Counter[str]()
    for name, power in unit.items():
        times, base = _MULTIPLES.get(name, (1.0, name))
        factor *= times**power
        parts = _parse(base) if name in _MULTIPLES else Counter({name: 1})
        for part, exponent in parts.items() if isinstance(parts, Counter) else ():
            powers[part] += power * exponent
    return factor, Counter({name: power for name, power in powers.items() if power})


def unit_to_show(unit: str) -> str:
    """Return a unit as it is shown behind a number; empty where there is none, which files write as `1`."""
    text = unit.strip()
    return "" if text.lower() in _NONE else text


def with_unit(name: str, unit: str) -> str:
    """Write a quantity with its unit: `MAE (m)`; the name alone if it has none."""
    shown = unit_to_show(unit)
    return f"{name} ({shown})" if shown else name


def with_amount(number: str, unit: str) -> str:
    """Write a number with its unit behind it: `3.5 m`."""
    return f"{number} {unit_to_show(unit)}".strip()


def _parse(unit: str) -> object:
    """Write a unit as powers of its factors; a text that is no product of powers is itself, without its spaces."""
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda found: f"^{found[0].translate(_SUPERSCRIPTS)}", unit.strip().strip("[]()").strip())
    if not text or text.lower() in _NONE:
        return Counter()
    text = re.sub(r"\s*\bper\b\s*", "/", text.replace("·", "*").replace("⋅", "*"))
    text = re.sub(r"\s*(\^|\*\*)\s*", "^", text)
    text = re.sub(r"[{}()]", "", text) if re.search(r"\^[({]", text) else text
    powers: Counter[str] = Counter()
    sign = 1
    for part in re.split(r"(\s*[/*]\s*|\s+|(?<=[^\W\d])\.(?=[^\W\d]))", text):
        if part.strip() in {"/", "*"}:
            sign = -1 if "/" in part else 1
        elif part.strip(" *."):
            factor = _FACTOR.match(part)
            if factor is None:
                return re.sub(r"\s", "", unit)
            name, power = _short(factor[1]), int(factor[2] or 1)
            powers[name] += sign * power if name != "1" else 0
    return Counter({name: power for name, power in powers.items() if power})


def _short(name: str) -> str:
    lower = name.lower()
    return _NAMES.get(lower) or _NAMES.get(lower.removesuffix("s"), name) if len(lower) > 1 or lower == "°" else name
