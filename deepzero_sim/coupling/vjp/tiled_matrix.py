"""Matrices between points of a grid whose far parts are smooth, stored and applied in a small part of their size."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from deepzero_sim.common.types import Array

#: Columns of a tile, about; share of the mean square of a row that far parts may lose, as a norm; least columns that pay.
TILE, LOST, LEAST = 32, 2e-2, 1024


class Tiles(NamedTuple):
    """Cubes of points of a grid, of all channels together.

    Args:
        members: Numbers of the points of each tile, `(T, d)`; the number of all points where a tile has fewer than others.
        places: Place of each tile on the grid of tiles, `(T, axes)`.
    """

    members: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, shape: tuple[int, ...]) -> Tiles:
        """Divide points, given by the place of their tile, `(n, axes)`, on a grid of tiles `(*T)`."""
        numbers = np.ravel_multi_index(tuple(points.T), shape)
        counts = np.bincount(numbers, minlength=math.prod(shape))
        members = np.full((len(counts), counts.max()), len(points))
        order = np.argsort(numbers, kind="stable")
        members[numbers[order], np.concatenate([np.arange(count) for count in counts])] = order
        return cls(members, np.stack(np.unravel_index(np.arange(len(counts)), shape), axis=1))

    def gather(self, vectors: Array) -> Array:
        """Sort vectors, `(m, n)`, by tiles: `(T, d, m)`, with zeros where there is no point."""
        padded = np.zeros((vectors.shape[1] + 1, len(vectors)), vectors.dtype)
        padded[:-1] = vectors.T
        return np.asarray(padded[self.members])

    def scatter(self, values: Array, count: int) -> Array:
        """Undo :meth:`gather` for `n` points."""
        found = np.empty((count + 1, values.shape[2]), values.dtype)
        found[self.members] = values
        return found[:-1].T


class TiledMatrix:
    """Matrix `A ~ N + U S V^T`: whole between near tiles, `N`, and of low rank between tiles that do not touch.

    All far tiles share one basis of a tile's rows, and one of its columns, as in an `H^2`-matrix of one level (Hackbusch and
    Börm, Computing 69, 2002): singular vectors of everything far from it.

    Args:
        rows: Tiles of the rows.
        columns: Tiles of the columns.
        near: Numbers of the tiles that touch each tile, itself among them, `(T, q)`; `T` where there are fewer.
        blocks: Entries between near tiles, `(T, d, q d')`.
        row_basis: Bases of the tiles' rows, `U`, `(T, d, r)`.
        coupling: Weights between far tiles' bases, `S`, of those columns of all bases that are not zero.
        column_basis: Bases of the tiles' columns, `V`, `(T, d', r')`.
        shape: Numbers of rows and columns.
    """

    def __init__(
        self,
        rows: Tiles,
        columns: Tiles,
        near: np.ndarray,
        blocks: Array,
        row_basis: Array,
        coupling: Array,
        column_basis: Array,
        shape: tuple[int, int],
    ) -> None:
        self._rows, self._columns, self._near, self._blocks = rows, columns, near, blocks
        self._row_basis, self._coupling, self._column_basis = row_basis, coupling, column_basis
        self._row_used, self._column_used = (basis.any(axis=1).reshape(-1) for basis in (row_basis, column_basis))
        self._shape = shape

    @property
    def value_count(self) -> int:
        """Number of stored values."""
        return self._blocks.size + self._row_basis.size + self._coupling.size + self._column_basis.size

    def dot(self, vectors: Array) -> Array:
        """Multiply with vectors, `(m, columns)` to `(m, rows)`."""
        parts = self._columns.gather(vectors)
        tiles, size, many = parts.shape
        around = np.concatenate([parts, np.zeros((1, size, many), parts.dtype)])[self._near]
        found = self._blocks @ around.reshape(tiles, -1, many)
        sums = (self._column_basis.transpose(0, 2, 1) @ parts).reshape(-1, many)[self._column_used]
        weights = np.zeros((len(self._row_used), many), parts.dtype)
        weights[self._row_used] = (self._coupling @ sums.T[:, :, None])[:, :, 0].T  # faster than for all at once, if few
        found += self._row_basis @ weights.reshape(tiles, -1, many)
        return self._rows.scatter(found, self._shape[0])

    def transposed(self) -> TiledMatrix:
        """Make the transposed matrix."""
        tiles, size = self._columns.members.shape
        blocks = self._blocks.reshape(tiles, -1, self._near.shape[1], size)
        slots = _slots_of_transposed(self._near)
        padded = np.concatenate([blocks, np.zeros_like(blocks[:1])])
        turned = padded[self._near, :, slots].transpose(0, 3, 1, 2).reshape(tiles, size, -1)
        basis = self._column_basis, np.ascontiguousarray(self._coupling.T), self._row_basis
        return TiledMatrix(self._columns, self._rows, self._near, np.ascontiguousarray(turned), *basis, self._shape[::-1])


def compress(matrix: Array, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, ...], channels: int) -> TiledMatrix | None:
    """Compress a matrix between points of a grid; None if it is small, or hardly gets smaller.

    Args:
        matrix: Matrix, `(k, n)`.
        rows: Place on the grid of what each row stands for, `(k, axes)`.
        columns: Place of each column's point, `(n, axes)`.
        shape: Points along each axis, `(*N)`.
        channels: Number of values at a point.
    """
    if matrix.shape[1] < LEAST:
        return None
    side = max(1, round((TILE / channels) ** (1 / len(shape))))
    grid = tuple(-(-size // side) for size in shape)
    row_tiles, column_tiles = Tiles.of(rows // side, grid), Tiles.of(columns // side, grid)
    touching = _find_touching(row_tiles.places, grid)
    allowed = LOST**2 * float(np.einsum("ij,ij->", matrix, matrix, dtype=np.float64)) / len(matrix)  # makes no copy
    row_basis = _bases(matrix, row_tiles, column_tiles, touching, allowed)
    column_basis = _bases(matrix.T, column_tiles, row_tiles, touching, allowed)
    coupling = _couple(matrix, row_tiles, column_tiles, touching, row_basis, column_basis)
    near = _neighbours(touching)
    beyond = np.full((1, column_tiles.members.shape[1]), matrix.shape[1])
    around = np.concatenate([column_tiles.members, beyond])[near].reshape(len(near), -1)
    blocks = _entries(matrix, row_tiles.members[:, :, None], around[:, None])
    shape_of_matrix = (matrix.shape[0], matrix.shape[1])
    made = TiledMatrix(row_tiles, column_tiles, near, blocks, row_basis, coupling, column_basis, shape_of_matrix)
    return made if 2 * made.value_count < matrix.size else None


def _find_touching(places: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Tell which tiles touch each other, around the ends of axes too, bool `(T, T)`; each touches itself."""
    distance = np.abs(places[:, None] - places)
    return np.asarray((np.minimum(distance, np.array(grid) - distance) <= 1).all(-1))


def _neighbours(touching: np.ndarray) -> np.ndarray:
    """List the tiles that touch each tile, `(T, q)`; `T` where there are fewer than elsewhere."""
    near = np.full((len(touching), touching.sum(1).max()), len(touching))
    for tile, row in enumerate(touching):
        near[tile, : row.sum()] = np.flatnonzero(row)
    return near


def _entries(matrix: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """Pick entries, zero beyond the last row or column: a matrix as large as memory allows is not copied for that."""
    count, size = matrix.shape
    picked = matrix[np.minimum(rows, count - 1), np.minimum(columns, size - 1)]
    return np.asarray(np.where((rows < count) & (columns < size), picked, 0), matrix.dtype)


def _slots_of_transposed(near: np.ndarray) -> np.ndarray:
    """Find each tile's place among those that touch its neighbours, `(T, q)`; 0 where there is no neighbour."""
    tiles = np.arange(len(near))[:, None, None]
    neighbours = np.concatenate([near, np.full_like(near[:1], -1)])[near]
    return np.asarray((neighbours == tiles).argmax(-1))


def _bases(matrix: Array, rows: Tiles, columns: Tiles, touching: np.ndarray, allowed: float) -> Array:
    """Choose a basis of each tile's rows: the leading left singular vectors of its far part, `(T, d, r)`, padded by zeros."""
    found = []
    for members, near in zip(rows.members, touching, strict=True):
        far = _entries(matrix, members[:, None], columns.members[~near].reshape(-1)).astype(np.float64)
        squares, vectors = np.linalg.eigh(far @ far.T)
        found.append(vectors[:, np.cumsum(squares) > allowed])  # from the smallest on, as long as all left out are allowed
    bases = np.zeros((len(found), rows.members.shape[1], max(one.shape[1] for one in found)), matrix.dtype)
    for tile, one in enumerate(found):
        bases[tile, :, : one.shape[1]] = one
    return bases


def _couple(matrix: Array, rows: Tiles, columns: Tiles, touching: np.ndarray, row_basis: Array, column_basis: Array) -> Array:
    """Compute the weights `U_i^T A_ij V_j` of far tiles `i` and `j`, for all columns of bases that are not zero."""
    tiles, _, rank = row_basis.shape
    coupling = np.zeros((tiles, rank, tiles, column_basis.shape[2]), matrix.dtype)
    for tile, (members, near) in enumerate(zip(rows.members, touching, strict=True)):
        far = np.flatnonzero(~near)
        some = _entries(matrix, members[:, None], columns.members[far].reshape(-1))
        seen = (row_basis[tile].T @ some).reshape(rank, len(far), column_basis.shape[1]).transpose(1, 0, 2)
        coupling[tile][:, far] = (seen @ column_basis[far]).transpose(1, 0, 2)
    used = [np.flatnonzero(basis.any(axis=1)) for basis in (row_basis, column_basis)]
    return np.ascontiguousarray(coupling.reshape(tiles * rank, tiles * column_basis.shape[2])[np.ix_(*used)])
