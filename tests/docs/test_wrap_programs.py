"""The pages on programs, run in their order: they continue each other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from snippets import run_pages

from deepzero_sim.training.runs.trained_run import run_settings

WRAP = Path(__file__).parents[2] / "docs" / "wrap"
PAGES = [WRAP / f"{name}.md" for name in ("programs", "fortran", "files", "program_failures", "dakota")]


@pytest.mark.slow
def test_the_pages_run(tmp_path: Path) -> None:
    if missing := [name for name in ("cc", "gfortran") if shutil.which(name) is None]:
        pytest.skip(f"there is no {' and no '.join(missing)}")
    run_pages(PAGES, tmp_path)
    assert run_settings(tmp_path / "runs" / "c").method == "SolverLayer"
    assert (tmp_path / "runs" / "c" / "report.md").exists()
    (kept,) = (tmp_path / "runs" / "kept").iterdir()  # the failure that the page shows
    assert kept.name.startswith("burgers-") and "usage: burgers" in (kept / "stderr.log").read_text()
