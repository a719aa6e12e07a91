"""Vector-Jacobian products that are put right along some directions, by probes of the solver."""

from __future__ import annotations

import abc
import hashlib
from typing import TYPE_CHECKING, final

import numpy as np

from deepzero_sim.common.requirements import is_count, require
from deepzero_sim.common.types import Array, Scheme
from deepzero_sim.coupling.vjp.analytic import StraightThrough
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.coupling.vjp.differences import Differences, channel_sizes
from deepzero_sim.solver.contract import Solver

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe


class ControlVariate(VectorJacobianProduct):
    """Correction of another product, the control `B^T w`, along `m` probed directions `v_i`:

        J^T w ~ B^T w + c sum_i (w^T J v_i - (B^T w)^T v_i) S^-2 v_i

    with `S` the size of each channel's part of `v_i`. A product takes `m` solver steps a state, twice that with central
    differences, besides those of the control.

    Args:
        count: Number of directions, `m`.
        control: Product that is corrected; the identity if None.
        step_size: Length of a probe, see :class:`~deepzero_sim.coupling.vjp.differences.Differences`.
        scheme: Finite differences, ``"forward"`` or ``"central"``.
    """

    def __init__(self, count: int, control: VectorJacobianProduct | None, step_size: float | None, scheme: Scheme) -> None:
        require(is_count(count), "the number of probes must be a positive whole one", count)
        fits = control is None or isinstance(control, VectorJacobianProduct)
        require(fits, "control must be another dz.vjp.VectorJacobianProduct", control)
        self.count = int(count)
        self.control = StraightThrough() if control is None else control
        self.scheme: Scheme = scheme
        self._differences = Differences(step_size, scheme)
        self._weight = 1.0

    @abc.abstractmethod
    def _directions(self, state: Array, product: Array, active: np.ndarray) -> Array:
        """Choose directions `v_i`, `(m, C, *N)`, zero in padding; within a channel, all non-zero entries have one size.

        Args:
            state: Solver state, `(C, *N)`.
            product: Product of the control there, `B^T w`, `(C, *N)`.
            active: Mask of the points where a state holds values, `(C, *N)`.
        """

    def bind(self, solver: Solver) -> None:
        super().bind(solver)
        self.control.bind(solver)

    def prepare(self, states: Array, params: Array | None, probes: SolverProbe) -> None:
        self.control.prepare(states, params, probes)

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        # a copy: the control may give the cotangents themselves, or an array that it needs again
        result = self.control.product(taken, cotangents, probes).copy()
        active = probes.spec.active()
        for b, w in enumerate(cotangents):
            state, params, advanced = taken.at(b)
            directions = self._directions(state, result[b], active)
            answers = self._differences.jvp(probes, state, params, advanced, directions)
            errors = (answers * w - directions * result[b]).reshape(len(directions), -1).sum(1)
            sizes = np.square(directions).max(tuple(range(2, directions.ndim)), keepdims=True)
            dual = directions / np.where(sizes > 0, sizes, 1)
            result[b] += np.tensordot(errors, dual, 1) * np.asarray(self._weight, state.dtype)
        return result

    def state_dict(self) -> dict[str, Array]:
        return self.control.state_dict()

    def load_state_dict(self, state_dict: dict[str, Array]) -> None:
        self.control.load_state_dict(state_dict)


@final
class CoordinateProbes(ControlVariate):
    """Directions along the points where `B^T w` is largest, with `c = 1`: there the product is exact, to the error of finite
    differences, and that of the control at all others.

    Args:
        points: Number of points, `m`; where these are all points of a state, the product is exact.
        control: Product that is corrected, `B`; the identity if None.
        step_size: Length of a probe, see :class:`~deepzero_sim.coupling.vjp.differences.Differences`.
        scheme: Finite differences, ``"forward"`` or ``"central"``.
    """

    def __init__(
        self,
        points: int = 64,
        control: VectorJacobianProduct | None = None,
        step_size: float | None = None,
        scheme: Scheme = "central",
    ) -> None:
        super().__init__(points, control, step_size, scheme)

    def _directions(self, state: Array, product: Array, active: np.ndarray) -> Array:
        places = np.flatnonzero(active)
        largest = places[np.argsort(-np.abs(product.reshape(-1)[places]), kind="stable")[: self.count]]
        directions = np.zeros((len(largest), state.size), state.dtype)
        directions[np.arange(len(largest)), largest] = 1
        return directions.reshape(-1, *state.shape)


@final
class RandomProbes(ControlVariate):
    """Directions of random signs, in units of each channel's size, with `c = 1 / m`: `E[v v^T] = S^2`, so that the estimate
    is right on average whatever the step (Hutchinson, Commun. Stat. Simul. 19, 1990; control variates: Glasserman, Monte
    Carlo Methods in Financial Engineering, section 4.1).

    The nearer `B` is to `J`, the less is left to chance: the error is `((n - 1) / m)^(1/2)` of the size of what remains, for
    `n` points, and a rollout multiplies it from step to step.

    Args:
        directions: Number of directions, `m`.
        control: Product that is corrected, `B`; the identity if None.
        step_size: Length of a probe, see :class:`~deepzero_sim.coupling.vjp.differences.Differences`.
        scheme: Finite differences, ``"forward"`` or ``"central"``.
        seed: Seed of the directions, which depend on it and the state only.
    """

    def __init__(
        self,
        directions: int = 16,
        control: VectorJacobianProduct | None = None,
        step_size: float | None = None,
        scheme: Scheme = "central",
        seed: int = 0,
    ) -> None:
        require(is_count(seed, least=0), "seed must be 0 or a positive whole number", seed)
        super().__init__(directions, control, step_size, scheme)
        self._weight = 1 / self.count
        self.seed = int(seed)

    def _directions(self, state: Array, product: Array, active: np.ndarray) -> Array:
        digest = hashlib.sha256(state.tobytes()).digest()
        generator = np.random.default_rng([self.seed, int.from_bytes(digest[:8], "little")])
        signs = generator.choice(np.array([-1, 1], state.dtype), size=(self.count, *state.shape))
        sizes = channel_sizes(state).astype(state.dtype).reshape(-1, *[1] * (state.ndim - 1))
        return np.asarray(signs * sizes * active)
