"""Local steps: probes of many points at once, far enough from each other."""

from __future__ import annotations

from typing import final

import numpy as np

from deepzero_sim.common.types import Array, Scheme, is_integer
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.stencil_radius import reach
from deepzero_sim.coupling.vjp.windows import Windows, colours
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import SolverSpec


@final
class Coloured(VectorJacobianProduct):
    """Finite differences of all points of a colour at once: exact, to their error, where a step carries information no farther
    than `r` points. It takes as many solver steps a product and state as there are colours, see
    :class:`~deepzero_sim.coupling.vjp.windows.Windows`; twice that if central.

    Args:
        radius: `r`; None for the solver's `SolverSpec.stencil` or, where it has none, for what probes find, see
            :func:`~deepzero_sim.coupling.vjp.stencil_radius.reach`.
        step_size: as of :class:`~deepzero_sim.coupling.vjp.differences.Differences`.
        scheme: ``"forward"`` or ``"central"``.

    Raises:
        ConfigError: a radius below 0.
    """

    def __init__(self, radius: int | None = None, step_size: float | None = None, scheme: Scheme = "central") -> None:
        if radius is not None and (not is_integer(radius) or radius < 0):
            raise ConfigError(f"radius must be a whole number of points, 0 or more, not {radius!r}.")
        self.radius = radius
        self.scheme: Scheme = scheme
        self._differences = Differences(step_size, scheme)
        self._found: int | None = None
        self._windows: Windows | None = None

    def prepare(self, states: Array, params: Array | None, probes: SolverProbe) -> None:
        """Find out how far a step carries information, if nobody has said it.

        Raises:
            ConfigError: over the whole grid.
            SolverError: the solver failed.
        """
        self.bind(probes.solver)
        if self.radius is None and probes.spec.stencil is None and self._found is None:
            self._found = reach(states, params, probes, self._differences)

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        if self._windows is None:
            self._windows = Windows(probes.spec.active(), self._reach(taken, probes))
        active = probes.spec.active()
        directions = self._windows.directions.astype(cotangents.dtype)
        result = np.zeros_like(cotangents)
        for b in range(len(taken.states)):
            state, params, advanced = taken.at(b)
            changes = self._differences.along(probes, state, params, advanced, directions)
            result[b, active] = self._windows.transposed(changes) @ cotangents[b, active]
        return result

    def steps_a_product(self, spec: SolverSpec, radius: int) -> int:
        """Solver steps of a product at one state, where a step reaches over a radius."""
        return self._differences.steps_a_direction * len(colours(spec.active(), radius))

    def _reach(self, taken: StepTaken, probes: SolverProbe) -> int:
        self.prepare(taken.states, taken.params, probes)
        said = self.radius if self.radius is not None else probes.spec.stencil
        return next(radius for radius in (said, self._found) if radius is not None)

    def state_dict(self) -> dict[str, Array]:
        return {} if self._found is None else {"radius": np.array(self._found, dtype=np.float64)}

    def load_state_dict(self, state_dict: dict[str, Array]) -> None:
        self._found, self._windows = int(state_dict["radius"].item()) if state_dict else None, None
