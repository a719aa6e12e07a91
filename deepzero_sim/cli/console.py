"""Progress bars and tables for a person at a terminal."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from deepzero_sim.training.progress import Progress as TrainingProgress

console = Console(markup=False)  # names of folders may look like markup


#: Seconds, and part of all that is to be done, after which a log gets a line.
LOG_SECONDS, LOG_PART = 30.0, 0.1


@contextmanager
def training_bar(
    title: str, updates: int, spent: Callable[[TrainingProgress], int] | None = None, *, queries: bool = False
) -> Iterator[Callable[[TrainingProgress], None]]:
    """Show a bar with loss, solver steps or queries so far, and time left; yields what to call after every update.

    Args:
        title: Title of the bar.
        updates: Number of updates.
        spent: Function that counts solver steps; those of the updates alone if None.
        queries: True to show queries in place of solver steps.
    """

    def counted(now: TrainingProgress) -> str:
        steps = now.solver_steps if spent is None or queries else spent(now)
        return f"{_short(now.queries)} queries" if queries else f"{_short(steps)} solver steps"

    if not console.is_terminal:
        log = _Log(title, updates)
        yield lambda now: log.report(now.step, f"loss {now.loss:.1e}, {counted(now)}")
        return
    with _bar("loss {task.fields[loss]}", "{task.fields[spent]}") as progress:
        task = progress.add_task(title, total=updates, loss="-", spent="")
        yield lambda now: progress.update(task, completed=now.step, loss=f"{now.loss:.1e}", spent=f"{counted(now)},")


class _Log:
    """Lines now and then in place of a bar, where the output is no terminal.

    Args:
        title: Title of the work.
        total: Number of things to do.
    """

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total = title, total
        self._begun = self._said = time.monotonic()
        self._first: int | None = None  # done before this start
        self._last = 0
        self._print(f"{title}: {total} in all")

    def report(self, done: int, words: str = "") -> None:
        """Print a line if one is due."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._last = done - 1, done - 1
        due = now - self._said >= LOG_SECONDS or done - self._last >= LOG_PART * self._total or done >= self._total
        if due:
            self._said, self._last = now, done
            parts = [f"{done} of {self._total}", *([words] if words else []), self._left(done, now - self._begun)]
            self._print(f"{self._title}: {', '.join(parts)}")

    def _left(self, done: int, seconds: float) -> str:
        if done >= self._total or self._first is None:
            return f"after {_duration(seconds)}"
        return f"{_duration(seconds / (done - self._first) * (self._total - done))} left"

    @staticmethod
    def _print(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False)


def _duration(seconds: float) -> str:
    """Write a time as 8 s, 3 min or 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _short(number: int) -> str:
    """Write a count in three or four characters: 950, 12k, 1.4M."""
    if number < 1000:
        return str(number)
    return f"{number / 1000:.0f}k" if number < 1_000_000 else f"{number / 1_000_000:.1f}M"


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar of things done; yields what to call after each."""
    if not console.is_terminal:
        log, done = _Log(title, total), itertools.count(1)
        yield lambda _: log.report(next(done))
        return
    with _bar() as progress:
        task = progress.add_task(title, total=total)
        yield lambda _: progress.advance(task)


def _bar(*fields: str) -> Progress:
    """Make a bar that fits into 80 columns."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=8),
        MofNCompleteColumn(),
        *map(TextColumn, fields),
    )
    return Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console)


def print_table(rows: Sequence[Sequence[str]], words: Collection[int] = (0,)) -> None:
    """Print a table whose first row is its head; columns that the terminal has no room for follow in a second table.

    No word is broken, unless it alone is wider than the terminal.

    Args:
        rows: Rows of cells.
        words: Columns that hold words; numbers in all others end below each other.
    """
    columns = list(zip(*rows, strict=True))
    least = [max(cell_len(word) for cell in column for word in (cell.split() or [""])) for column in columns]
    for chosen in _fitting_columns(least, console.width):
        table = Table()
        widths = _widths([columns[i] for i in chosen], [least[i] for i in chosen], console.width)
        for i, width in zip(chosen, widths, strict=True):
            table.add_column(columns[i][0], width=width, justify="left" if i in words else "right", overflow="fold")
        for row in rows[1:]:
            table.add_row(*(row[i] for i in chosen))
        console.print(table)


#: Columns of a terminal that a column takes besides its text, and a table besides its columns.
_BESIDES_COLUMN, _BESIDES_TABLE = 3, 1


def _fitting_columns(least: Sequence[int], room: int) -> list[list[int]]:
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
