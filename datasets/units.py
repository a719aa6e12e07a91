"""Units as text, compared by meaning as far as their spelling tells: `m s-1`, `m/s`, `m*s**-1` and `metre/second` are one.

Nothing is converted: `cm` and `m` are two units.
"""

from __future__ import annotations

import re
from collections import Counter

#: Short names of what is spelt out.
_NAMES = {
    "metre": "m", "meter": "m", "centimetre": "cm", "centimeter": "cm", "millimetre": "mm", "millimeter": "mm",
    "kilometre": "km", "kilometer": "km", "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "day": "d",
    "kilogram": "kg", "gram": "g", "kelvin": "K", "pascal": "Pa", "hectopascal": "hPa", "newton": "N", "joule": "J",
    "watt": "W", "mole": "mol", "radian": "rad", "degree": "deg", "°": "deg", "degc": "degC", "celsius": "degC",
    "°c": "degC", "deg_c": "degC", "degree_celsius": "degC", "degrees_celsius": "degC", "percent": "%",
    "degrees_north": "degN", "degree_north": "degN", "degrees_east": "degE", "degree_east": "degE",
}  # fmt: skip

#: Words for numbers without a unit.
_NONE = {"1", "-", "none", "dimensionless", "unitless", "nondimensional", "non-dimensional", "[]", "n/a"}

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_FACTOR = re.compile(r"([^\W\d]+(?:_[^\W\d]+)*|[°%][^\W\d]*|\d+(?:\.\d+)?)(?:\^|\*\*)?([+-]?\d+)?$")


def same_unit(one: str, other: str) -> bool:
    """Tell whether two texts spell one unit; an empty text says nothing, and is compared with nothing."""
    return not one.strip() or not other.strip() or one.strip() == other.strip() or _parse(one) == _parse(other)


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
