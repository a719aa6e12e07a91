"""The pages of the first hour, as their readers run them: each ends with a corrector that is much better than the solver."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from snippets import blocks, run_page

from deepzero_sim.cli.main import main

PAGES = Path(__file__).parents[2] / "docs" / "first_hour"

#: Share of the solver's error that the corrector of a page may leave; the pages say 0.07 to 0.18, of longer trainings.
LEFT = 0.4


def share_left(report: Path, method: str = "SolverLayer") -> float:
    """Share of the solver's error that a method leaves, by a report's own numbers."""
    methods = json.loads((report / "results.json").read_text())["methods"]
    return float(methods[method]["mae"] / methods["SRC"]["mae"])


@pytest.mark.slow
def test_a_program_is_corrected_by_its_page(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")
    whole = "train --config solver.yaml --config train.yaml"
    stages = "[{method: NON, updates: 400}, {method: SolverLayer, updates: 30}]"
    run_page(PAGES / "program.md", tmp_path, shorter={whole: f'{whole} --stages "{stages}"'})
    run = tmp_path / "runs" / "first"
    assert share_left(run) < LEFT
    assert {"report.html", "space_time.png", "fields.png"} <= {path.name for path in run.iterdir()}


@pytest.mark.slow
def test_data_of_another_program_train_a_corrector_by_their_page(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    run_page(PAGES / "data.md", tmp_path, shorter={"updates: 1500": "updates: 400", "updates: 200": "updates: 40"})
    report = tmp_path / "runs" / "report"
    assert share_left(report) < LEFT and share_left(report, "NON") < LEFT
    assert (report / "fields.png").exists() and (tmp_path / "runs" / "show" / "burgers" / "report.html").exists()


@pytest.mark.slow
def test_a_torch_loop_trains_a_corrector_by_its_page(tmp_path: Path) -> None:
    coarser = {"512": "128", "32, 16": "32, 4"}  # every program of the page makes its data anew
    run_page(PAGES / "torch_loop.md", tmp_path, shorter={"range(400)": "range(100)", "updates=600": "updates=150", **coarser})
    assert share_left(tmp_path / "runs" / "sound") < LEFT
    assert (tmp_path / "sound.png").exists() and (tmp_path / "sound-corrector" / "config.yaml").exists()


def test_the_check_of_a_torch_loop_is_as_its_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGES / "torch_loop.md"
    (code,) = (block.code for block in blocks(page) if block.title == "sound.py")
    (tmp_path / "sound.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"`deepzero-sim (check [^`]*)`", page.read_text())
    assert main([*shlex.split(command), "--seconds", "3"]) == 0
