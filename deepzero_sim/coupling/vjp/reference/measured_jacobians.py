"""Jacobians at several states: one measured whole or in blocks, and how the others differ from it within windows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.base_jacobian import BaseJacobian
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.jacobian_file import JacobianFile
from deepzero_sim.coupling.vjp.state_metric import Metric
from deepzero_sim.coupling.vjp.windows import Windows

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe


class Reference(NamedTuple):
    """State with its step, and by how much the transposed Jacobian there differs from the first's, within windows."""

    state: Array
    params: Array | None
    advanced: Array
    difference: csr_array

    @property
    def identity(self) -> list[Array]:
        """Arrays that tell it from other references, and its solver from others."""
        return [self.state, self.advanced, *([] if self.params is None else [self.params])]


class MeasuredJacobians:
    """Jacobians `J(s_r) ~ J_0 + D_r` at references `s_r`, over the `n` active points; see
    :class:`~deepzero_sim.coupling.vjp.reference.reference_jacobian.ReferenceJacobian`.

    Args:
        probes: Means of asking the solver for steps, which it counts.
        differences: Finite differences by which a Jacobian is measured.
        block: Points of a block along each axis, see :class:`BaseJacobian`.
        radius: Radius of the windows, in points.
        file: File to look into first, and to leave what is measured in.
        metric: Distance by which a reference is nearest.
        fingerprint: Array that tells the solver from others, which may take the same steps from the references.
    """

    def __init__(
        self,
        probes: SolverProbe,
        differences: Differences,
        block: int,
        radius: int,
        file: JacobianFile,
        metric: Metric,
        fingerprint: Array,
    ) -> None:
        self._probes, self._differences, self._file = probes, differences, file
        self.metric, self.fingerprint = metric, fingerprint
        self._active = probes.spec.active()
        self._base, self._windows = BaseJacobian(self._active, block), Windows(self._active, radius)
        self._settings = f"1 {differences.identity} {block}", f"1 {radius}"
        self.references: list[Reference] = []
        places = math.prod(probes.spec.state_shape) + len(metric.spans)
        self._origin: Array = np.zeros((1, places))  # the first reference: squares of what all have in common would round
        self._coordinates: Array = np.empty((0, places))
        self._squares: Array = np.empty(0)

    def add(self, state: Array, params: Array | None, advanced: Array) -> None:
        """Measure at a state, `(C, *N)`, whose step gave `advanced`: at the first one, the whole Jacobian too."""
        new = Reference(state.copy(), params, advanced.copy(), csr_array((0, 0)))
        first = self.references[0] if self.references else new
        identity = [self._active, self.fingerprint, *first.identity]
        if first is new:
            measured = self._file.get(
                self._settings[:1], identity, self._probes, lambda: self._measure_base(new), self._base.check
            )
            self._base.load(measured)
        measured = self._file.get(
            self._settings,
            [*identity, *new.identity],
            self._probes,
            lambda: self._measure_difference(new),
            lambda stored: stored.numbers("difference", self._windows.nonzeros),
        )
        self.references.append(new._replace(difference=self._windows.matrix(measured["difference"])))
        place = self.metric.coordinates(state[None], None if params is None else params[None])
        if new is first:
            self._origin = place
        self._coordinates = np.concatenate([self._coordinates, place - self._origin])
        self._squares = np.square(self._coordinates).sum(1)

    def _measure_base(self, at: Reference) -> dict[str, Array]:
        self._base.measure(at.state, at.params, at.advanced, self._probes, self._differences)
        return self._base.tensors()

    def _measure_difference(self, at: Reference) -> dict[str, Array]:
        directions = self._windows.directions.astype(at.state.dtype)
        answers = self._differences.jvp(self._probes, at.state, at.params, at.advanced, directions)
        return {"difference": self._windows.transpose(self._base.residual(answers, directions)).data}

    def nearest(self, states: Array, params: Array | None) -> list[Reference]:
        """Find the references nearest to states, `(B, C, *N)`, and their parameters, `(B, K)` or None."""
        places = self.metric.coordinates(states, params) - self._origin
        distances = self._squares - 2 * (places @ self._coordinates.T)  # less the squares of the places themselves
        return [self.references[int(r)] for r in distances.argmin(1)]

    def vjp(self, references: list[Reference], cotangents: Array) -> Array:
        """Compute `J(s_r)^T w` at a reference for each cotangent, `(B, n)` to `(B, n)`."""
        products = self._base.vjp(cotangents)
        for b, reference in enumerate(references):
            products[b] += reference.difference @ cotangents[b]
        return products

    def jvp(self, reference: Reference, direction: Array) -> Array:
        """Compute `J(s_r) v`, `(n,)` to `(n,)`."""
        return np.asarray(self._base.jvp(direction[None])[0] + reference.difference.T @ direction)
