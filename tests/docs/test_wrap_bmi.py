"""The page on wrapping a component with the Basic Model Interface, as its reader runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from snippets import run_page

PAGE = Path(__file__).parents[2] / "docs" / "wrap" / "bmi.md"


@pytest.mark.slow
def test_the_page_ends_with_a_corrected_river(tmp_path: Path) -> None:
    names = run_page(PAGE, tmp_path)
    assert names["solver"].spec.channel_units == ("kg m-3",)
    methods = json.loads((tmp_path / "runs" / "river" / "results.json").read_text())["methods"]
    assert methods["DETACHED"]["mae"] < 0.5 * methods["SRC"]["mae"]
