"""Jacobian at one state, measured whole or in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.stored_arrays import StoredArrays
from deepzero_sim.coupling.vjp.tiled_matrix import TiledMatrix, compress
from deepzero_sim.coupling.vjp.windows import Windows, count_colours

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe

#: Directions that are probed together: their states, and what the solver makes of them, take memory.
TOGETHER = 256

#: Most values of a Jacobian in blocks that is written out to be compressed as a whole.
WRITTEN_OUT = 2**26


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
        self._near = Windows(active, _near_radius(block)) if block > 1 else None
        self._block = block
        self._coarse: Array = np.empty((0, 0))
        self._compressed: tuple[TiledMatrix, TiledMatrix] | None = None
        self._is_whole = True
        self._within: csr_array | None = None

    @property
    def value_count(self) -> int:
        """Number of stored values."""
        blocks, points = map(int, self._blocks.shape)
        return blocks * points + (0 if self._near is None else self._near.entries)

    @property
    def direction_count(self) -> int:
        """Number of directions that a measurement probes."""
        return int(self._blocks.shape[0]) + self.near_direction_count

    @property
    def near_direction_count(self) -> int:
        """Number of directions among them that tell what is near: the larger the blocks are, the more."""
        return 0 if self._near is None else count_colours(self._active, _near_radius(self._block))

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
        self._coarse, self._blocks, self._within, self._compressed = coarse, self._blocks.astype(state.dtype), None, None
        if self._near is not None:
            answers = differences.jvp(probes, state, params, advanced, self._near.directions.astype(state.dtype))
            self._within = self._near.transpose(self.residual(answers, self._near.directions))
        self._compress()

    def _compress(self) -> None:
        """Compress `J^T` for products, or `G` where `J` is too large to be written out: they cost a tenth then.

        `G` and `W` themselves are kept for the file.
        """
        channels, *shape = self._active.shape
        points = np.stack(np.nonzero(self._active)[1:], axis=1)
        self._is_whole = self._within is None or len(points) ** 2 <= WRITTEN_OUT
        rows = points if self._is_whole else points[self._blocks.indices[self._blocks.indptr[:-1]]]
        matrix = self._coarse
        if self._within is not None and self._is_whole:
            matrix = self._blocks.T @ self._coarse + self._within.toarray()
        made = compress(matrix, rows, points, tuple(shape), channels)
        self._compressed = None if made is None else (made, made.transposed())

    def residual(self, answers: Array, directions: Array) -> Array:
        """Subtract this Jacobian's answers: `J' v - J v` from `J' v`, `(m, C, *N)`, and the directions `v`, likewise."""
        residual = np.zeros_like(answers)
        known = self._jvp(directions[:, self._active].astype(answers.dtype), None)
        residual[:, self._active] = answers[:, self._active] - known
        return residual

    def jvp(self, directions: Array) -> Array:
        """Compute `J v` along directions, `(m, n)` to `(m, n)`."""
        if self._compressed is not None and self._is_whole:
            return self._compressed[1].dot(directions)
        return self._jvp(directions, self._compressed)

    def _jvp(self, directions: Array, compressed: tuple[TiledMatrix, TiledMatrix] | None) -> Array:
        sums: Array = (self._blocks @ directions.T).T
        answers = sums @ self._coarse if compressed is None else compressed[1].dot(sums)
        return answers if self._within is None else answers + (self._within.T @ directions.T).T

    def vjp(self, cotangents: Array) -> Array:
        """Compute `J^T w` for cotangents, `(m, n)` to `(m, n)`."""
        if self._compressed is not None and self._is_whole:
            return self._compressed[0].dot(cotangents)
        sums = cotangents @ self._coarse.T if self._compressed is None else self._compressed[0].dot(cotangents)
        products: Array = (self._blocks.T @ sums.T).T
        return products if self._within is None else products + (self._within @ cotangents.T).T

    def tensors(self) -> dict[str, Array]:
        """Return what was measured, for a file."""
        return {"coarse": self._coarse} | ({} if self._within is None else {"within": self._within.data})

    def check(self, stored: StoredArrays) -> None:
        """Refuse arrays that are not what :meth:`tensors` gives."""
        stored.numbers("coarse", *self._blocks.shape)
        if self._near is not None:
            stored.numbers("within", self._near.nonzeros)

    def load(self, tensors: dict[str, Array]) -> None:
        """Restore what :meth:`tensors` gave."""
        self._coarse = tensors["coarse"]
        self._blocks = self._blocks.astype(self._coarse.dtype)
        self._within = None if self._near is None else self._near.matrix(tensors["within"])
        self._compress()


def _near_radius(block: int) -> int:
    return 2 * block + 1


def _blocks(active: np.ndarray, block: int) -> csr_array:
    """Assign active points to blocks, `(k, n)`; blocks without any are left out."""
    channel, *places = np.nonzero(active)
    counts = [-(-size // block) for size in active.shape[1:]]
    numbers = np.ravel_multi_index((channel, *(place // block for place in places)), (len(active), *counts))
    occupied, rows = np.unique(numbers, return_inverse=True)
    points = np.arange(len(rows))
    return csr_array((np.ones(len(rows), np.float32), (rows, points)), shape=(len(occupied), len(rows)))
