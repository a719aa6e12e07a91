"""Columns of numbers as text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from deepzero_sim.common.requirements import Words, is_count, require
from deepzero_sim.common.types import Array, is_integer
from deepzero_sim.connectors.formats.base import Content, Format, as_dtype, require_content, require_size
from deepzero_sim.connectors.formats.numbers import EXPONENT_LETTERS, expand_repeats, parse_numbers
from deepzero_sim.errors import ConfigError, UnreadableOutputError

#: Most columns of a file of which some are chosen.
MOST_COLUMNS = 1000

#: Number formats with as many digits as give the same bits again, by bytes of a number.
ROUND_TRIP = {4: "%.8e", 8: "%.16e"}

#: Characters that a delimiter cannot be, because numbers and ends of lines have them.
NUMBER_CHARACTERS = frozenset("0123456789+-.eEdDqQinfaINFA\n\r")

#: Beginnings of numbers, which a comment cannot have.
NUMBER_START = re.compile(r"[+-]?\.?|[+-]?\.?\d.*|[+-]?(?:n|na|nan|i|in|inf)", re.IGNORECASE | re.DOTALL)

#: Control characters that are white space in Python's str, but not in its bytes.
_SEPARATORS = (b"\x1c", b"\x1d", b"\x1e", b"\x1f")


class Text(Format):
    """`text`: a line for each point, the last axis running fastest, with a column for each channel.

    Numbers are read as C, Fortran and their runtimes spell them: see :mod:`~deepzero_sim.connectors.formats.numbers`.

    Args:
        delimiter: Character between columns; white space if None. One more at the end of a line is no column.
        comments: Beginning of a comment, which goes on to the end of the line and begins where a number could.
        header: Text before the numbers where a file is written: lines as a list, one text, or a number of empty comments.
        skiprows: Number of lines before the numbers that are skipped where a file is read; as many as `header` has if None.
        usecols: Column that is read, counted from 0 or, below 0, from the end, or a list with one for each channel; all if
            None. The others may hold anything, as long as all lines have the same number. Only for files that are read.

    Raises:
        ConfigError: One of the arguments is not usable.
    """

    columns: ClassVar[bool] = True

    def __init__(
        self,
        delimiter: str | None = None,
        comments: str = "#",
        header: str | Sequence[str] | int = 0,
        skiprows: int | None = None,
        usecols: int | Sequence[int] | None = None,
    ) -> None:
        _require_marks(comments, delimiter)
        self._delimiter = None if delimiter == " " else delimiter
        self._comments, self._header = comments.strip().encode(), _header_lines(header, comments)
        self._comment = _comment_pattern(self._comments, self._delimiter)
        require(skiprows is None or is_count(skiprows, 0), "skiprows must be a number of lines, 0 or more", skiprows)
        self._skipped = len(self._header) if skiprows is None else int(skiprows)
        self._chosen = None if usecols is None else _chosen_columns(usecols)

    def encode(self, values: Array) -> Content:
        if self._chosen is not None:
            raise ConfigError("usecols chooses columns of a file that is read, but this one is written: leave it out there.")
        between = self._delimiter or " "
        line = between.join([ROUND_TRIP[values.dtype.itemsize]] * values.shape[-1]) + "\n"
        rows = values.reshape(-1, values.shape[-1])
        text = (line * len(rows)) % tuple(rows.ravel().tolist())
        return ("".join(f"{line}\n" for line in self._header) + text).encode()

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        # digits may be missing from a last line that does not end, and nothing else would tell
        ends = not content or content.endswith(b"\n")
        require_content(ends, "ends within a line: it is truncated, or its last line needs a line break")
        lines = content.removeprefix(codecs.BOM_UTF8).splitlines()[self._skipped :]
        if self._comments in content:
            lines = [self._comment.split(line, maxsplit=1)[0] if self._comments in line else line for line in lines]
        rows = int(np.prod(shape[:-1]))
        if self._chosen is not None:
            lines = self._choose(lines, shape[-1])
        numbers = _parse_plain_table(lines, self._delimiter, (rows, shape[-1]))
        if numbers is None:
            numbers = self._parse_table(lines, rows, shape[-1])
        return as_dtype(numbers.reshape(shape), dtype)

    def largest(self, values: int) -> int:
        return super().largest(values) * (1 if self._chosen is None else MOST_COLUMNS)

    def _choose(self, lines: Sequence[bytes], columns: int) -> list[bytes]:
        """Leave the chosen columns of every line, and blank lines as they are."""
        chosen = self._chosen or ()
        if len(chosen) != columns:
            raise ConfigError(
                f"usecols must name one column for each of the {columns} numbers that a line gives, not {list(chosen)}: count "
                "them from 0."
            )
        table = [self._words(line, MOST_COLUMNS) for line in lines]
        count = next((len(words) for words in table if words), 0)
        for place, words in enumerate(table, self._skipped + 1):
            require_size(len(words) or count, count, f"columns in line {place}")
        needed = max(column + 1 if column >= 0 else -column for column in chosen)
        require_content(count == 0 or needed <= count, f"has {count} columns, not {needed} as usecols {list(chosen)} needs")
        between = (self._delimiter or " ").encode()
        return [between.join(words[column] for column in chosen) if words else b"" for words in table]

    def _parse_table(self, lines: Sequence[bytes], rows: int, columns: int) -> Array:
        """Read a table of numbers in any spelling."""
        table = [(place, words) for place, line in enumerate(lines, self._skipped + 1) if (words := self._words(line, columns))]
        try:
            numbers = parse_numbers([word for _, words in table for word in words])
        except ValueError as error:
            raise UnreadableOutputError(f"is no table of numbers ({error})") from error
        require_size(len(table), rows, "lines of numbers")
        for place, words in table:
            if len(words) != columns:
                require_size(len(words), columns, f"columns in line {place}")
        return numbers

    def _words(self, line: bytes, columns: int) -> list[bytes]:
        """Split a line into its numbers; none if it is blank."""
        if self._delimiter is None:
            words = line.split()
            return expand_repeats(words, columns) if b"*" in line else words
        if not line.strip():
            return []
        words = [word.strip() for word in line.split(self._delimiter.encode())]
        return words if words[-1] else words[:-1]


def _require_marks(comments: str, delimiter: str | None) -> None:
    distinct = isinstance(comments, str) and comments.strip() and not NUMBER_START.fullmatch(comments.strip())
    require(bool(distinct), "comments must be text that they, but no numbers, begin with", comments)
    if delimiter is None:
        return
    single = isinstance(delimiter, str) and len(delimiter) == 1 and delimiter not in NUMBER_CHARACTERS
    require(single, "delimiter must be one character that no number holds and that ends no line", delimiter)
    apart = not comments.strip().startswith(delimiter)
    require(apart, f"comments must not begin with the delimiter, but are {comments!r}", Words("something else"))


def _chosen_columns(usecols: int | Sequence[int]) -> tuple[int, ...]:
    listed = list(usecols) if isinstance(usecols, Sequence) and not isinstance(usecols, str) else [usecols]
    whole = bool(listed) and all(is_integer(column) and -MOST_COLUMNS <= column < MOST_COLUMNS for column in listed)
    require(whole, "usecols must be a column's number, counted from 0, or a list of them", usecols)
    require(len(set(listed)) == len(listed), "usecols must name each column once", usecols)
    return tuple(int(column) for column in listed if is_integer(column))


def _header_lines(header: str | Sequence[str] | int, comments: str) -> list[str]:
    if not isinstance(header, Sequence) and is_count(header, 0):
        return [comments] * header
    lines = header.splitlines() if isinstance(header, str) else header
    if not isinstance(lines, Sequence) or not all(isinstance(line, str) and len(line.splitlines()) < 2 for line in lines):
        raise ConfigError(f"header must be lines of text, or a number of lines, 0 or more, not {header!r}.")
    return list(lines)


def _comment_pattern(mark: bytes, delimiter: str | None) -> re.Pattern[bytes]:
    """Return the pattern of a comment's beginning: within a word, as in 1.#QNAN, there is none."""
    start = rb"(?<!\S)" if delimiter is None else rb"(?:(?<!\S)|(?<=%s))" % re.escape(delimiter.encode())
    return re.compile(start + re.escape(mark))


def _parse_plain_table(lines: Sequence[bytes], delimiter: str | None, shape: tuple[int, int]) -> Array | None:
    """Read a table as nearly all are, which numpy does many times as fast; None if it is another."""
    if not shape[0] or not any(line.strip() for line in lines):  # loadtxt warns about empty text
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
