"""Pages of the documentation whose Python stands by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from snippets import run_page

DOCS = Path(__file__).parents[2] / "docs"


def test_gradients_pass_the_layer_of_the_page(tmp_path: Path) -> None:
    names = run_page(DOCS / "training" / "solver_layer.md", tmp_path)
    assert names["network"].weight.grad.abs().sum() > 0
    assert names["layer"].backward_steps > 0


@pytest.mark.slow
def test_a_network_without_a_solver_has_a_sparse_gradient(tmp_path: Path) -> None:
    estimate = run_page(DOCS / "classification" / "networks.md", tmp_path)["estimate"]
    assert np.isfinite(estimate.loss)
    assert estimate.grads
