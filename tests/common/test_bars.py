"""Progress where there is no terminal: a line in a notebook that changes, lines now and then in a log."""

from __future__ import annotations

import sys
from io import StringIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress as RichProgress

from deepzero_sim.common import bars
from deepzero_sim.common.pool_rate import PoolRate
from deepzero_sim.training.progress import Progress


class Shown:
    """What a notebook shows of one output."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> Shown:
        assert raw and display_id and not self.texts  # one output, which changes
        self.texts.append(data["text/plain"])
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.texts.append(data["text/plain"])


def test_a_notebook_has_one_line_that_changes_and_ends_with_the_last_update(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown()
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=shown.display))  # type: ignore[arg-type]
    monkeypatch.setattr(bars.console, "is_jupyter", True)
    with bars.training_bar("training NON", 500) as report:
        for step in range(1, 501):
            report(Progress(step=step, loss=0.5, solver_steps=4 * step))
    assert shown.texts[0] == "training NON: 500 in all"
    assert shown.texts[-1].startswith("training NON: 500 of 500, loss 5.0e-01, 2k solver steps, after ")
    assert len(shown.texts) < 20  # five a second at most


def test_a_real_notebook_shows_progress_and_results() -> None:
    """With the packages of a notebook, which are no part of the development's."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    code = (
        "from deepzero_sim.common.bars import training_bar\nfrom deepzero_sim.training.progress import Progress\n"
        "with training_bar('training NON', 3) as report:\n    for step in (1, 2, 3):\n"
        "        report(Progress(step=step, loss=0.5))"
    )
    notebook: Any = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=120).execute()
    (output,) = notebook.cells[0].outputs
    assert output.data["text/plain"].startswith("training NON: 3 of 3, loss 5.0e-01")


def times_left(seconds: list[float]) -> list[float | None]:
    """Time left after each of the things that take so long, by a clock of its own."""
    rate, now, found = bars.Rate(len(seconds)), 0.0, []
    for done, one in enumerate(seconds, start=1):
        now += one
        rate.add(done, now)
        found.append(rate.left(now))
    return found


@pytest.mark.parametrize("slow", [[60.0], [30.0, 20.0], [10.0] * 5, [1.0]])
def test_slow_first_calls_are_forgotten_by_the_time_left(slow: list[float]) -> None:
    seconds = slow + [1.0] * 1000
    found = times_left(seconds)
    assert found[:2] == [None, None]  # not even the second call tells
    for done in range(2 * len(slow) + 2, len(seconds)):
        left, true = found[done - 1], sum(seconds[done:])
        assert left is not None and left == pytest.approx(true, rel=0.25)
    if len(slow) == 1:  # the first call never counts
        assert found[2] == pytest.approx(len(seconds) - 3)


def test_the_time_left_follows_work_that_grows_slower() -> None:
    found = times_left([1.0] * 100 + [5.0] * 300)
    assert found[99] == pytest.approx(300) and found[250] == pytest.approx(5 * 149)
    assert found[-1] == 0.0


def test_the_time_left_of_a_resumed_run_is_that_of_this_start() -> None:
    rate = bars.Rate(1000)
    for done in range(501, 521):
        rate.add(done, 100.0 + 2.0 * done)
    now = 100.0 + 2.0 * 520
    assert rate.left(now) == pytest.approx(2.0 * 480)
    assert rate.left(now + 1.5) == pytest.approx(2.0 * 480 - 1.5)  # it runs down while the next one is awaited
    assert rate.left(now + 1000.0) == pytest.approx(2.0 * 479)  # and not to nothing


def pool_times(durations: list[float], size: int, workers: int, start: float = 0.0) -> list[tuple[float, float | None]]:
    """True and estimated time left when each simulation is reported, of batches that workers take in turn, on a fake clock."""
    free, ends = [start] * workers, []
    for duration in durations:
        worker = free.index(min(free))
        free[worker] = min(free) + duration
        ends.append(free[worker])
    rate, done, found = PoolRate(workers), 0, []
    rate.begin([size] * len(durations), 0, 0.0)
    for end in sorted(ends):
        for place in range(size):  # a batch is reported simulation by simulation, within a moment
            done += 1
            rate.add(done, end + 1e-4 * place)
            found.append((max(ends) - end, rate.left(end + 1e-4 * place)))
    return found


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("batches", [2, 3, 5, 12])
def test_the_time_left_counts_batches_in_progress(batches: int, workers: int) -> None:
    random = np.random.default_rng(0)
    found = pool_times(list(20.0 * random.uniform(0.95, 1.05, batches)), 4, workers)
    for true, left in found:  # amid a burst, too
        assert left is not None and left == pytest.approx(true, rel=0.15, abs=0.11 * 20.0)
    first = found[3]
    assert first[1] is not None and (batches <= workers or first[1] > 18.0)  # never nothing while a batch has not begun
    assert found[-1][1] == 0.0


def test_a_start_that_takes_long_is_forgotten_and_a_batch_that_takes_longer_is_not_over() -> None:
    found = pool_times([10.0, 10.1] * 10, 1, 2, start=60.0)
    assert found[0][1] == pytest.approx(9 * 70.0, rel=0.1)  # from the first alone, it cannot be told
    assert found[5][1] == pytest.approx(found[5][0], rel=0.02) and found[5][0] > 60
    rate = PoolRate(1)
    rate.begin([4, 4], 0, 0.0)
    rate.add(4, 10.0)
    assert rate.left(12.0) == pytest.approx(8.0) and rate.left(60.0) == pytest.approx(5.0)


def test_simulations_that_were_there_say_nothing_of_the_time_left() -> None:
    rate = PoolRate(2)
    for done in range(1, 5):
        rate.add(done, 0.0)
    rate.begin([4, 4], 4, 0.01)
    assert rate.left(1.0) is None
    rate.add(8, 20.01)
    assert rate.left(20.01) == pytest.approx(0.0, abs=2.1)  # the other worker has the last batch
    lines: list[float | None] = []
    for now in (25.0, 30.0):
        lines.append(rate.left(now))
    assert all(left is not None and left > 0 for left in lines)


def test_lines_of_a_log_say_it_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Console(width=200, file=(said := StringIO()))
    now = [0.0]
    monkeypatch.setattr(bars, "console", shown)
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    with bars.pool_bar("simulating", 16, 2) as report:
        for place, at in enumerate([0.0] * 4 + [20.0] * 4 + [20.5] * 4 + [40.0] * 4):
            if place == 4:
                report.expect([4, 4, 4])
            now[0] = at
            report("made")
    lines = [line.split(": ")[1] for line in said.getvalue().splitlines()]
    assert lines[:3] == ["16 in all", "2 of 16", "4 of 16"]
    assert lines[3:7] == ["6 of 16, 20 s left", "8 of 16, 20 s left", "10 of 16, 20 s left", "12 of 16, 20 s left"]
    assert lines[-1] == "16 of 16, after 40 s"


def test_a_bar_at_a_terminal_has_no_estimate_before_it_is_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Console(force_terminal=True, width=80, file=StringIO())
    monkeypatch.setattr(bars, "console", shown)
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    said = []
    with bars.training_bar("training NON", 100) as report:
        for step in range(1, 101):
            now[0] += 60.0 if step == 1 else 1.0
            report(Progress(step=step, loss=0.5, solver_steps=4 * step))
            if step in (1, 50):
                said.append(" ".join("".join(part.text for part in shown.render(bars_of(report))).split()))
    assert said[0].endswith("- left") and said[1].endswith("50 s left")


def bars_of(report: Any) -> Any:
    """The bar that a function reports to."""
    (progress,) = (cell.cell_contents for cell in report.__closure__ if isinstance(cell.cell_contents, RichProgress))
    return progress.get_renderable()
