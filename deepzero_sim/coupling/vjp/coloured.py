"""Products for local steps: probes of many points at once, far enough from each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.sparse import csr_array

from deepzero_sim.common.requirements import is_count, require
from deepzero_sim.common.types import Array, Scheme
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.stencil_radius import local_radius, steps_of_reach
from deepzero_sim.coupling.vjp.stored_arrays import StoredArrays
from deepzero_sim.coupling.vjp.windows import Windows, count_colours
from deepzero_sim.solver.spec import SolverSpec

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe


@final
class Coloured(VectorJacobianProduct):
    """Finite differences of all points of a colour at once: exact, to their error, where a step carries information no farther
    than `r` points. A product takes as many solver steps a state as there are colours, see
    :class:`~deepzero_sim.coupling.vjp.windows.Windows`; twice that with central differences.

    Args:
        radius: Distance `r`; None for the solver's `SolverSpec.stencil` or, where it has none, for the radius that probes find,
            see :func:`~deepzero_sim.coupling.vjp.stencil_radius.local_radius`.
        step_size: Length of a probe, see :class:`~deepzero_sim.coupling.vjp.differences.Differences`.
        scheme: Finite differences, ``"forward"`` or ``"central"``.

    Raises:
        ConfigError: The radius is below 0.
    """

    def __init__(self, radius: int | None = None, step_size: float | None = None, scheme: Scheme = "central") -> None:
        fits = radius is None or is_count(radius, least=0)
        require(fits, "radius must be a whole number of points, 0 or more", radius)
        self.radius = radius
        self.scheme: Scheme = scheme
        self._differences = Differences(step_size, scheme)
        self._measured_radius: int | None = None
        self._windows: Windows | None = None

    def prepare(self, states: Array, params: Array | None, probes: SolverProbe) -> None:
        """Measure how far a step carries information, if neither the caller nor the solver declared it."""
        self.bind(probes.solver)
        if self.known_radius(probes.spec) is None:
            self._measured_radius = local_radius(states, params, probes, self._differences)

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        active = probes.spec.active()
        result = np.zeros_like(cotangents)
        for b, transposed in enumerate(self._transposed_jacobians(taken, probes)):
            result[b, active] = transposed @ cotangents[b, active]
        return result

    def jvp(self, taken: StepTaken, directions: Array, probes: SolverProbe) -> Array:
        active = probes.spec.active()
        result = np.zeros_like(directions)
        for b, transposed in enumerate(self._transposed_jacobians(taken, probes)):
            result[b, active] = transposed.T @ directions[b, active]
        return result

    def _transposed_jacobians(self, taken: StepTaken, probes: SolverProbe) -> Iterator[csr_array]:
        """Measure `J^T` at every state, `(n, n)`, over the active points."""
        if self._windows is None:
            self.prepare(taken.states, taken.params, probes)
            radius = self.known_radius(probes.spec)
            assert radius is not None
            self._windows = Windows(probes.spec.active(), radius)
        directions = self._windows.directions.astype(taken.states.dtype)
        for b in range(len(taken.states)):
            yield self._windows.transpose(self._differences.jvp(probes, *taken.at(b), directions))

    def known_radius(self, spec: SolverSpec) -> int | None:
        """Return the stencil radius of a solver's step as far as it is known: from the caller, the spec, or probes."""
        radii = (self.radius, spec.stencil, self._measured_radius)
        return next((radius for radius in radii if radius is not None), None)

    def steps_per_product(self, spec: SolverSpec, radius: int) -> int:
        """Count the solver steps of a product at one state, for a step of this stencil radius."""
        return self._differences.steps_per_direction * count_colours(spec.active(), radius)

    def steps_to_measure(self, spec: SolverSpec) -> int:
        return 0 if self.known_radius(spec) is not None else steps_of_reach(spec, self._differences)

    def state_dict(self) -> dict[str, Array]:
        return {} if self._measured_radius is None else {"radius": np.array(self._measured_radius, dtype=np.float64)}

    def load_state_dict(self, state_dict: dict[str, Array]) -> None:
        stored = StoredArrays.of_state(state_dict, "Coloured")
        radius = stored.counts("radius")[0] if state_dict else None
        stored.require_no_others()
        self._measured_radius, self._windows = radius, None
