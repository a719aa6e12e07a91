"""A worker process that a solver is sent to, which may hang or die of what it is asked."""

from __future__ import annotations

import warnings
from concurrent.futures import Executor, wait
from contextlib import ExitStack
from types import TracebackType
from typing import final

import cloudpickle
import numpy as np

from deepzero_sim.errors import SolverTimeoutError, WorkerLostError
from deepzero_sim.parallel import open_executor, outcome, pickling_for_workers, submitted
from deepzero_sim.solver import Solver
from deepzero_sim.types import Array


@final
class WorkerProcess:
    """One process at a time, started when it is first asked and again when it was lost; it ends with the context.

    Args:
        solver: any.
    """

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self._open = ExitStack()
        self._executor: Executor | None = None

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        self._executor = None
        self._open.close()

    def step(self, states: Array, params: Array | None, seconds: float) -> Array:
        """Whatever the solver returns there.

        Args:
            states: `(B, C, *N)`.
            params: `(B, K)` or None.
            seconds: to wait.

        Raises:
            ConfigError: the solver cannot be pickled.
            SolverTimeoutError: it gave no answer.
            WorkerLostError: the process died.
            Exception: what the solver raised.
        """
        with pickling_for_workers(f"solver {self.solver.spec.name!r}"):
            pickled = cloudpickle.dumps(self.solver)
        if self._executor is None:
            self._executor = self._open.enter_context(open_executor("process", 1))
        future = submitted(self._executor, _step, (pickled, states, params))
        if not wait([future], seconds).done:
            self._close()
            name = self.solver.spec.name
            raise SolverTimeoutError(f"solver {name!r} gave no answer for {seconds:.0f} s in a worker process.")
        answer = outcome(future)
        if isinstance(answer, WorkerLostError):
            self._close()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _step(task: tuple[bytes, Array, Array | None]) -> Array:
    pickled, states, params = task
    solver: Solver = cloudpickle.loads(pickled)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of overflow, at states that are meant to be extreme
        return solver.step(states, params)
