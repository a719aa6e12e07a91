"""Progress bars and tables for a person at a terminal."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
    """Print a table whose first row is its head.

    Args:
        rows: Rows of cells.
        words: Columns that hold words; numbers in all others end below each other.
    """
    head, *body = rows
    table = Table()
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i in words else "right", overflow="fold")  # names that are cut off say little
    for row in body:
        table.add_row(*row)
    console.print(table)
