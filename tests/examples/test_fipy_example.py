"""The FiPy example: a real finite-volume package as a solver, held to the contract and run in short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from third_party import ROOT, Example, is_corrected_towards_itself, keeps_the_contract, runs_in_short

from deepzero_sim.solver.stepping import checked_step

# FiPy 4.0.3 imports numpy.core
pytestmark = pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Example:
    monkeypatch.chdir(ROOT)  # the recipes' paths start there
    return Example("fipy")


def test_the_contract_is_kept(example: Example) -> None:
    keeps_the_contract(example)


def test_water_is_neither_made_nor_lost(example: Example) -> None:
    states, params = example.states()
    advanced = checked_step(example.solver(), states, params)
    np.testing.assert_allclose(advanced.mean(axis=-1), states.mean(axis=-1), rtol=1e-10)
    assert 0 <= advanced.min() <= advanced.max() <= 1


def test_the_truth_is_the_same_equation(example: Example) -> None:
    is_corrected_towards_itself(example)


@pytest.mark.slow
def test_the_recipes_run(example: Example, tmp_path: Path) -> None:
    runs_in_short(example, tmp_path)
