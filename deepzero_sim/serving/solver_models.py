"""Solvers, corrected or not, as models: a state in, the state some steps later out."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from deepzero_sim.common.module_state import preserve_state
from deepzero_sim.common.types import Array, to_array
from deepzero_sim.connectors.http.json_values import Vector
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.errors import ConfigError
from deepzero_sim.execution.executors import single_threaded
from deepzero_sim.serving.model import ServedModel, whole_of
from deepzero_sim.solver.contract import Solver, SolverSpec, check_states, checked_step

#: Steps that one request may ask for; who needs more asks again, from the state that came back.
MOST_STEPS = 10**6


class _ServedSteps(ServedModel):
    """A state, and its parameters as a second input if the spec names some, some steps later: one, or config's `steps`."""

    def __init__(self, spec: SolverSpec) -> None:
        self.spec = spec

    def input_sizes(self, config: Mapping[str, Any]) -> Sequence[int]:
        sizes = [math.prod(self.spec.state_shape)]
        return [*sizes, len(self.spec.parameters)] if self.spec.parameters else sizes

    def output_sizes(self, config: Mapping[str, Any]) -> Sequence[int]:
        return [math.prod(self.spec.state_shape)]

    def evaluate(self, inputs: Sequence[Vector], config: Mapping[str, Any]) -> Sequence[Vector]:
        steps = whole_of(config, "steps", 1, 1, MOST_STEPS)
        with np.errstate(over="ignore"):  # infinite in float32: the solver's check says so
            states, *params = (part.astype(self.spec.dtype)[None] for part in inputs)
        states = states.reshape(1, *self.spec.state_shape)
        for _ in range(steps):
            self.check_wanted()
            states = self._advance(states, params[0] if params else None)
        return [states.astype(np.float64).reshape(-1)]

    @abc.abstractmethod
    def _advance(self, states: Array, params: Array | None) -> Array:
        """One step: `(1, C, *N)` and `(1, K)` or None to `(1, C, *N)`."""


class ServedSolver(_ServedSteps):
    """A solver as a model. The config may hold `steps`, how many.

    Args:
        solver: any.
    """

    def __init__(self, solver: Solver) -> None:
        if not isinstance(solver, Solver):
            raise ConfigError(
                f"expected a solver to serve, which dz.as_solver makes of a function, not {type(solver).__name__}."
            )
        super().__init__(solver.spec)
        self.solver = solver
        self.thread_safe = solver.spec.thread_safe

    def _advance(self, states: Array, params: Array | None) -> Array:
        return checked_step(self.solver, states, params)


class ServedLoop(_ServedSteps):
    """A corrected solver as a model. The config may hold `steps`, how many. Evaluations change nothing of the network.

    Args:
        loop: solver and corrector.
    """

    def __init__(self, loop: SolverLoop) -> None:
        if not isinstance(loop, SolverLoop):
            raise ConfigError(f"expected a dz.SolverLoop to serve, not {type(loop).__name__}: dz.ServedSolver takes a solver.")
        super().__init__(loop.solver.spec)
        self.loop = loop

    def _advance(self, states: Array, params: Array | None) -> Array:
        with torch.no_grad(), single_threaded(), preserve_state(self.loop.corrector):
            corrected = to_array(self.loop.rollout(states, params, steps=1)[:, 0])
        what = f"the corrected state of solver {self.spec.name!r}"
        check_states(self.spec, corrected, what, "the correction diverged: start from a state as in training")
        return corrected
