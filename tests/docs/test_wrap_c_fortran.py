"""The page on C and Fortran, run from top to bottom."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from snippets import run_page

from deepzero_sim.cli.experiment import run_settings

PAGE = Path(__file__).parents[2] / "docs" / "wrap" / "c_fortran.md"


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path) -> None:
    if missing := [name for name in ("cc", "gfortran") if shutil.which(name) is None]:
        pytest.skip(f"there is no {' and no '.join(missing)}")
    run_page(PAGE, tmp_path)
    assert run_settings(tmp_path / "runs" / "c")["method"] == "SolverLayer"
    assert (tmp_path / "runs" / "c" / "report.md").exists()
    (kept,) = (tmp_path / "kept").iterdir()  # the failure that the page shows
    assert kept.name.startswith("burgers-") and "usage: burgers" in (kept / "stderr.log").read_text()
