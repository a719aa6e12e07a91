"""The pages on wrapping a component with the Basic Model Interface, as their reader runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from snippets import run_pages

WRAP = Path(__file__).parents[2] / "docs" / "wrap"
PAGES = [WRAP / "bmi.md", WRAP / "bmi_details.md"]


@pytest.mark.slow
def test_the_pages_end_with_a_corrected_river(tmp_path: Path) -> None:
    names = run_pages(PAGES, tmp_path)
    assert names["solver"].spec.channel_units == ("kg m-3",)
    methods = json.loads((tmp_path / "runs" / "river" / "results.json").read_text())["methods"]
    assert methods["DETACHED"]["mae"] < 0.5 * methods["SRC"]["mae"]
