"""Trainings through a solver of which a fifth of the steps fail: they converge, and every step is counted."""

from __future__ import annotations

import pytest

from deepzero_sim.benchmarks.failing_steps import METHODS, train


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_it_converges_and_every_step_is_counted(name: str) -> None:
    found = train(name, 0.2, 20_000)
    assert found["error"] < 0.6
    assert found["solver steps"] == found["asked for"] >= 20_000
    assert found["failures"]["exit-code dropped"] > 50 and found["failures"]["exit-code retried"] > 500


def test_of_a_reliable_solver_nothing_fails() -> None:
    found = train("GaussNewton", 0.0, 8000)
    assert found["failures"] == {} and found["solver steps"] == found["asked for"] and found["error"] < 0.2
