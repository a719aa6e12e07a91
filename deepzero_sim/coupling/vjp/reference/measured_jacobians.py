"""Jacobians at several states: one measured whole or in blocks, and how the others differ from it within windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.reference.jacobian_file import JacobianFile
from deepzero_sim.coupling.vjp.reference.reference_states import Metric
from deepzero_sim.coupling.vjp.windows import Windows

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe

#: Directions that are probed together: their states, and what the solver makes of them, take memory.
TOGETHER = 256


class BaseJacobian:
    """Jacobian of the first reference, `J ~ G R + W` over `n` active points: `G` `(n, k)`, `R` `(k, n)`, `W` `(n, n)`, sparse.

    A block is a cube of `b` points of one channel along every axis. `R` adds up what a block holds, the columns of `G` are the
    step's answers to a change of all of a block's points, divided by their number, and `W` is what is left of `J` within
    `2 b + 1` points of each: far away, a block's points have the same answer. With `b = 1`, `G` is the Jacobian itself.

    Args:
        active: Mask of the points where a state holds values, bool `(C, *N)`.
        block: Points of a block along each axis, `b`.
    """

    def __init__(self, active: np.ndarray, block: int) -> None:
        self._active = active
        self._blocks = _blocks(active, block)
        self._near = Windows(active, 2 * block + 1) if block > 1 else None
        self._coarse: Array = np.empty((0, 0))
        self._within: csr_array | None = None

    @property
    def value_count(self) -> int:
        """Number of stored values."""
        blocks, points = map(int, self._blocks.shape)
        return blocks * points + (0 if self._near is None else self._near.entries)

    @property
    def direction_count(self) -> int:
        """Number of directions that a measurement probes."""
        return int(self._blocks.shape[0]) + (0 if self._near is None else len(self._near.directions))

    def measure(
        self, state: Array, params: Array | None, advanced: Array, probes: SolverProbe, differences: Differences
    ) -> None:
        """Measure at a state, `(C, *N)`, whose step gave `advanced`.

        It takes `k` solver steps and as many as the windows have colours, twice that with central differences.
        """
        blocks, points = self._blocks.shape
        coarse = np.empty((blocks, points), state.dtype)
        for start in range(0, blocks, TOGETHER):
            some = self._blocks[start : start + TOGETHER].toarray().astype(state.dtype)
            directions = np.zeros((len(some), *state.shape), state.dtype)
            directions[:, self._active] = some
            answers = differences.jvp(probes, state, params, advanced, directions)[:, self._active]
            coarse[start : start + len(some)] = answers / some.sum(1, keepdims=True)
        self._coarse, self._blocks, self._within = coarse, self._blocks.astype(state.dtype), None
        if self._near is not None:
            answers = differences.jvp(probes, state, params, advanced, self._near.directions.astype(state.dtype))
            self._within = self._near.transpose(self.residual(answers, self._near.directions))

    def residual(self, answers: Array, directions: Array) -> Array:
        """Subtract this Jacobian's answers: `J' v - J v` from `J' v`, `(m, C, *N)`, and the directions `v`, likewise."""
        residual = np.zeros_like(answers)
        residual[:, self._active] = answers[:, self._active] - self.jvp(directions[:, self._active].astype(answers.dtype))
        return residual

    def jvp(self, directions: Array) -> Array:
        """Compute `J v` along directions, `(m, n)` to `(m, n)`."""
        answers: Array = (self._blocks @ directions.T).T @ self._coarse
        return answers if self._within is None else answers + (self._within.T @ directions.T).T

    def vjp(self, cotangents: Array) -> Array:
        """Compute `J^T w` for cotangents, `(m, n)` to `(m, n)`."""
        products: Array = (self._blocks.T @ (self._coarse @ cotangents.T)).T
        return products if self._within is None else products + (self._within @ cotangents.T).T

    def tensors(self) -> dict[str, Array]:
        """Return what was measured, for a file."""
        return {"coarse": self._coarse} | ({} if self._within is None else {"within": self._within.data})

    def load(self, tensors: dict[str, Array]) -> None:
        """Restore what :meth:`tensors` gave."""
        self._coarse = tensors["coarse"]
        self._blocks = self._blocks.astype(self._coarse.dtype)
        self._within = None if self._near is None else self._near.matrix(tensors["within"])


def _blocks(active: np.ndarray, block: int) -> csr_array:
    """Assign active points to blocks, `(k, n)`; blocks without any are left out."""
    channel, *places = np.nonzero(active)
    counts = [-(-size // block) for size in active.shape[1:]]
    numbers = np.ravel_multi_index((channel, *(place // block for place in places)), (len(active), *counts))
    occupied, rows = np.unique(numbers, return_inverse=True)
    points = np.arange(len(rows))
    return csr_array((np.ones(len(rows), np.float32), (rows, points)), shape=(len(occupied), len(rows)))


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
        self._settings = f"1 {differences.scheme} {differences.step_size} {block}", f"1 {radius}"
        self.references: list[Reference] = []
        self._coordinates: Array = np.empty((0, 0))

    def add(self, state: Array, params: Array | None, advanced: Array) -> None:
        """Measure at a state, `(C, *N)`, whose step gave `advanced`: at the first one, the whole Jacobian too."""
        new = Reference(state.copy(), params, advanced.copy(), csr_array((0, 0)))
        first = self.references[0] if self.references else new
        identity = [self._active, self.fingerprint, *first.identity]
        if first is new:
            self._base.load(self._file.get(self._settings[:1], identity, self._probes, lambda: self._measure_base(new)))
        measured = self._file.get(
            self._settings, [*identity, *new.identity], self._probes, lambda: self._measure_difference(new)
        )
        self.references.append(new._replace(difference=self._windows.matrix(measured["difference"])))
        place = self._place(state, params)
        self._coordinates = np.concatenate([self._coordinates, place]) if len(self.references) > 1 else place

    def _measure_base(self, at: Reference) -> dict[str, Array]:
        self._base.measure(at.state, at.params, at.advanced, self._probes, self._differences)
        return self._base.tensors()

    def _measure_difference(self, at: Reference) -> dict[str, Array]:
        directions = self._windows.directions.astype(at.state.dtype)
        answers = self._differences.jvp(self._probes, at.state, at.params, at.advanced, directions)
        return {"difference": self._windows.transpose(self._base.residual(answers, directions)).data}

    def nearest(self, state: Array, params: Array | None) -> Reference:
        """Find the reference nearest to a state, `(C, *N)`, and its parameters."""
        return self.references[int(np.square(self._coordinates - self._place(state, params)).sum(1).argmin())]

    def _place(self, state: Array, params: Array | None) -> Array:
        return self.metric.coordinates(state[None], None if params is None else params[None])

    def vjp(self, references: list[Reference], cotangents: Array) -> Array:
        """Compute `J(s_r)^T w` at a reference for each cotangent, `(B, n)` to `(B, n)`."""
        products = self._base.vjp(cotangents)
        for b, reference in enumerate(references):
            products[b] += reference.difference @ cotangents[b]
        return products

    def jvp(self, reference: Reference, direction: Array) -> Array:
        """Compute `J(s_r) v`, `(n,)` to `(n,)`."""
        return np.asarray(self._base.jvp(direction[None])[0] + reference.difference.T @ direction)
