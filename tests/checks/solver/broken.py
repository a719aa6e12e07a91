"""Solvers that break their contract, each in one way, and keep all else."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any

import numpy as np
from problems import Burgers

from deepzero_sim.common.types import Array
from deepzero_sim.errors import SolverCrashError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec


class Sheared(Burgers):
    """Burgers' equation that keeps its contract, with a viscosity and an end of padding: a solver with all lines to break."""

    def __init__(self, **spec: Any) -> None:
        mask = np.ones((1, 16), dtype=bool)
        mask[:, 14:] = False
        super().__init__()
        given = {"stencil": None, "mask": mask, "parameters": ("viscosity",), "parameter_units": ("1",), "max_batch": 64}
        self.spec = dataclasses.replace(self.spec, **(given | spec))

    def step(self, states: Array, params: Array | None = None) -> Array:
        if params is None:
            raise ValueError("there must be a viscosity")
        inner = super().step(states[..., :14], params)
        return np.asarray(np.pad(inner, ((0, 0), (0, 0), (0, 2))))


class Shape(Sheared):
    def step(self, states: Array, params: Array | None = None) -> Array:
        return super().step(states, params)[..., :-1]


class Nothing(Sheared):
    def step(self, states: Array, params: Array | None = None) -> Array:
        super().step(states, params)
        return None  # type: ignore[return-value]


class Type(Sheared):
    def step(self, states: Array, params: Array | None = None) -> Array:
        return super().step(states, params).astype(np.float32)


class Writes(Sheared):
    def step(self, states: Array, params: Array | None = None) -> Array:
        states[:] = super().step(states, params)
        return states


class WritesParams(Sheared):
    def step(self, states: Array, params: Array | None = None) -> Array:
        advanced = super().step(states, params)
        assert params is not None
        params *= 2
        return advanced


class ReturnsNaN(Sheared):
    """Fails at one of the sample states, and says so in numbers."""

    def step(self, states: Array, params: Array | None = None) -> Array:
        advanced = super().step(states, params)
        advanced[states[:, 0, 0] > 5] = np.nan
        return advanced


class Padding(Sheared):
    def step(self, states: Array, params: Array | None = None) -> Array:
        advanced = super().step(states, params)
        advanced[..., -1] = 1
        return advanced


class Chance(Sheared):
    def step(self, states: Array, params: Array | None = None) -> Array:
        return np.asarray(super().step(states, params) * (1 + 1e-12 * np.random.default_rng().random()))


class Remembers(Sheared):
    """Starts its iterations from where the last call ended."""

    def __init__(self, **spec: Any) -> None:
        super().__init__(**spec)
        self.last: Array | None = None

    def step(self, states: Array, params: Array | None = None) -> Array:
        advanced = super().step(states, params)
        start = advanced if self.last is None else self.last[:1]
        self.last = states.copy()
        return np.asarray(advanced + 1e-10 * start)


class Mixes(Sheared):
    """Looks at the mean of a batch."""

    def step(self, states: Array, params: Array | None = None) -> Array:
        return np.asarray(super().step(states, params) + 1e-6 * states.mean(0))


class FewStates(Sheared):
    """Says that it takes 64 states, and takes 4."""

    def step(self, states: Array, params: Array | None = None) -> Array:
        if len(states) > 4:
            raise MemoryError("no room for more than 4 states")
        return super().step(states, params)


class OneRow(Sheared):
    """Takes the first row of parameters for all states."""

    def step(self, states: Array, params: Array | None = None) -> Array:
        return super().step(states, None if params is None else np.repeat(params[:1], len(states), axis=0))


class Unsendable(Sheared):
    def __init__(self, **spec: Any) -> None:
        super().__init__(**spec)
        self.lock = threading.Lock()


class Homebound(Sheared):
    """Depends on what is set in this process only."""

    def step(self, states: Array, params: Array | None = None) -> Array:
        return np.asarray(super().step(states, params) * (1 + 1e-12 * HERE[0]))


#: What a test sets in its own process.
HERE = [0.0]


class OneBuffer(Sheared):
    """Works in memory that all threads share."""

    def __init__(self, **spec: Any) -> None:
        super().__init__(**spec)
        self.buffer: dict[str, Array] = {}

    def step(self, states: Array, params: Array | None = None) -> Array:
        self.buffer["states"] = states.copy()
        time.sleep(1e-3)
        return super().step(self.buffer["states"], params)


class Far(Sheared):
    """Says that it reaches over one point, and reaches over five."""

    def __init__(self) -> None:
        super().__init__(stencil=1)

    def step(self, states: Array, params: Array | None = None) -> Array:
        advanced = super().step(states, params)
        advanced[..., :14] += 0.1 * np.roll(states[..., :14], 5, -1)
        return advanced


class Flaky(Sheared):
    """Fails every seventh time."""

    def __init__(self, **spec: Any) -> None:
        super().__init__(**spec)
        self.calls = 0

    def step(self, states: Array, params: Array | None = None) -> Array:
        self.calls += 1
        if self.calls % 7 == 0:
            raise SolverCrashError("the licence server did not answer")
        return super().step(states, params)


class Stepwise(Solver):
    """`s' = f(s)`, point by point: smooth, with a kink, or with jumps."""

    def __init__(self, function: Any, points: int = 256, dtype: str = "float64") -> None:
        self.spec = SolverSpec(name="pointwise", state_shape=(1, points), dt=1.0, dtype=dtype, stencil=0)
        self.function = function

    def step(self, states: Array, params: Array | None = None) -> Array:
        return np.asarray(self.function(states), dtype=states.dtype)
