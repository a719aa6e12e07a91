"""The page on stages, as its reader runs it."""

from __future__ import annotations

import json
from pathlib import Path

from snippets import run_page

PAGE = Path(__file__).parents[2] / "docs" / "training" / "stages.md"


def test_the_page_ends_with_a_comparison_of_both_stages(tmp_path: Path) -> None:
    run_page(PAGE, tmp_path, shorter={"updates: 200": "updates: 100"})
    methods = json.loads((tmp_path / "runs" / "both" / "results.json").read_text())["methods"]
    assert list(methods) == ["SRC", "NON", "SolverLayer"]
    source, non, through = (methods[name]["mae"] for name in methods)
    assert through < non < source
