"""The base of solvers behind HTTP: a client, states sent one by one, and a check of the server before the first."""

from __future__ import annotations

import abc
import math
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.connectors.http.client import SHORT_ANSWER, HTTPClient
from deepzero_sim.connectors.http.json_values import BYTES_PER_NUMBER, require_json
from deepzero_sim.connectors.per_state import PerStateCaller
from deepzero_sim.connectors.spec_mapping import as_spec
from deepzero_sim.errors import ConfigError, InvalidStateError, SolverError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepped_inputs import take_with_inputs, with_same_inputs
from deepzero_sim.solver.validation import check_call


class HTTPSolver(Solver):
    """A solver that a server runs, one state a call; `name` is that of the solver where a spec gives none."""

    def __init__(
        self,
        url: str,
        name: str,
        state_shape: tuple[int, ...] | None,
        spec: SolverSpec | Mapping[str, Any] | None,
        timeout: float,
        at_once: int,
    ) -> None:
        require_json()
        if (state_shape is None) == (spec is None):
            raise ConfigError("expected state_shape, such as (1, 64), or spec, which has it: give one of them.")
        given = {"state_shape": state_shape} if spec is None else spec
        self.spec = as_spec({"name": name, "dt": 1.0, **given} if isinstance(given, Mapping) else given)
        self.client = HTTPClient(url, timeout)
        self._per_state = PerStateCaller(at_once, self.client.stop)
        self._forget_check()

    def _forget_check(self) -> None:
        self._is_checked, self._checking = False, threading.Lock()

    @property
    def size(self) -> int:
        """Number of values in a state."""
        return math.prod(self.spec.state_shape)

    @property
    def answer_limit(self) -> int:
        """Most bytes of an answer that holds a state."""
        return SHORT_ANSWER + BYTES_PER_NUMBER * self.size

    def step(self, states: Array, params: Array | None = None, inputs: Array | None = None) -> Array:
        if params is not None and not self.spec.parameters:
            problem = "was given parameters, but its spec names none: give spec its parameters"
            raise InvalidStateError(f"solver {self.spec.name!r} {problem}.")
        check_call(self.spec, states, params, inputs)
        with self._checking:
            if not self._is_checked:
                self._check_server()
                self._is_checked = True
        return take_with_inputs(partial(self._per_state, self._advance), states, params, inputs)

    def _advance(self, state: Array, row: Array | None) -> Array:
        advanced = self._ask(state, row)
        self._require_size(advanced, self.size)
        with np.errstate(over="ignore"):  # infinite beyond float32, which the check of the whole state reports
            own = advanced.astype(self.spec.dtype).reshape(self.spec.state_shape)
        return with_same_inputs(own, state)

    def _require_size(self, values: Array, size: int | None, where: str = "") -> None:
        demand = f"return {size} numbers{where}, a state of shape {self.spec.state_shape}, not {values.size}: check state_shape"
        self._require(values.size == size, f"solver {self.spec.name!r}", demand, InvalidStateError)

    def _require(self, holds: bool, who: str, demand: str, error: type[SolverError]) -> None:
        """Refuse a server unless a condition holds: `WHO at URL must DEMAND.`"""
        if not holds:
            raise error(f"{who} at {self.client.url} must {demand}.")

    @abc.abstractmethod
    def _check_server(self) -> None:
        """Compare the server with the spec, once, before the first call; raise a SolverError if they do not fit."""

    @abc.abstractmethod
    def _ask(self, state: Array, row: Array | None) -> Array:
        """Ask for one state `(C, *N)`, with its parameters `(K,)` or None, one step later: as many numbers, in any shape.

        The fields that the step reads besides its state lie behind the state's channels.
        """

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_is_checked", "_checking")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_check()
