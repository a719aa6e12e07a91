"""Compressed matrices between points of a grid: what they keep of smooth far parts, and what they leave as it is."""

from __future__ import annotations

import numpy as np
import pytest

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp import base_jacobian
from deepzero_sim.coupling.vjp.base_jacobian import BaseJacobian
from deepzero_sim.coupling.vjp.tiled_matrix import TiledMatrix, compress

#: Grids with so many channels, and flags of axes whose ends meet.
GRIDS = [((1200,), 1, False), ((36, 33), 1, False), ((24, 25), 2, True), ((18, 16, 12), 1, True)]


def points_of(shape: tuple[int, ...], channels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Places of the points of all channels, `(n, axes)`, where a tenth holds no values, and the mask of those that do."""
    active = np.random.default_rng(seed).random((channels, *shape)) > 0.1
    return np.stack(np.nonzero(active)[1:], axis=1), active


def coupled(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, ...], is_periodic: bool) -> Array:
    """Entries that fall off with the distance, with noise between neighbours."""
    apart = np.abs(rows[:, None] - columns)
    apart = np.minimum(apart, np.array(shape) - apart) if is_periodic else apart
    noise = np.random.default_rng(1).normal(size=apart.shape[:2]) * (apart.max(-1) < 2)
    return (10 / (1 + np.sqrt(np.square(apart).sum(-1))) + noise).astype(np.float32)


def made(matrix: Array, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, ...], channels: int) -> TiledMatrix:
    found = compress(matrix, rows, columns, shape, channels)
    assert found is not None
    return found


@pytest.mark.parametrize(("shape", "channels", "is_periodic"), GRIDS)
def test_products_are_those_of_the_matrix(shape: tuple[int, ...], channels: int, is_periodic: bool) -> None:
    points, _ = points_of(shape, channels)
    matrix = coupled(points, points, shape, is_periodic)
    found = made(matrix, points, points, shape, channels)
    assert 2 * found.value_count < matrix.size
    v, w = (np.random.default_rng(seed).normal(size=(3, len(points))).astype(np.float32) for seed in (2, 3))
    answers, back = found.dot(v), found.transposed().dot(w)
    assert np.linalg.norm(answers - v @ matrix.T) < 0.02 * np.linalg.norm(v @ matrix.T)
    np.testing.assert_allclose((answers * w).sum(), (back * v).sum(), rtol=1e-3)
    np.testing.assert_allclose(found.transposed().transposed().dot(v), answers, atol=1e-5)


def test_rows_may_stand_for_blocks_of_points() -> None:
    shape = (40, 40)
    points, _ = points_of(shape, 1)
    rows = points[::7]
    matrix = coupled(rows, points, shape, False)
    found = made(matrix, rows, points, shape, 1)
    v = np.random.default_rng(2).normal(size=(2, len(points))).astype(np.float32)
    assert np.linalg.norm(found.dot(v) - v @ matrix.T) < 0.02 * np.linalg.norm(v @ matrix.T)


def test_a_matrix_without_far_parts_is_its_near_ones() -> None:
    """As the Jacobian of an explicit step is: no tile has a basis then."""
    shape = (40, 40)
    points, _ = points_of(shape, 1)
    apart = np.abs(points[:, None] - points).max(-1)
    matrix = (np.random.default_rng(0).normal(size=apart.shape) * (apart < 2)).astype(np.float32)
    found = made(matrix, points, points, shape, 1)
    v = np.random.default_rng(2).normal(size=(2, len(points))).astype(np.float32)
    np.testing.assert_allclose(found.dot(v), v @ matrix.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.transposed().dot(v), v @ matrix, rtol=1e-4, atol=1e-4)


def test_what_is_small_or_not_smooth_stays_as_it_is() -> None:
    few, many = points_of((20, 20), 1)[0], points_of((36, 36), 1)[0]
    assert compress(coupled(few, few, (20, 20), False), few, few, (20, 20), 1) is None
    noise = np.random.default_rng(0).normal(size=(len(many), len(many)))
    assert compress(noise, many, many, (36, 36), 1) is None


@pytest.mark.parametrize(("block", "written_out"), [(1, 2**26), (2, 2**26), (2, 0)])
def test_a_jacobian_keeps_its_products_and_its_file(block: int, written_out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written out, and in parts where it is too large for that."""
    monkeypatch.setattr(base_jacobian, "WRITTEN_OUT", written_out)
    points, active = points_of((40, 40), 1)
    matrix = coupled(points, points, (40, 40), False)
    base = BaseJacobian(active, block)
    blocks = base._blocks.toarray()
    coarse = (blocks @ matrix / blocks.sum(1, keepdims=True)).astype(np.float32)
    tensors, near = {"coarse": coarse}, np.zeros((len(points), len(points)), np.float32)
    if base._near is not None:
        entries = np.random.default_rng(3).normal(size=base._near.nonzeros).astype(np.float32)
        tensors["within"], near = 0.02 * entries, base._near.matrix(0.02 * entries).toarray()
    base.load(tensors)
    assert base._compressed is not None and base._is_whole == (block == 1 or written_out > 0)
    assert base.tensors()["coarse"] is coarse
    w = np.random.default_rng(2).normal(size=(2, len(points))).astype(np.float32)
    exact, ahead = (w @ coarse.T) @ blocks + w @ near.T, (w @ blocks.T) @ coarse + w @ near
    assert np.linalg.norm(base.vjp(w) - exact) < 0.02 * np.linalg.norm(exact)
    assert np.linalg.norm(base.jvp(w) - ahead) < 0.02 * np.linalg.norm(ahead)
    directions = np.zeros((1, 1, 40, 40), np.float32)
    directions[:, active] = w[:1]
    answers = np.zeros_like(directions)
    answers[:, active] = ahead[:1]
    assert np.abs(base.residual(answers, directions)).max() < 1e-3, "differences are from what was measured"
