"""Probes along some directions, which improve on another vector-Jacobian product."""

from __future__ import annotations

import abc

import numpy as np

from deepzero_sim.common.types import Array, Scheme, is_integer
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp.analytic import StraightThrough
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import Solver


class ControlVariate(VectorJacobianProduct):
    """`J^T w ~ B^T w + c sum_i (w^T J v_i - (B^T w)^T v_i) S^-2 v_i` for `m` directions `v_i`, `S` the size of each
    channel's part of `v_i`: where it was probed, another product `B^T w` is put right. It takes `m` solver steps a product
    and state, twice that if central, and those of `B`.

    Args:
        count: `m`.
        control: `B`; the identity if None.
        step_size: as of :class:`~deepzero_sim.coupling.vjp.differences.Differences`.
        scheme: ``"forward"`` or ``"central"``.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    def __init__(self, count: int, control: VectorJacobianProduct | None, step_size: float | None, scheme: Scheme) -> None:
        if not is_integer(count) or count < 1:
            raise ConfigError(f"the number of probes must be a positive whole one, not {count!r}.")
        if control is not None and not isinstance(control, VectorJacobianProduct):
            raise ConfigError(f"control must be another dz.vjp.VectorJacobianProduct, not {control!r}.")
        self.count = int(count)
        self.control = StraightThrough() if control is None else control
        self.scheme: Scheme = scheme
        self._differences = Differences(step_size, scheme)
        self._weight = 1.0

    @abc.abstractmethod
    def _directions(self, state: Array, product: Array, active: np.ndarray) -> Array:
        """`v_i`, `(m, C, *N)`, zero in padding; of a channel, all that are not zero have one size.

        Args:
            state: where, `(C, *N)`.
            product: `B^T w`, `(C, *N)`.
            active: where a state holds values, `(C, *N)`.
        """

    def bind(self, solver: Solver) -> None:
        super().bind(solver)
        self.control.bind(solver)

    def prepare(self, states: Array, params: Array | None, probes: SolverProbe) -> None:
        self.control.prepare(states, params, probes)

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        result = self.control.product(taken, cotangents, probes).copy()  # the control's own may be kept, or the cotangents
        active = probes.spec.active()
        for b, w in enumerate(cotangents):
            state, params, advanced = taken.at(b)
            directions = self._directions(state, result[b], active)
            answers = self._differences.along(probes, state, params, advanced, directions)
            left = (answers * w - directions * result[b]).reshape(len(directions), -1).sum(1)
            squares = np.square(directions)
            sizes = squares.reshape(*squares.shape[:2], -1).max(2).reshape(*squares.shape[:2], *[1] * (state.ndim - 1))
            dual = directions / np.where(sizes > 0, sizes, 1)
            result[b] += np.tensordot(left, dual, 1) * np.asarray(self._weight, state.dtype)
        return result

    def state_dict(self) -> dict[str, Array]:
        return self.control.state_dict()

    def load_state_dict(self, state_dict: dict[str, Array]) -> None:
        self.control.load_state_dict(state_dict)
