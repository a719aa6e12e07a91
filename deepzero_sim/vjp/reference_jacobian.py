"""Jacobians that are measured at a few states, and taken to hold near them."""

from __future__ import annotations

from typing import NamedTuple, final

import numpy as np

from deepzero_sim.errors import ConfigError
from deepzero_sim.probing import Probes
from deepzero_sim.schemes import Scheme
from deepzero_sim.types import Array, is_whole
from deepzero_sim.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.vjp.differences import Differences

#: Directions that are probed together: their states, and what the solver makes of them, take memory.
TOGETHER = 256


class _Reference(NamedTuple):
    """A state and the Jacobian there, over the active points: `(n,)`, `(n, n)`, outputs by inputs."""

    state: Array
    jacobian: Array


@final
class ReferenceJacobian(VectorJacobianProduct):
    """Dense Jacobians, measured by finite differences at a few states; a product is taken with the one nearest to its state.

    What dominates a Jacobian (a pressure projection, the mean flow) often changes little from state to state. For `n` points
    that hold values a Jacobian takes `n` solver steps, `2 n` if central, and `n^2` numbers; products then take none.

    Args:
        references: at how many states. They are those farthest from each other among the states of the first products, if
            none were measured by :meth:`measure`.
        step_size: as of :class:`~deepzero_sim.vjp.differences.Differences`.
        scheme: ``"forward"`` or ``"central"``.
        memory: bytes that all of them may take.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    def __init__(
        self,
        references: int = 3,
        step_size: float | None = None,
        scheme: Scheme = "central",
        memory: int = 4 * 2**30,
    ) -> None:
        for name, value in (("references", references), ("memory", memory)):
            if not is_whole(value) or value < 1:
                raise ConfigError(f"{name} must be a positive whole number, not {value!r}.")
        self.references = references
        self.memory = memory
        self.scheme: Scheme = scheme
        self._differences = Differences(step_size, scheme)
        self._measured: list[_Reference] = []

    def measure(self, states: Array, params: Array | None, probes: Probes) -> None:
        """Measure at states of one's choice, in place of what was measured before.

        Args:
            states: `(R, C, *N)`.
            params: `(R, K)` or None.
            probes: advances states.

        Raises:
            ConfigError: they would not fit into memory.
            SolverError: the solver failed.
        """
        active = probes.spec.active()
        self._require_fits(int(active.sum()), len(states), states.dtype, probes.spec.name)
        advanced = probes(states, params)
        self._measured = [
            self._at(state, None if params is None else params[r], advanced[r], probes) for r, state in enumerate(states)
        ]

    def product(self, taken: StepTaken, cotangents: Array, probes: Probes) -> Array:
        if not self._measured:
            chosen = spread(taken.states, self.references)
            self.measure(taken.states[chosen], None if taken.params is None else taken.params[chosen], probes)
        active = probes.spec.active()
        states, w = taken.states[:, active], cotangents[:, active]
        distances = np.stack([np.linalg.norm(states - reference.state, axis=1) for reference in self._measured])
        nearest = distances.argmin(0)
        result = np.zeros_like(cotangents)
        for r in np.unique(nearest):
            of_this = np.flatnonzero(nearest == r)
            products = np.zeros_like(cotangents[of_this])
            products[:, active] = w[of_this] @ self._measured[r].jacobian
            result[of_this] = products
        return result

    def _at(self, state: Array, params: Array | None, advanced: Array, probes: Probes) -> _Reference:
        active = probes.spec.active()
        points = np.flatnonzero(active)
        jacobian = np.empty((len(points), len(points)), state.dtype)
        for start in range(0, len(points), TOGETHER):
            some = points[start : start + TOGETHER]
            directions = np.zeros((len(some), active.size), state.dtype)
            directions[np.arange(len(some)), some] = 1
            changes = self._differences.along(probes, state, params, advanced, directions.reshape(-1, *state.shape))
            jacobian[:, start : start + len(some)] = changes[:, active].T
        return _Reference(state[active], jacobian)

    def _require_fits(self, points: int, references: int, dtype: np.dtype, name: str) -> None:
        needed = references * points**2 * dtype.itemsize
        if needed > self.memory:
            raise ConfigError(
                f"{references} Jacobians of solver {name!r}, {points} x {points} each, would take {needed / 2**30:.3g} GiB, "
                f"more than the {self.memory / 2**30:.3g} GiB of memory: take fewer references, raise memory, or take "
                "Coloured with the radius within which a step carries most."
            )


def spread(states: Array, count: int) -> np.ndarray:
    """Indices of states far from each other: the first, then always the one farthest from all chosen (Gonzalez, 1985).

    Args:
        states: `(B, C, *N)`.
        count: how many, at most; fewer if others are the same as those.
    """
    flat = states.reshape(len(states), -1).astype(np.float64)
    chosen, distances = [0], np.linalg.norm(flat - flat[0], axis=1)
    while len(chosen) < min(count, len(flat)) and distances.max() > 0:
        chosen.append(int(distances.argmax()))
        distances = np.minimum(distances, np.linalg.norm(flat - flat[chosen[-1]], axis=1))
    return np.array(chosen)
