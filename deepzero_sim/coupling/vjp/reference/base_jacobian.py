"""The Jacobian of a step at one state, measured whole or, on large grids, in blocks with windows around every point."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.windows import Windows

#: Directions that are probed together: their states, and what the solver makes of them, take memory.
TOGETHER = 256


class BaseJacobian:
    """`J ~ G R + W` over the `n` active points, `G` `(n, k)`, `R` `(k, n)`, `W` `(n, n)` and sparse.

    A block is a cube of `b` points of one channel along every axis. `R` adds up what a block holds, the columns of `G` are the
    step's answers to a change of all of a block's points, divided by their number, and `W` is what is left of `J` within
    `2 b + 1` points of each: far away, a block's points have the same answer. With `b = 1`, `G` is the Jacobian itself.

    Args:
        active: bool `(C, *N)`, where a state holds values.
        block: `b`.
    """

    def __init__(self, active: np.ndarray, block: int) -> None:
        self._active = active
        self._blocks = _blocks(active, block)
        self._near = Windows(active, 2 * block + 1) if block > 1 else None
        self._coarse: Array = np.empty((0, 0))
        self._within: csr_array | None = None

    @property
    def numbers(self) -> int:
        """That it takes to hold."""
        blocks, points = map(int, self._blocks.shape)
        return blocks * points + (0 if self._near is None else self._near.entries)

    @property
    def directions(self) -> int:
        """That it is measured along."""
        return int(self._blocks.shape[0]) + (0 if self._near is None else len(self._near.directions))

    def measure(
        self, state: Array, params: Array | None, advanced: Array, probes: SolverProbe, differences: Differences
    ) -> None:
        """At a state, `(C, *N)`, whose step gave `advanced`.

        It takes `k` solver steps and as many as the windows have colours, twice that if central.

        Raises:
            SolverError: the solver failed.
        """
        blocks, points = self._blocks.shape
        coarse = np.empty((blocks, points), state.dtype)
        for start in range(0, blocks, TOGETHER):
            some = self._blocks[start : start + TOGETHER].toarray().astype(state.dtype)
            directions = np.zeros((len(some), *state.shape), state.dtype)
            directions[:, self._active] = some
            answers = differences.along(probes, state, params, advanced, directions)[:, self._active]
            coarse[start : start + len(some)] = answers / some.sum(1, keepdims=True)
        self._coarse, self._blocks, self._within = coarse, self._blocks.astype(state.dtype), None
        if self._near is not None:
            answers = differences.along(probes, state, params, advanced, self._near.directions.astype(state.dtype))
            self._within = self._near.transposed(self.left_of(answers, self._near.directions))

    def left_of(self, answers: Array, directions: Array) -> Array:
        """`J' v - J v` of answers `J' v`, `(m, C, *N)`, to directions `v`, likewise."""
        left = np.zeros_like(answers)
        left[:, self._active] = answers[:, self._active] - self.along(directions[:, self._active].astype(answers.dtype))
        return left

    def along(self, directions: Array) -> Array:
        """`J v` of directions, `(m, n)` to `(m, n)`."""
        answers: Array = (self._blocks @ directions.T).T @ self._coarse
        return answers if self._within is None else answers + (self._within.T @ directions.T).T

    def transposed(self, cotangents: Array) -> Array:
        """`J^T w` of cotangents, `(m, n)` to `(m, n)`."""
        products: Array = (self._blocks.T @ (self._coarse @ cotangents.T)).T
        return products if self._within is None else products + (self._within @ cotangents.T).T

    def tensors(self) -> dict[str, Array]:
        """What was measured, to be kept."""
        return {"coarse": self._coarse} | ({} if self._within is None else {"within": self._within.data})

    def take(self, tensors: dict[str, Array]) -> None:
        """Take up what was kept."""
        self._coarse = tensors["coarse"]
        self._blocks = self._blocks.astype(self._coarse.dtype)
        self._within = None if self._near is None else self._near.filled(tensors["within"])


def _blocks(active: np.ndarray, block: int) -> csr_array:
    """Which active points lie in which block, `(k, n)`; blocks without any are left out."""
    channel, *places = np.nonzero(active)
    counts = [-(-size // block) for size in active.shape[1:]]
    numbers = np.ravel_multi_index((channel, *(place // block for place in places)), (len(active), *counts))
    kept, rows = np.unique(numbers, return_inverse=True)
    points = np.arange(len(rows))
    return csr_array((np.ones(len(rows), np.float32), (rows, points)), shape=(len(kept), len(rows)))
