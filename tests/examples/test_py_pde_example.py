"""The py-pde example: a real finite-difference package as a solver, held to the contract and run in short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from third_party import ROOT, Example, is_corrected_towards_itself, keeps_the_contract, runs_in_short

from deepzero_sim.solver.stepping import checked_step


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Example:
    monkeypatch.chdir(ROOT)  # the recipes' paths start there
    return Example("py_pde")


def test_the_contract_is_kept(example: Example) -> None:
    keeps_the_contract(example)


def test_nothing_grows_without_v(example: Example) -> None:
    """Without v, `1 - u` decays as `exp(-F t)`, which Euler steps follow."""
    states, params = example.states()
    states[:, 0], states[:, 1] = 0.5, 0.0
    advanced = checked_step(example.solver(), states, params)
    expected = 1 - 0.5 * (1 - params[:, 0]) ** 5
    np.testing.assert_allclose(advanced[:, 0], np.broadcast_to(expected[:, None, None], advanced[:, 0].shape), rtol=1e-12)
    assert not advanced[:, 1].any()


def test_the_truth_is_the_same_equation(example: Example) -> None:
    is_corrected_towards_itself(example)


@pytest.mark.slow
def test_the_recipes_run(example: Example, tmp_path: Path) -> None:
    runs_in_short(example, tmp_path)
