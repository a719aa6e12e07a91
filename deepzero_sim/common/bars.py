"""Progress of long work: a bar at a terminal, a line that changes in a notebook, a line now and then in a log."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(markup=False)  # names of folders may look like markup


class TrainingProgress(Protocol):
    """Progress of a training, as far as a bar shows it."""

    @property
    def step(self) -> int:
        """Number of updates done."""

    @property
    def loss(self) -> float:
        """Loss of the last batch."""

    @property
    def queries(self) -> int:
        """Number of losses asked for."""

    @property
    def solver_steps(self) -> int:
        """Number of states advanced by one step."""


#: Seconds, and part of all that is to be done, after which a log gets a line.
LOG_SECONDS, LOG_PART = 30.0, 0.1

#: Seconds after which the line in a notebook changes.
NOTEBOOK_SECONDS = 0.2


@contextmanager
def training_bar(
    title: str, updates: int, spent: Callable[[Any], int] | None = None, *, queries: bool = False
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
        log = _log(title, updates)
        yield lambda now: log.report(now.step, f"loss {now.loss:.1e}, {counted(now)}")
        return
    with _bar("loss {task.fields[loss]}", "{task.fields[spent]}") as progress:
        task = progress.add_task(title, total=updates, loss="-", spent="")
        yield lambda now: progress.update(task, completed=now.step, loss=f"{now.loss:.1e}", spent=f"{counted(now)},")


def _log(title: str, total: int) -> _Log:
    return _NotebookLine(title, total) if console.is_jupyter else _Log(title, total)


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
        if self._is_due(done, now):
            self._said, self._last = now, done
            parts = [f"{done} of {self._total}", *([words] if words else []), self._left(done, now - self._begun)]
            self._print(f"{self._title}: {', '.join(parts)}")

    def _is_due(self, done: int, now: float) -> bool:
        return now - self._said >= LOG_SECONDS or done - self._last >= LOG_PART * self._total or done >= self._total

    def _left(self, done: int, seconds: float) -> str:
        if done >= self._total or self._first is None:
            return f"after {_duration(seconds)}"
        return f"{_duration(seconds / (done - self._first) * (self._total - done))} left"

    def _print(self, line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False)


class _NotebookLine(_Log):
    """One line below the cell of a notebook, which changes: it needs no widgets, and stays when the notebook is saved."""

    _shown: Any = None

    def _is_due(self, done: int, now: float) -> bool:
        return now - self._said >= NOTEBOOK_SECONDS or done >= self._total

    def _print(self, line: str) -> None:
        if self._shown is None:
            self._shown = import_module("IPython.display").display({"text/plain": line}, raw=True, display_id=True)
        else:
            self._shown.update({"text/plain": line}, raw=True)


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
        log, done = _log(title, total), itertools.count(1)
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
