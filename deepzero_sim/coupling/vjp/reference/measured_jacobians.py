"""Jacobians at several states: one measured whole, and how the others differ from it within windows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.reference.base_jacobian import BaseJacobian
from deepzero_sim.coupling.vjp.reference.jacobian_file import KeptJacobians
from deepzero_sim.coupling.vjp.reference.metric import Metric
from deepzero_sim.coupling.vjp.windows import Windows


class Reference(NamedTuple):
    """A state and its step, and by how much the transposed Jacobian there differs from the first's, within windows."""

    state: Array
    params: Array | None
    advanced: Array
    difference: csr_array

    @property
    def known_by(self) -> list[Array]:
        """What tells it from others, and its solver from others."""
        return [self.state, self.advanced, *([] if self.params is None else [self.params])]


class MeasuredJacobians:
    """`J(s_r) ~ J_0 + D_r` at references `s_r`, over the `n` active points; see
    :class:`~deepzero_sim.coupling.vjp.reference.reference_jacobian.ReferenceJacobian`.

    Args:
        probes: advances states.
        differences: how a Jacobian is measured.
        block: of :class:`~deepzero_sim.coupling.vjp.reference.base_jacobian.BaseJacobian`.
        radius: of the windows.
        kept: where to look first, and to leave what is measured.
        metric: by which references are near.
        fingerprint: what tells the solver from others, which may take the same steps from the references.
    """

    def __init__(
        self,
        probes: SolverProbe,
        differences: Differences,
        block: int,
        radius: int,
        kept: KeptJacobians,
        metric: Metric,
        fingerprint: Array,
    ) -> None:
        self._probes, self._differences, self._kept = probes, differences, kept
        self.metric, self.fingerprint = metric, fingerprint
        self._active = probes.spec.active()
        self._base, self._windows = BaseJacobian(self._active, block), Windows(self._active, radius)
        self._settings = f"1 {differences.scheme} {differences.step_size} {block}", f"1 {radius}"
        self.references: list[Reference] = []
        self._coordinates: Array = np.empty((0, 0))

    def add(self, state: Array, params: Array | None, advanced: Array) -> None:
        """Measure at a state, `(C, *N)`, whose step gave `advanced`: at the first one, the whole Jacobian too.

        Raises:
            SolverError: the solver failed.
        """
        added = Reference(state.copy(), params, advanced.copy(), csr_array((0, 0)))
        first = self.references[0] if self.references else added
        of_base = [self._active, self.fingerprint, *first.known_by]
        if first is added:
            self._base.take(self._kept.get(self._settings[:1], of_base, self._probes, lambda: self._whole(added)))
        measured = self._kept.get(self._settings, [*of_base, *added.known_by], self._probes, lambda: self._difference(added))
        self.references.append(added._replace(difference=self._windows.filled(measured["difference"])))
        place = self._place(state, params)
        self._coordinates = np.concatenate([self._coordinates, place]) if len(self.references) > 1 else place

    def _whole(self, at: Reference) -> dict[str, Array]:
        self._base.measure(at.state, at.params, at.advanced, self._probes, self._differences)
        return self._base.tensors()

    def _difference(self, at: Reference) -> dict[str, Array]:
        directions = self._windows.directions.astype(at.state.dtype)
        answers = self._differences.along(self._probes, at.state, at.params, at.advanced, directions)
        return {"difference": self._windows.transposed(self._base.left_of(answers, directions)).data}

    def nearest(self, state: Array, params: Array | None) -> Reference:
        """The reference nearest to a state, `(C, *N)`, and its parameters."""
        return self.references[int(np.square(self._coordinates - self._place(state, params)).sum(1).argmin())]

    def _place(self, state: Array, params: Array | None) -> Array:
        return self.metric.coordinates(state[None], None if params is None else params[None])

    def transposed(self, references: list[Reference], cotangents: Array) -> Array:
        """`J(s_r)^T w` of a reference each, `(B, n)` to `(B, n)`."""
        products = self._base.transposed(cotangents)
        for b, reference in enumerate(references):
            products[b] += reference.difference @ cotangents[b]
        return products

    def along(self, reference: Reference, direction: Array) -> Array:
        """`J(s_r) v`, `(n,)` to `(n,)`."""
        return np.asarray(self._base.along(direction[None])[0] + reference.difference.T @ direction)
