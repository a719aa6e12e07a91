"""Types of a component's variables, as C, C++, Fortran, Python and MODFLOW name them.

BMI leaves the words of `get_var_type` to the component's language, where `float` has 4 bytes or 8. The family of a word gives
the kind of number; the item size, which components report in bytes, gives its precision.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np

#: Sizes in bytes of whole numbers whose word does not tell.
_WHOLE = (1, 2, 4, 8)

#: Kind of number and its possible sizes in bytes, by the family of a word.
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

#: Characters are numbers only where C names their sign.
_CHARACTERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "signed char": ("i", (1,)),
    **dict.fromkeys(("unsigned char", "uchar"), ("u", (1,))),
}

#: Families of Fortran, whose kinds stand in parentheses.
_FORTRAN = ("real", "integer", "logical")

#: `unsigned long`, `real*8`, `real(kind=8)`, `int32_t[3]`, `DOUBLE (12)`, `real(c_double), dimension(:)`
_WORD = re.compile(
    r"(?P<base>[a-z]+(?: [a-z]+)*?)(?P<digits>\d*)(?: t)?(?: ?\* ?(?P<bytes>\d+))?"
    r"(?P<blank> ?)(?P<behind>\(.*?\)|\[.*?\])?(?: ?,.*)?"
)


def dtype_of(word: Any, item: int) -> np.dtype[Any] | None:
    """Return a variable's dtype.

    Args:
        word: Answer of `get_var_type`.
        item: Bytes of one number, the answer of `get_var_itemsize`.

    Returns:
        None if the word is no number, or no number of that size.
    """
    text = _text(word)
    return None if text is None else _dtype_of_numpy(text, item) or _dtype_of_family(text.lower(), item)


def _text(word: Any) -> str | None:
    """Return a word as text: C may send bytes with more behind their end, and numpy the type itself."""
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


def _dtype_of_numpy(text: str, item: int) -> np.dtype[Any] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old names
        try:
            dtype = np.dtype(text)
        except (TypeError, ValueError, SyntaxError):
            return None
    return dtype if dtype.kind in "fiub" and dtype.itemsize == item else None


def _dtype_of_family(text: str, item: int) -> np.dtype[Any] | None:
    parts = _WORD.fullmatch(" ".join(text.replace("_", " ").split()))
    family = None if parts is None else _family(parts["base"])
    if parts is None or family is None or item not in family[1] or item not in _sizes(parts, item):
        return None
    kind = family[0]
    return np.dtype("?" if (kind, item) == ("b", 1) else f"{kind.replace('b', 'i')}{item}")


def _family(base: str) -> tuple[str, tuple[int, ...]] | None:
    """Return kind and sizes of a word's family, also of `unsigned int`, `uint` and `c uint`."""
    bare = base.removeprefix("c ").removeprefix("signed ")
    if base in _CHARACTERS:
        return _CHARACTERS[base]
    if base in _FAMILIES or bare in _FAMILIES:
        return ("u", _WHOLE) if bare == "size" else _FAMILIES.get(base) or _FAMILIES[bare]
    unsigned = "int" if bare == "unsigned" else bare.removeprefix("unsigned ").removeprefix("u")
    kind, sizes = _FAMILIES.get(unsigned, ("", ()))
    return ("u", sizes) if kind == "i" else None


def _sizes(parts: re.Match[str], item: int) -> tuple[int, ...]:
    """Return the sizes in bytes that a word names, as a number or as a kind; the item size if it names none."""
    if parts["bytes"]:
        return (int(parts["bytes"]),)
    if parts["digits"]:
        number = int(parts["digits"])
        is_in_bits = number >= 16 or (number == 8 and parts["base"] in ("int", "uint"))
        return (number // 8 if is_in_bits else number,)
    behind = (parts["behind"] or "")[1:-1].strip()
    if parts["base"] not in _FORTRAN or (parts["blank"] and "kind" not in behind):
        return (item,)  # a shape
    kind = re.sub(r"^kind ?= ?", "", behind)
    if kind.isdigit():
        return (int(kind),) if int(kind) >= 4 else (item,)  # the numbers 1 to 3 are counted, not measured, by some compilers
    name = _WORD.fullmatch(kind)
    family = None if name is None else _family(name["base"])
    if name is None or family is None:
        return (item,)  # a name of the program's own
    return _sizes(name, item) if name["digits"] else family[1]
