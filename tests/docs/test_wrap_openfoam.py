"""The page that wraps an OpenFOAM case, run as its reader would run it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from snippets import run_page

PAGE = Path(__file__).parents[2] / "docs" / "wrap" / "openfoam.md"
TUTORIAL = Path("/usr/share/doc/openfoam-examples/examples/incompressible/icoFoam/cavity/cavity")

pytestmark = pytest.mark.skipif(
    shutil.which("icoFoam") is None or not TUTORIAL.is_dir(),
    reason="OpenFOAM is not installed with its tutorials: apt-get install openfoam openfoam-examples",
)


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path) -> None:
    lid = run_page(PAGE, tmp_path)["moved"][:, 0, -1].mean(axis=-1)
    assert 0.1 < lid[0] < lid[1] < 1
    assert np.isfinite(lid).all()
