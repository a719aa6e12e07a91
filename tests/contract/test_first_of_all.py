"""Solvers that hang, or take the process down, at the first step."""

from __future__ import annotations

import os
import time

import pytest
from problems import Burgers, LogisticSolver

import deepzero_sim as dz
from deepzero_sim.contract import first_of_all
from deepzero_sim.contract.made_up import smooth_fields
from deepzero_sim.contract.worker_process import WorkerProcess
from deepzero_sim.types import Array


class Ends(Burgers):
    """Burgers, in whose worker process something happens."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.home = how, os.getpid()

    def step(self, states: Array, params: Array | None = None) -> Array:
        assert os.getpid() != self.home
        if self.how == "exit":
            os._exit(0)
        if self.how == "hang":
            time.sleep(1000)
        raise ArithmeticError("no convergence")


def require_an_end(solver: dz.Solver) -> None:
    """At a state that is made up."""
    with WorkerProcess(solver) as process:
        first_of_all.require_an_end(process, smooth_fields(solver.spec, 1), None, 1.0)


@pytest.mark.slow
def test_a_solver_that_ends_or_blocks_its_process_cannot_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(dz.SolverCrashError, match="ended the process that asked it for a step"):
        require_an_end(Ends("exit"))
    monkeypatch.setattr(first_of_all, "WAIT", 20.0)
    with pytest.raises(dz.SolverTimeoutError, match="gave no answer to one state for 20 s"):
        require_an_end(Ends("hang"))


@pytest.mark.slow
def test_what_else_comes_is_for_the_check_to_judge() -> None:
    require_an_end(Ends("raise"))
    require_an_end(LogisticSolver())  # which needs parameters
