"""Progress of long work: a bar at a terminal, a line that changes in a notebook, a line now and then in a log."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from deepzero_sim.common.pool_rate import PoolRate

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

#: Things that must be done for an estimate of the time left, and times that it remembers.
FEWEST_DONE, MOST_MARKS = 3, 64


class Rate:
    """Estimate of the time left: from the later half of what was done, so that slow first calls are soon forgotten.

    First calls compile, import, start workers and fill caches. There is no estimate until some things were done after the
    first one.

    Args:
        total: Number of things to do.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._marks: list[tuple[int, float]] = []

    def add(self, done: int, now: float) -> None:
        """Note how many things are done at a time, in seconds."""
        if not self._marks or done > self._marks[-1][0]:
            self._marks.append((done, now))
        if len(self._marks) > MOST_MARKS:  # every other one is enough; the first and the last one stay
            self._marks = [*self._marks[:-1:2], self._marks[-1]]

    def left(self, now: float) -> float | None:
        """Return the seconds left at a time; None where that cannot be told yet."""
        if not self._marks or self._marks[-1][0] - self._marks[0][0] < FEWEST_DONE - 1:
            return None
        done, at = self._marks[-1]
        middle = (self._marks[0][0] + done) / 2
        begun, since = next(mark for mark in self._marks[::-1] if mark[0] <= middle)
        one = (at - since) / (done - begun)
        return max(0.0, one * (self._total - done) - min(now - at, one))


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
        task = progress.add_task(title, total=updates, loss="-", spent="", rate=Rate(updates))
        yield lambda now: _advance(progress, task, now.step, loss=f"{now.loss:.1e}", spent=f"{counted(now)},")


def _advance(progress: Progress, task: TaskID, done: int, **fields: Any) -> None:
    """Show that so many things are done."""
    progress.tasks[task].fields["rate"].add(done, time.monotonic())
    progress.update(task, completed=done, **fields)


def _log(title: str, total: int, rate: Rate | PoolRate | None = None) -> _Log:
    return _NotebookLine(title, total, rate) if console.is_jupyter else _Log(title, total, rate)


class _Log:
    """Lines now and then in place of a bar, where the output is no terminal.

    Args:
        title: Title of the work.
        total: Number of things to do.
        rate: Estimate of the time left; None for that of things done one after the other.
    """

    def __init__(self, title: str, total: int, rate: Rate | PoolRate | None = None) -> None:
        self._title, self._total = title, total
        self._begun = self._said = time.monotonic()
        self._rate = Rate(total) if rate is None else rate
        self._last: int | None = None
        self._print(f"{title}: {total} in all")

    def report(self, done: int, words: str = "") -> None:
        """Print a line if one is due."""
        now = time.monotonic()
        self._rate.add(done, now)
        if self._last is None:
            self._last = done - 1  # done before this start
        if self._is_due(done, now):
            self._said, self._last = now, done
            parts = [f"{done} of {self._total}", *([words] if words else []), *self._left(done, now)]
            self._print(f"{self._title}: {', '.join(parts)}")

    def _is_due(self, done: int, now: float) -> bool:
        return now - self._said >= LOG_SECONDS or done - (self._last or 0) >= LOG_PART * self._total or done >= self._total

    def _left(self, done: int, now: float) -> list[str]:
        if done >= self._total:
            return [f"after {_duration(now - self._begun)}"]
        left = self._rate.left(now)
        return [] if left is None else [f"{_duration(left)} left"]

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
    """Show a bar of things done one after the other; yields what to call after each."""
    done = itertools.count(1)
    with _shown(title, total, Rate(total)) as show:
        yield lambda _: show(next(done))


class PoolReport:
    """Report on things that workers do side by side, in batches: to be called after each thing.

    Args:
        show: Function that shows the number of things done.
        rate: Estimate of the time left.
    """

    def __init__(self, show: Callable[[int], None], rate: PoolRate) -> None:
        self._show, self._rate, self._done = show, rate, 0

    def __call__(self, word: str) -> None:
        self._done += 1
        self._show(self._done)

    def expect(self, sizes: Sequence[int]) -> None:
        """Note that batches of these sizes begin now."""
        self._rate.begin(sizes, self._done, time.monotonic())


@contextmanager
def pool_bar(title: str, total: int, workers: int) -> Iterator[PoolReport]:
    """Show a bar of things that workers do side by side; yields what to call after each, and before they begin.

    Args:
        title: Title of the work.
        total: Number of things to do.
        workers: Number of workers.
    """
    rate = PoolRate(workers)
    with _shown(title, total, rate) as show:
        yield PoolReport(show, rate)


@contextmanager
def _shown(title: str, total: int, rate: Rate | PoolRate) -> Iterator[Callable[[int], None]]:
    """Show a bar, or lines in its place; yields what to call with the number of things done."""
    if not console.is_terminal:
        yield _log(title, total, rate).report
        return
    with _bar() as progress:
        task = progress.add_task(title, total=total, rate=rate)
        yield lambda done: _advance(progress, task, done)


class _TimeLeft(ProgressColumn):
    """Time left, as a task's rate tells it."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Write it; a dash where it cannot be told yet."""
        left = 0.0 if task.finished else task.fields["rate"].left(time.monotonic())
        return Text("-" if left is None else _duration(left), style="progress.remaining")


def _bar(*fields: str) -> Progress:
    """Make a bar that fits into 80 columns."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=8),
        MofNCompleteColumn(),
        *map(TextColumn, fields),
    )
    return Progress(*columns, _TimeLeft(), TextColumn("left"), console=console)
