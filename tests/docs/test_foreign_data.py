"""The page on data of other programs, as its reader runs it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from snippets import run_page

from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.fitting.restriction import RESTRICTIONS
from deepzero_sim.datasets.foreign import FORMATS
from deepzero_sim.datasets.source import DataSource

PAGE = Path(__file__).parents[2] / "docs" / "training" / "foreign_data.md"


@pytest.mark.slow
def test_the_page_ends_with_an_evaluated_corrector(tmp_path: Path) -> None:
    run_page(PAGE, tmp_path)
    assert trajectories.load(tmp_path / "looked_at.h5").frames.shape == (6, 41, 1, 64)
    assert trajectories.load(tmp_path / "fitted.h5").frames.shape == (6, 21, 1, 16)
    methods = json.loads((tmp_path / "runs" / "tracer" / "results.json").read_text())["methods"]
    assert {"SRC", "NON"} <= set(methods)


def test_the_page_names_every_format_restriction_and_key() -> None:
    text = PAGE.read_text(encoding="utf-8")
    keys = [field.name for field in dataclasses.fields(DataSource)]
    assert [name for name in (*FORMATS, *RESTRICTIONS, *keys) if not re.search(rf"`{re.escape(name)}`", text)] == []
