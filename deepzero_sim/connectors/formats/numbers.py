"""Parser of numbers in text, in every spelling of C, Fortran and their runtimes; all text formats use it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from deepzero_sim.common.types import Array

#: Letters of an exponent besides e: Fortran's double and quadruple precision.
EXPONENT_LETTERS = bytes.maketrans(b"DdQq", b"eeee")

#: Number whose exponent has three digits, where Fortran leaves the letter out: 0.100000-149. No date or range has this form.
WITHOUT_LETTER = re.compile(rb"([+-]?(?:\d+\.\d*|\.\d+))([+-]\d{1,4})")

#: Output of printf's %a.
HEXADECIMAL = re.compile(rb"[+-]?0x(?:[0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)p[+-]?\d+", re.IGNORECASE)

#: Spellings of NaN and infinity, with those of old C runtimes of Windows: 1.#QNAN, -1.#IND00, 1.#INF, and 1.#J, which is
#: 1.#INF rounded to two digits, as 1.#QO is of 1.#QNAN.
NOT_A_NUMBER = re.compile(rb"[+-]?(?:[qs]?nan[qs]?(?:\([\w+-]*\))?|1\.#[qsinadro]*0*(?:e[+-]\d+)?)", re.IGNORECASE)
INFINITY = re.compile(rb"([+-]?)(?:inf|infinity|\xe2\x88\x9e|1\.(?:#inf|#j|\$)0*(?:e[+-]\d+)?)", re.IGNORECASE)

#: Repeat count of list-directed output and its value; zero times would drop the value.
REPEATED = re.compile(rb"0*([1-9]\d*)\*(\S+)")

#: Number of characters of a word that a message shows.
SHOWN = 40


def parse_numbers(words: Sequence[bytes]) -> Array:
    """Parse words of a text file, each of which must be one whole number.

    Exponents may have any of the letters e, d and q, or none. Every spelling of NaN and infinity is one of them.

    Args:
        words: Pieces of the file without white space around them.

    Returns:
        One float64 number for each word.

    Raises:
        ValueError: A word is no number; the message shows it, and says why if that is known.
    """
    if b"_" not in b"".join(words):  # Python allows it between digits
        try:
            return np.array(words, np.float64)
        except ValueError:
            pass
    return np.array([parse_number(word) for word in words], np.float64)


def parse_number(word: bytes) -> float:
    """Parse one word as :func:`parse_numbers` does many."""
    if b"_" not in word:
        try:
            return float(word.translate(EXPONENT_LETTERS))
        except ValueError:
            pass
    return _rare_number(word)


def expand_repeats(words: Sequence[bytes], limit: int) -> list[bytes]:
    """Expand the repeat counts of list-directed output: `3*1.0` is 1.0 three times.

    Args:
        words: Words of a line or a file.
        limit: Number of words that there may be; at most one more is made, so that a hostile count fills no memory.
    """
    expanded: list[bytes] = []
    for word in words:
        repeated = REPEATED.fullmatch(word)
        expanded += [word] if repeated is None else [repeated[2]] * min(int(repeated[1][:18]), limit + 1)
        if len(expanded) > limit:
            break
    return expanded


def _rare_number(word: bytes) -> float:
    """Parse a spelling that Python's float does not know."""
    if found := WITHOUT_LETTER.fullmatch(word):
        return float(found[1] + b"e" + found[2])
    if NOT_A_NUMBER.fullmatch(word):
        return float("nan")
    if infinite := INFINITY.fullmatch(word):
        return float(infinite[1] + b"inf")
    if HEXADECIMAL.fullmatch(word):
        return _hexadecimal(word.decode())
    raise ValueError(_complaint(word))


def _hexadecimal(word: str) -> float:
    try:
        return float.fromhex(word)
    except OverflowError:  # a long double's range is larger
        return float("-inf" if word.startswith("-") else "inf")


def _complaint(word: bytes) -> str:
    shown = repr(word[:SHOWN].decode(errors="replace") + ("..." if len(word) > SHOWN else ""))
    if not word:
        return "a number is missing between two delimiters"
    if b"*" in word and not word.strip(b"*"):
        return f"{shown} is what Fortran writes where a number is too wide for its format: widen it, or write ES24.16E3"
    if word.startswith(b"("):
        return f"{shown} is no number: write the real and imaginary parts of complex numbers as numbers of their own"
    if b"," in word:
        return (
            f"{shown} is no number: if commas part numbers, say so by a delimiter ','; "
            "decimal commas are not read, have them written as points"
        )
    return f"{shown} is no number"
