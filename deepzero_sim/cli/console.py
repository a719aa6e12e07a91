"""Progress bars and tables for a person at a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.cells import cell_len
from rich.table import Table

from deepzero_sim.common.bars import console, pool_bar, progress_bar, training_bar

__all__ = ["console", "pool_bar", "print_table", "progress_bar", "training_bar"]


def print_table(rows: Sequence[Sequence[str]], words: Collection[int] = (0,)) -> None:
    """Print a table whose first row is its head; columns that the terminal has no room for follow in a second table.

    No word is broken, unless it alone is wider than the terminal.

    Args:
        rows: Rows of cells.
        words: Columns that hold words; numbers in all others end below each other.
    """
    columns = list(zip(*rows, strict=True))
    least = [max(cell_len(word) for cell in column for word in (cell.split() or [""])) for column in columns]
    for chosen in _columns_that_fit(least, console.width):
        table = Table()
        widths = _widths([columns[i] for i in chosen], [least[i] for i in chosen], console.width)
        for i, width in zip(chosen, widths, strict=True):
            table.add_column(columns[i][0], width=width, justify="left" if i in words else "right", overflow="fold")
        for row in rows[1:]:
            table.add_row(*(row[i] for i in chosen))
        console.print(table)


#: Columns of a terminal that a column takes besides its text, and a table besides its columns.
_BESIDES_COLUMN, _BESIDES_TABLE = 3, 1


def _columns_that_fit(least: Sequence[int], room: int) -> list[list[int]]:
    """Divide columns among tables that fit; each begins with the first one, which names the rows."""
    first = _BESIDES_TABLE + _BESIDES_COLUMN + least[0]
    tables, used = [[0]], first
    for i, width in enumerate(least[1:], start=1):
        if len(tables[-1]) > 1 and used + _BESIDES_COLUMN + width > room:
            tables.append([0])
            used = first
        tables[-1].append(i)
        used += _BESIDES_COLUMN + width
    return tables


def _widths(columns: Sequence[Sequence[str]], least: Sequence[int], room: int) -> list[int]:
    """Give columns the width of their longest words, and what room is left to those that would take more, evenly."""
    most = [max(map(cell_len, column)) for column in columns]
    widths, left = list(least), room - _BESIDES_TABLE - sum(width + _BESIDES_COLUMN for width in least)
    if left < 0:  # a single word is too long
        widths[widths.index(max(widths))] = max(1, max(widths) + left)
    while left > 0 and widths != most:
        for i in range(len(widths)):
            if left > 0 and widths[i] < most[i]:
                widths[i], left = widths[i] + 1, left - 1
    return widths
