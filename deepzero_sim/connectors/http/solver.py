"""What solvers behind HTTP have in common: a client, states that go out one by one, and a first look at the server."""

from __future__ import annotations

import abc
import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.connectors.http.client import SMALL, HTTPClient
from deepzero_sim.connectors.http.json_values import NUMBER, require_json
from deepzero_sim.connectors.per_state import PerStateCaller
from deepzero_sim.connectors.spec_mapping import as_spec
from deepzero_sim.errors import ConfigError, InvalidStateError
from deepzero_sim.solver.contract import Solver, SolverSpec, check_params


class HTTPSolver(Solver):
    """A solver that a server runs, one state a call.

    Args:
        url: where it is: `http://host:port`.
        name: of the solver, where a spec says none.
        state_shape: `(C, *N)`; None if a spec says it.
        spec: what the solver says of itself, or a mapping of its fields; a mapping may leave out name, dt (1) and dtype.
        timeout: seconds that one call may take in all.
        at_once: calls under way at once, each over a connection of its own.

    Raises:
        ConfigError: an argument is not usable.
        MissingExtraError: the package that reads JSON is missing.
    """

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
        self._statewise = PerStateCaller(at_once, self.client.stop)
        self._start_unseen()

    def _start_unseen(self) -> None:
        self._seen, self._looking = False, threading.Lock()

    @property
    def size(self) -> int:
        """Numbers of a state."""
        return math.prod(self.spec.state_shape)

    @property
    def answer_limit(self) -> int:
        """Bytes of an answer that holds a state, at most."""
        return SMALL + NUMBER * self.size

    def step(self, states: Array, params: Array | None = None) -> Array:
        if params is not None and not self.spec.parameters:
            raise InvalidStateError(
                f"solver {self.spec.name!r} was given parameters, but its spec names none: give spec its parameters."
            )
        check_params(self.spec, states, params)
        self._look_once()
        return self._statewise(self._advance, states, params)

    def _look_once(self) -> None:
        with self._looking:
            if not self._seen:
                self._look()
                self._seen = True

    def _advance(self, state: Array, row: Array | None) -> Array:
        advanced = self._ask(state, row)
        if advanced.size != self.size:
            raise InvalidStateError(
                f"solver {self.spec.name!r} at {self.client.url} must return {self.size} numbers, a state of shape "
                f"{self.spec.state_shape}, not {advanced.size}: check state_shape."
            )
        with np.errstate(over="ignore"):  # beyond float32 it is infinite, which is said of the state as a whole
            return advanced.astype(self.spec.dtype).reshape(self.spec.state_shape)

    @abc.abstractmethod
    def _look(self) -> None:
        """Compare the server with the spec, once, before the first call.

        Raises:
            SolverError: they do not fit, or the server fails.
        """

    @abc.abstractmethod
    def _ask(self, state: Array, row: Array | None) -> Array:
        """One state `(C, *N)` and its parameters `(K,)` or None, one step later: as many numbers, in any shape.

        Raises:
            SolverError: the server fails.
        """

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_seen", "_looking")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_unseen()
