"""Columns of numbers as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from deepzero_sim.connectors.formats.base import Content, Format, as_dtype, need_size
from deepzero_sim.errors import ConfigError, UnreadableOutputError
from deepzero_sim.types import Array, is_whole

#: As many digits as give the same bits again, by bytes of a number.
SAME_BITS = {4: "%.8e", 8: "%.16e"}

#: Characters that cannot stand between numbers.
OF_NUMBERS = frozenset("0123456789+-.eEinfaINFA\n\r")


class Text(Format):
    """`text`: a line for each point, the last axis running fastest, with a column for each channel.

    Args:
        delimiter: between columns; white space if None.
        comments: what comments begin with, to the end of the line.
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
        if not isinstance(comments, str) or not comments:
            raise ConfigError(f"comments must be text that they begin with, not {comments!r}.")
        if delimiter is not None and (not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in OF_NUMBERS):
            raise ConfigError(f"delimiter must be one character that no number holds and that ends no line, not {delimiter!r}.")
        self._delimiter, self._comments, self._header = delimiter, comments, _header(header, comments)
        if skiprows is not None and (not is_whole(skiprows) or skiprows < 0):
            raise ConfigError(f"skiprows must be a number of lines, 0 or more, not {skiprows!r}.")
        self._skipped = len(self._header) if skiprows is None else int(skiprows)

    def encode(self, values: Array) -> Content:
        between = self._delimiter or " "
        line = between.join([SAME_BITS[values.dtype.itemsize]] * values.shape[-1]) + "\n"
        rows = values.reshape(-1, values.shape[-1])
        text = (line * len(rows)) % tuple(rows.ravel().tolist())
        return ("".join(f"{line}\n" for line in self._header) + text).encode()

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        try:
            lines = whole_lines(content)[self._skipped :]
            filled = any(line.partition(self._comments)[0].strip() for line in lines)  # loadtxt only warns of nothing
            table = (
                np.loadtxt(lines, np.float64, comments=self._comments, delimiter=self._delimiter, ndmin=2)
                if filled
                else np.empty((0, shape[-1]))
            )
        except (ValueError, UnicodeDecodeError) as error:
            raise UnreadableOutputError(f"is no table of numbers ({error})") from error
        rows = int(np.prod(shape[:-1]))
        need_size(len(table), rows, "lines of numbers")
        need_size(table.shape[1], shape[-1], "columns")
        return as_dtype(table.reshape(shape), dtype)


def _header(header: str | Sequence[str] | int, comments: str) -> list[str]:
    """Lines, as they are written."""
    if not isinstance(header, Sequence) and is_whole(header) and header >= 0:
        return [comments] * header
    lines = header.splitlines() if isinstance(header, str) else header
    if not isinstance(lines, Sequence) or not all(isinstance(line, str) and len(line.splitlines()) < 2 for line in lines):
        raise ConfigError(f"header must be lines of text, or a number of lines, 0 or more, not {header!r}.")
    return list(lines)


def whole_lines(content: bytes) -> list[str]:
    """The lines of a text file.

    Raises:
        UnreadableOutputError: the last one does not end: digits may be missing, and nothing else would tell.
        UnicodeDecodeError: it is no text in UTF-8.
    """
    if content and not content.endswith(b"\n"):
        raise UnreadableOutputError("ends within a line: it is truncated, or its last line needs a line break")
    return content.decode().splitlines()
