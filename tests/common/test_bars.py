"""Progress where there is no terminal: a line in a notebook that changes, lines now and then in a log."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from deepzero_sim.common import bars
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
