"""Frames from a gradient to the solver: few enough to be read in one go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import Burgers, conv_corrector, initial_states, mse

import deepzero_sim as dz
from deepzero_sim.common.types import Array
from deepzero_sim.oracle.ledger import Ledger

#: Most frames from an estimator's `estimate` to a solver's `step`, both included.
MOST_FRAMES = 14


class Watching(Burgers):
    """Burgers, noting the functions on the stack of its latest step."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []

    def step(self, states: Array, params: Array | None = None) -> Array:
        frame: Any = sys._getframe()
        self.stack = []
        while frame is not None:
            self.stack.append(frame.f_code.co_qualname)
            frame = frame.f_back
        return super().step(states, params)


@pytest.mark.parametrize("kept", [False, True], ids=["plain", "with a ledger"])
@pytest.mark.parametrize("estimator", [dz.CGE(1e-3), dz.RGE(1e-3, 4)], ids=["CGE", "RGE"])
def test_a_query_reaches_the_solver_in_few_frames(tmp_path: Path, estimator: dz.CGE | dz.RGE, kept: bool) -> None:
    solver = Watching()
    oracle = dz.LoopOracle(dz.SolverLoop(solver, conv_corrector(), 2), mse)
    batch = (initial_states(2), None, np.zeros((2, 2, *solver.spec.state_shape)))
    estimator.estimate(oracle, batch, ledger=Ledger(tmp_path / "answers.jsonl") if kept else None)
    names = solver.stack[: solver.stack.index(f"{type(estimator).__name__}.estimate") + 1]
    assert len(names) <= MOST_FRAMES, names
    assert any("LoopOracle.evaluate" in name for name in names)  # a query's step, not the shared rollout's
