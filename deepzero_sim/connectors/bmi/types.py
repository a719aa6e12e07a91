"""Types of a component's variables, as C, C++, Fortran, Python and MODFLOW name them.

BMI leaves the words of `get_var_type` to the component's language, where `float` has 4 bytes or 8. The family of a word says
what kind of number it is, and the item size, which components give in bytes, how large it is.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np

#: Bytes of whole numbers, of any word that says no more.
_WHOLE = (1, 2, 4, 8)

#: Kind of number, and the bytes that it may have, by the family of a word.
_FAMILIES: dict[str, tuple[str, tuple[int, ...]]] = {
    **dict.fromkeys(("real", "float"), ("f", (4, 8))),
    **dict.fromkeys(("double", "double precision", "doubleprecision"), ("f", (8,))),
    **dict.fromkeys(("single", "single precision"), ("f", (4,))),
    **dict.fromkeys(("integer", "int", "long", "long int", "long integer", "size", "intp"), ("i", _WHOLE)),
    **dict.fromkeys(("long long", "long long int", "longlong"), ("i", (8,))),
    **dict.fromkeys(("short", "short int"), ("i", (2,))),
    "byte": ("i", (1,)),
    **dict.fromkeys(("logical", "bool", "boolean"), ("b", _WHOLE)),
    "c float": ("f", (4,)),
    "c int": ("i", (4,)),
}

#: Characters are numbers where C says of which sign.
_CHARACTERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "signed char": ("i", (1,)),
    **dict.fromkeys(("unsigned char", "uchar"), ("u", (1,))),
}

#: Families of the languages whose kinds are written in parentheses.
_FORTRAN = ("real", "integer", "logical")

#: `unsigned long`, `real*8`, `real(kind=8)`, `int32_t[3]`, `DOUBLE (12)`, `real(c_double), dimension(:)`
_WORD = re.compile(
    r"(?P<base>[a-z]+(?: [a-z]+)*?)(?P<digits>\d*)(?: t)?(?: ?\* ?(?P<bytes>\d+))?"
    r"(?P<blank> ?)(?P<behind>\(.*?\)|\[.*?\])?(?: ?,.*)?"
)


def dtype_of(word: Any, item: int) -> np.dtype[Any] | None:
    """A variable's dtype.

    Args:
        word: what `get_var_type` says.
        item: bytes of one number, as `get_var_itemsize` says.

    Returns:
        None if the word is no number, or no number of that size.
    """
    text = _text(word)
    return None if text is None else _of_numpy(text, item) or _of_family(text.lower(), item)


def _text(word: Any) -> str | None:
    """A word in Python: of C it may come as bytes with what is behind its end, of numpy as the type itself."""
    if isinstance(word, type):
        return word.__name__
    if isinstance(word, np.dtype):
        return word.str
    if isinstance(word, bytes):
        word = word.decode("ascii", "replace")
    if not isinstance(word, str):
        return None
    text = re.sub(r"^<class '(.*)'>$|^dtype\('(.*)'\)$", r"\1\2", word.split("\0")[0].strip())
    return re.sub(r"^[A-Za-z_]\w*\.(?=[A-Za-z])", "", text)  # of numpy, torch, jax.numpy as jnp


def _of_numpy(text: str, item: int) -> np.dtype[Any] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old names
        try:
            dtype = np.dtype(text)
        except (TypeError, ValueError, SyntaxError):
            return None
    return dtype if dtype.kind in "fiub" and dtype.itemsize == item else None


def _of_family(text: str, item: int) -> np.dtype[Any] | None:
    found = _WORD.fullmatch(" ".join(text.replace("_", " ").split()))
    family = None if found is None else _family(found["base"])
    if found is None or family is None or item not in family[1] or item not in _said(found, item):
        return None
    kind = family[0]
    return np.dtype("?" if (kind, item) == ("b", 1) else f"{kind.replace('b', 'i')}{item}")


def _family(base: str) -> tuple[str, tuple[int, ...]] | None:
    """Of `unsigned int`, `uint`, `c uint` as well."""
    bare = base.removeprefix("c ").removeprefix("signed ")
    if base in _CHARACTERS:
        return _CHARACTERS[base]
    if base in _FAMILIES or bare in _FAMILIES:
        return ("u", _WHOLE) if bare == "size" else _FAMILIES.get(base) or _FAMILIES[bare]
    unsigned = "int" if bare == "unsigned" else bare.removeprefix("unsigned ").removeprefix("u")
    kind, sizes = _FAMILIES.get(unsigned, ("", ()))
    return ("u", sizes) if kind == "i" else None


def _said(found: re.Match[str], item: int) -> tuple[int, ...]:
    """The bytes that a word allows: those that it names itself, as a number or as a kind; else all."""
    if found["bytes"]:
        return (int(found["bytes"]),)
    if found["digits"]:
        number = int(found["digits"])
        in_bits = number >= 16 or (number == 8 and found["base"] in ("int", "uint"))
        return (number // 8 if in_bits else number,)
    behind = (found["behind"] or "")[1:-1].strip()
    if found["base"] not in _FORTRAN or (found["blank"] and "kind" not in behind):
        return (item,)  # a shape
    kind = re.sub(r"^kind ?= ?", "", behind)
    if kind.isdigit():
        return (int(kind),) if int(kind) >= 4 else (item,)  # the numbers 1 to 3 are counted, not measured, by some compilers
    named = _WORD.fullmatch(kind)
    family = None if named is None else _family(named["base"])
    if named is None or family is None:
        return (item,)  # a name of the program's own
    return _said(named, item) if named["digits"] else family[1]
