"""Solvers, corrected or not, as models: a state in, the state some steps later out."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from deepzero_sim.common.module_state import preserve_state
from deepzero_sim.common.requirements import require_type
from deepzero_sim.common.types import Array, to_array
from deepzero_sim.connectors.http.json_values import Vector
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.serving.model import ServedModel, config_integer
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepping import checked_step
from deepzero_sim.solver.validation import check_states

#: Most steps of one request; who needs more asks again, from the state that came back.
MAX_STEPS = 10**6


class _ServedSteps(ServedModel):
    """Steps of a solver as a model: a state, and its parameters as a second input if the spec names some, to a later state."""

    def __init__(self, spec: SolverSpec) -> None:
        self.spec = spec

    def input_sizes(self, config: Mapping[str, Any]) -> Sequence[int]:
        sizes = [math.prod(self.spec.state_shape)]
        return [*sizes, len(self.spec.parameters)] if self.spec.parameters else sizes

    def output_sizes(self, config: Mapping[str, Any]) -> Sequence[int]:
        return [math.prod(self.spec.state_shape)]

    def evaluate(self, inputs: Sequence[Vector], config: Mapping[str, Any]) -> Sequence[Vector]:
        steps = config_integer(config, "steps", 1, 1, MAX_STEPS)
        with np.errstate(over="ignore"):  # infinite in float32, which the solver's check reports
            states, *params = (part.astype(self.spec.dtype)[None] for part in inputs)
        states = states.reshape(1, *self.spec.state_shape)
        for _ in range(steps):
            self.check_wanted()
            states = self._advance(states, params[0] if params else None)
        return [states.astype(np.float64).reshape(-1)]

    @abc.abstractmethod
    def _advance(self, states: Array, params: Array | None) -> Array:
        """Advance a state `(1, C, *N)` with parameters `(1, K)` or None by one step."""


class ServedSolver(_ServedSteps):
    """A solver as a model. The config may hold `steps`, their number (1).

    Args:
        solver: Any solver.
    """

    def __init__(self, solver: Solver) -> None:
        require_type(solver, Solver, "expected a solver to serve, which dz.as_solver makes of a function")
        super().__init__(solver.spec)
        self.solver = solver
        self.thread_safe = solver.spec.thread_safe

    def _advance(self, states: Array, params: Array | None) -> Array:
        return checked_step(self.solver, states, params)


class ServedLoop(_ServedSteps):
    """A corrected solver as a model. The config may hold `steps`, their number (1). Evaluations change nothing of the network.

    Args:
        loop: Solver and corrector.
    """

    def __init__(self, loop: SolverLoop) -> None:
        require_type(loop, SolverLoop, "expected a dz.SolverLoop to serve", "dz.ServedSolver takes a solver")
        super().__init__(loop.solver.spec)
        self.loop = loop

    def _advance(self, states: Array, params: Array | None) -> Array:
        with torch.no_grad(), single_threaded(), preserve_state(self.loop.corrector):
            corrected = to_array(self.loop.rollout(states, params, steps=1)[:, 0])
        what = f"the corrected state of solver {self.spec.name!r}"
        check_states(self.spec, corrected, what, "the correction diverged: start from a state as in training")
        return corrected
