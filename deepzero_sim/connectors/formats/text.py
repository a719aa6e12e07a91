"""Columns of numbers as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from deepzero_sim.common.types import Array, is_integer
from deepzero_sim.connectors.formats.base import Content, Format, as_dtype, need_size
from deepzero_sim.connectors.formats.numbers import EXPONENT_LETTERS, expand_repeats, parse_numbers
from deepzero_sim.errors import ConfigError, UnreadableOutputError

#: As many digits as give the same bits again, by bytes of a number.
SAME_BITS = {4: "%.8e", 8: "%.16e"}

#: Characters that cannot stand between numbers.
OF_NUMBERS = frozenset("0123456789+-.eEdDqQinfaINFA\n\r")

#: Comments that would begin with a number, or be the sign of one.
NUMBER_START = re.compile(r"[+-]?\.?|[+-]?\.?\d.*|[+-]?(?:n|na|nan|i|in|inf)", re.IGNORECASE | re.DOTALL)

#: What Windows writes before text in UTF-8.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Text(Format):
    """`text`: a line for each point, the last axis running fastest, with a column for each channel.

    Numbers are read as C, Fortran and their runtimes spell them: see :mod:`~deepzero_sim.connectors.formats.numbers`.

    Args:
        delimiter: between columns; white space if None. One more at the end of a line is no column.
        comments: what comments begin with, to the end of the line; a comment begins where a number could.
        header: what stands before the numbers where a file is written: lines as a list, one text, or how many empty comments.
        skiprows: lines before the numbers that are skipped where a file is read; as many as `header` has if None.

    Raises:
        ConfigError: one of them is not usable.
    """

    columns: ClassVar[bool] = True

    def __init__(
        self,
        delimiter: str | None = None,
        comments: str = "#",
        header: str | Sequence[str] | int = 0,
        skiprows: int | None = None,
    ) -> None:
        if not isinstance(comments, str) or not comments.strip() or NUMBER_START.fullmatch(comments.strip()):
            raise ConfigError(f"comments must be text that they, but no numbers, begin with, not {comments!r}.")
        if delimiter is not None and (not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in OF_NUMBERS):
            raise ConfigError(f"delimiter must be one character that no number holds and that ends no line, not {delimiter!r}.")
        if delimiter is not None and comments.strip().startswith(delimiter):
            raise ConfigError(f"comments must not begin with the delimiter, but are {comments!r}, not something else.")
        self._delimiter = None if delimiter == " " else delimiter
        self._comments, self._header = comments.strip().encode(), _header(header, comments)
        self._comment = _comment(self._comments, self._delimiter)
        if skiprows is not None and (not is_integer(skiprows) or skiprows < 0):
            raise ConfigError(f"skiprows must be a number of lines, 0 or more, not {skiprows!r}.")
        self._skipped = len(self._header) if skiprows is None else int(skiprows)

    def encode(self, values: Array) -> Content:
        between = self._delimiter or " "
        line = between.join([SAME_BITS[values.dtype.itemsize]] * values.shape[-1]) + "\n"
        rows = values.reshape(-1, values.shape[-1])
        text = (line * len(rows)) % tuple(rows.ravel().tolist())
        return ("".join(f"{line}\n" for line in self._header) + text).encode()

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        need_whole_lines(content)
        lines = content.removeprefix(BYTE_ORDER_MARK).splitlines()[self._skipped :]
        if self._comments in content:
            lines = [self._comment.split(line, maxsplit=1)[0] if self._comments in line else line for line in lines]
        rows = int(np.prod(shape[:-1]))
        numbers = _plain_table(lines, self._delimiter, (rows, shape[-1]))
        if numbers is None:
            numbers = self._table(lines, rows, shape[-1])
        return as_dtype(numbers.reshape(shape), dtype)

    def _table(self, lines: Sequence[bytes], rows: int, columns: int) -> Array:
        """The numbers of a table in any spelling.

        Raises:
            UnreadableOutputError: it is none, or of another size.
        """
        table = [(place, words) for place, line in enumerate(lines, self._skipped + 1) if (words := self._words(line, columns))]
        try:
            numbers = parse_numbers([word for _, words in table for word in words])
        except ValueError as error:
            raise UnreadableOutputError(f"is no table of numbers ({error})") from error
        need_size(len(table), rows, "lines of numbers")
        for place, words in table:
            if len(words) != columns:
                need_size(len(words), columns, f"columns in line {place}")
        return numbers

    def _words(self, line: bytes, columns: int) -> list[bytes]:
        """The numbers of a line, none if it is blank."""
        if self._delimiter is None:
            words = line.split()
            return expand_repeats(words, columns) if b"*" in line else words
        if not line.strip():
            return []
        words = [word.strip() for word in line.split(self._delimiter.encode())]
        return words if words[-1] else words[:-1]


def _header(header: str | Sequence[str] | int, comments: str) -> list[str]:
    """Lines, as they are written."""
    if not isinstance(header, Sequence) and is_integer(header) and header >= 0:
        return [comments] * header
    lines = header.splitlines() if isinstance(header, str) else header
    if not isinstance(lines, Sequence) or not all(isinstance(line, str) and len(line.splitlines()) < 2 for line in lines):
        raise ConfigError(f"header must be lines of text, or a number of lines, 0 or more, not {header!r}.")
    return list(lines)


#: Control characters that are white space to Python's text, and not to its bytes.
_SEPARATORS = (b"\x1c", b"\x1d", b"\x1e", b"\x1f")


def _plain_table(lines: Sequence[bytes], delimiter: str | None, shape: tuple[int, int]) -> Array | None:
    """The numbers of a table as nearly all are, which numpy reads many times as fast; None if it is another."""
    if not shape[0] or not any(line.strip() for line in lines):  # loadtxt warns of nothing
        return None
    content = b"\n".join(lines)
    if not content.isascii() or any(separator in content for separator in _SEPARATORS):  # they part columns for loadtxt
        return None
    text = content.translate(EXPONENT_LETTERS).decode()
    try:
        table = np.loadtxt(text.split("\n"), np.float64, comments=None, delimiter=delimiter, ndmin=2)
    except ValueError:
        return None
    return table if table.shape == shape else None


def _comment(mark: bytes, delimiter: str | None) -> re.Pattern[bytes]:
    """A comment's beginning: within a word, as in 1.#QNAN, there is none."""
    start = rb"(?<!\S)" if delimiter is None else rb"(?:(?<!\S)|(?<=%s))" % re.escape(delimiter.encode())
    return re.compile(start + re.escape(mark))


def need_whole_lines(content: bytes) -> None:
    """Refuse text whose last line does not end: digits may be missing, and nothing else would tell.

    Raises:
        UnreadableOutputError: it does not.
    """
    if content and not content.endswith(b"\n"):
        raise UnreadableOutputError("ends within a line: it is truncated, or its last line needs a line break")
