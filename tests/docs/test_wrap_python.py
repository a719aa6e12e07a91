"""The page on wrapping a Python solver, as its reader runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from snippets import run_page

WRAP = Path(__file__).parents[2] / "docs" / "wrap"
PAGE = WRAP / "python.md"


def test_the_networks_of_the_page_have_the_scales_of_their_data(tmp_path: Path) -> None:
    names = run_page(WRAP.parent / "training" / "networks.md", tmp_path)
    assert names["network"].state_scale.flatten().tolist() == [110.0]


@pytest.mark.slow
def test_the_page_ends_with_a_corrected_tracer(tmp_path: Path) -> None:
    run_page(PAGE, tmp_path, shorter={"updates=300": "updates=80", "range(200)": "range(50)", "updates: 300": "updates: 100"})
    methods = json.loads((tmp_path / "runs" / "tracer" / "results.json").read_text())["methods"]
    assert methods["DETACHED"]["mae"] < 0.7 * methods["SRC"]["mae"]


def test_the_page_on_packages_runs(tmp_path: Path) -> None:
    run_page(WRAP / "python_packages.md", tmp_path)
