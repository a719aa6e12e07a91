"""Progress bars and tables for a person at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from deepzero_sim.training.progress import Progress as TrainingProgress

console = Console(markup=False)  # names of folders may look like markup


@contextmanager
def training_bar(title: str, updates: int, *, queries: bool = False) -> Iterator[Callable[[TrainingProgress], None]]:
    """Show a bar with loss, solver steps or queries so far, and time left; yields what to call after every update."""
    with _bar("loss {task.fields[loss]}", "{task.fields[spent]}") as progress:
        task = progress.add_task(title, total=updates, loss="-", spent="")

        def report(now: TrainingProgress) -> None:
            spent = f"{_short(now.queries)} queries," if queries else f"{_short(now.solver_steps)} solver steps,"
            progress.update(task, completed=now.step, loss=f"{now.loss:.1e}", spent=spent)

        yield report


def _short(number: int) -> str:
    """Write a count in three or four characters: 950, 12k, 1.4M."""
    if number < 1000:
        return str(number)
    return f"{number / 1000:.0f}k" if number < 1_000_000 else f"{number / 1_000_000:.1f}M"


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar of things done; yields what to call after each."""
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
