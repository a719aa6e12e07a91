"""Restrictions against exact solutions: cell means of polynomials, waves, conserved means, orders of convergence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from deepzero_sim.datasets.fitting.restriction import (
    RESTRICTIONS,
    Points,
    UnsuitableError,
    block_mean,
    cubic_interpolation,
    face_mean,
    injection,
    interpolation,
    restrict_axis,
    same,
    spectral,
)
from deepzero_sim.solvers.wake import WakeGrid, downsample


def cells(count: int, length: float = 1.0, start: float = 0.0, **more: object) -> Points:
    spacing = length / count
    return Points(count=count, positions=start + (np.arange(count) + 0.5) * spacing, on_faces=False, **more)


def faces(count: int, length: float = 1.0, start: float = 0.0, **more: object) -> Points:
    """Faces of `count - 1` cells, both walls included."""
    return Points(count=count, positions=start + np.linspace(0, length, count), on_faces=True, **more)


def nodes(count: int, length: float = 1.0, start: float = 0.0, **more: object) -> Points:
    """Points of a periodic axis, the first at its origin."""
    return Points(count=count, positions=start + np.arange(count) * length / count, periodic=True, **more)


def cell_means(points: Points, power: int) -> np.ndarray:
    """Exact means of `x ** power` over the cells around points."""
    half = points.spacing / 2
    ends = [(points.positions + side * half) ** (power + 1) / (power + 1) for side in (1, -1)]
    return (ends[0] - ends[1]) / (2 * half)


@given(coarse=st.integers(2, 9), factor=st.integers(1, 6), power=st.integers(0, 5), start=st.floats(-3, 3))
def test_block_means_of_cell_means_are_cell_means(coarse: int, factor: int, power: int, start: float) -> None:
    """Exactly, for polynomials of any degree: the mean over a cell is that of its parts."""
    fine, wanted = cells(coarse * factor, 2.0, start), cells(coarse, 2.0, start)
    restricted = restrict_axis(cell_means(fine, power), block_mean(fine, wanted), 0)
    np.testing.assert_allclose(restricted, cell_means(wanted, power), rtol=1e-9, atol=1e-9 * 5.0**power)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), dimensions=st.integers(1, 3), name=st.sampled_from(["block_mean", "spectral"]))
def test_the_mean_is_conserved_in_any_dimension(data: st.DataObject, dimensions: int, name: str) -> None:
    shape = [data.draw(st.integers(1, 5)) for _ in range(dimensions)]
    factors = [data.draw(st.integers(1, 4)) for _ in range(dimensions)]
    seed = data.draw(st.integers(0, 2**32 - 1))
    values = np.random.default_rng(seed).normal(size=[2, *np.multiply(shape, factors)])
    restricted = values
    for axis, (count, factor) in enumerate(zip(shape, factors, strict=True)):
        make = cells if name == "block_mean" else nodes
        weights = RESTRICTIONS[name](make(count * factor), make(count))
        restricted = restrict_axis(restricted, weights, axis + 1)
    assert restricted.shape == (2, *shape)
    axes = tuple(range(1, dimensions + 1))
    if name == "block_mean" or all(count % 2 for count in shape):  # the wave that alternates on the grid may be aliased
        np.testing.assert_allclose(restricted.mean(axis=axes), values.mean(axis=axes), atol=1e-12)


@given(coarse=st.integers(1, 12), factor=st.integers(1, 5), shift=st.floats(-2, 2), seed=st.integers(0, 2**32 - 1))
def test_weights_of_every_restriction_add_up_to_one(coarse: int, factor: int, shift: float, seed: int) -> None:
    """So that a constant stays what it is."""
    fine, wanted = cells(coarse * factor + 1, start=shift, periodic=True), cells(coarse, start=shift)
    for make in (spectral, interpolation, cubic_interpolation):
        if fine.count > 1:
            np.testing.assert_allclose(make(fine, wanted).sum(axis=1), 1.0, atol=1e-9)


@settings(deadline=None)
@given(fine=st.integers(1, 24), coarse=st.integers(1, 24), offset=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_waves_that_the_solver_resolves_are_exact_under_a_spectral_cut(
    fine: int, coarse: int, offset: float, seed: int
) -> None:
    """At the solver's points, wherever they lie between the file's; shorter waves are gone. Odd and even numbers alike."""
    if coarse > fine:
        return
    generator = np.random.default_rng(seed)
    file = nodes(fine, 3.0)
    solver = Points(count=coarse, positions=(np.arange(coarse) + offset) * 3.0 / coarse)
    values, wanted = np.zeros(fine), np.zeros(coarse)
    for wave in range((fine - 1) // 2 + 1):
        amplitude, phase = generator.normal(), generator.uniform(0, 2 * np.pi)
        values += amplitude * np.cos(2 * np.pi * wave * file.positions / 3.0 + phase)
        if 2 * wave <= coarse:
            wanted += amplitude * np.cos(2 * np.pi * wave * solver.positions / 3.0 + phase)
    np.testing.assert_allclose(restrict_axis(values, spectral(file, solver), 0), wanted, atol=1e-10)


@given(fine=st.integers(2, 40), coarse=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_a_spectral_cut_is_that_of_scipy(fine: int, coarse: int, seed: int) -> None:
    """Its Nyquist wave included, for all numbers of points; only scipy's choice for equal numbers is trivial."""
    if coarse > fine:
        return
    values = np.random.default_rng(seed).normal(size=fine)
    restricted = restrict_axis(values, spectral(nodes(fine), nodes(coarse)), 0)
    np.testing.assert_allclose(restricted, signal.resample(values, coarse), atol=1e-10)


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("resolution", [8, 12])
def test_face_means_are_those_of_the_wake(resolution: int, factor: int) -> None:
    """Which conserve the flux through every coarse face."""
    fine, coarse = WakeGrid(resolution * factor), WakeGrid(resolution)
    states = np.random.default_rng(0).normal(size=(3, *fine.spec("wake", "float64").state_shape))
    states *= fine.spec("wake", "float64").active()
    expected = downsample(states, factor)
    (height, width), (h, w) = fine.shape, coarse.shape
    normal, tangent = (faces(height + 1, 200.0), faces(h + 1, 200.0)), (cells(width, 100.0), cells(w, 100.0))
    along_y = restrict_axis(states[:, 0, :, :width], face_mean(*normal), 1)
    np.testing.assert_allclose(restrict_axis(along_y, face_mean(*tangent), 2), expected[:, 0, :, :w], atol=1e-13)
    normal, tangent = (faces(width + 1, 100.0), faces(w + 1, 100.0)), (cells(height, 200.0), cells(h, 200.0))
    across = restrict_axis(states[:, 1, :height], face_mean(*tangent), 1)
    np.testing.assert_allclose(restrict_axis(across, face_mean(*normal), 2), expected[:, 1, :h], atol=1e-13)


@given(cells_of_coarse=st.integers(1, 6), factor=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_face_means_keep_a_flow_free_of_divergence(cells_of_coarse: int, factor: int, seed: int) -> None:
    """A stream function makes one on the fine grid, and its coarse flow has none either."""
    n, m = cells_of_coarse * factor, cells_of_coarse
    stream = np.random.default_rng(seed).normal(size=(n + 1, n + 1))
    fine, coarse = (faces(n + 1), cells(n)), (faces(m + 1), cells(m))
    v_y, v_x = np.diff(stream, axis=1) * n, -np.diff(stream, axis=0) * n
    face, cell = (face_mean(one, other) for one, other in zip(fine, coarse, strict=True))
    coarse_y = restrict_axis(restrict_axis(v_y, face, 0), cell, 1)
    coarse_x = restrict_axis(restrict_axis(v_x, cell, 0), face, 1)
    np.testing.assert_allclose(np.diff(coarse_y, axis=0) + np.diff(coarse_x, axis=1), 0, atol=1e-10 * n)


@pytest.mark.parametrize(("make", "order"), [(interpolation, 2), (cubic_interpolation, 4)])
@pytest.mark.parametrize("periodic", [True, False])
def test_interpolation_converges_at_its_order_between_uneven_points(make: object, order: int, periodic: bool) -> None:
    errors = []
    for count in (80, 160):
        shares = np.arange(count) / count if periodic else np.linspace(0, 1, count)
        fine = Points(count=count, positions=shares + 0.1 * np.sin(2 * np.pi * shares) / (2 * np.pi), periodic=periodic)
        coarse = cells(997)
        restricted = restrict_axis(np.sin(2 * np.pi * fine.positions + 1), make(fine, coarse), 0)
        errors.append(np.abs(restricted - np.sin(2 * np.pi * coarse.positions + 1)).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.4)


def test_linear_interpolation_is_exact_for_lines_and_wraps_around() -> None:
    fine, coarse = faces(7), cells(3)
    np.testing.assert_allclose(restrict_axis(2 * fine.positions - 1, interpolation(fine, coarse), 0), 2 * coarse.positions - 1)
    around = interpolation(nodes(4), Points(count=4, positions=np.array([0.125, 0.375, 0.625, 0.875])))
    np.testing.assert_allclose(restrict_axis(np.array([0.0, 1, 2, 3]), around, 0), [0.5, 1.5, 2.5, 1.5])


@given(data=st.data(), name=st.sampled_from(sorted(RESTRICTIONS)))
def test_an_axis_may_run_the_other_way(data: st.DataObject, name: str) -> None:
    """As latitudes do: values go where their positions are."""
    factor, count = data.draw(st.integers(1, 3)), data.draw(st.integers(2, 6))
    grid = {"injection": nodes, "spectral": nodes}.get(name, cells)
    fine, coarse = grid(count * factor), grid(count)
    values = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=fine.count)
    upright = restrict_axis(values, RESTRICTIONS[name](fine, coarse), 0)
    np.testing.assert_allclose(restrict_axis(values[::-1], RESTRICTIONS[name](fine.reverse(), coarse), 0), upright, atol=1e-12)
    turned = RESTRICTIONS[name](fine.reverse(), coarse.reverse())
    np.testing.assert_allclose(restrict_axis(values[::-1], turned, 0), upright[::-1], atol=1e-12)


def test_values_of_equal_grids_are_the_same_bit_for_bit() -> None:
    values = np.random.default_rng(0).normal(size=9).astype(np.float32)
    for make in (same, block_mean, face_mean, interpolation, injection):
        np.testing.assert_array_equal(restrict_axis(values, make(cells(9), cells(9)), 0).astype(np.float32), values)


def test_missing_values_reach_only_those_that_are_made_of_them() -> None:
    values = np.arange(8.0)
    values[3] = np.nan
    assert np.isnan(restrict_axis(values, block_mean(cells(8), cells(4)), 0)).tolist() == [False, True, False, False]


def test_positions_rounded_to_float32_are_the_same_positions() -> None:
    rounded = Points(count=1024, positions=cells(1024).positions.astype(np.float32).astype(np.float64), periodic=True)
    for name in ("block_mean", "spectral", "interpolation"):
        assert RESTRICTIONS[name](rounded, cells(256)).shape == (256, 1024)


def test_without_positions_numbers_of_points_decide() -> None:
    def bare(count: int, on_faces: bool | None = None) -> Points:
        return Points(count=count, on_faces=on_faces)

    np.testing.assert_allclose(restrict_axis(np.arange(6.0), block_mean(bare(6), bare(3)), 0), [0.5, 2.5, 4.5])
    np.testing.assert_allclose(restrict_axis(np.arange(7.0), face_mean(bare(7), bare(4)), 0), [0, 2, 4, 6])
    np.testing.assert_allclose(restrict_axis(np.arange(7.0), injection(bare(7), bare(4)), 0), [0, 2, 4, 6])
    np.testing.assert_allclose(restrict_axis(np.arange(6.0), injection(bare(6), bare(3)), 0), [0, 2, 4])
    np.testing.assert_allclose(restrict_axis(np.arange(9.0), face_mean(bare(9), bare(3, on_faces=True)), 0), [0, 4, 8])
    with pytest.raises(UnsuitableError, match="give the solver's spec offsets"):
        face_mean(bare(9), bare(3))


@pytest.mark.parametrize(
    ("name", "fine", "coarse", "words"),
    [
        ("block_mean", cells(10), cells(4), "10 points, no whole multiple of 4"),
        (
            "block_mean",
            nodes(8),
            nodes(4),
            "would give values at 0.0625, 0.3125 ... 0.8125, but the solver has them at 0, 0.25",
        ),
        ("block_mean", Points(count=4, positions=np.array([0, 1, 3, 7.0])), cells(2), "cells of different sizes"),
        ("block_mean", cells(8, 2.0), cells(4), "would give values at"),
        ("face_mean", faces(9), nodes(3), "would give values at"),
        ("spectral", cells(8, periodic=False), cells(4), "does not wrap around"),
        ("spectral", nodes(4), nodes(8), "fewer than 8"),
        ("spectral", nodes(8, 2.0), nodes(4), "has the period 2, not 1"),
        ("spectral", faces(9), nodes(4), "has the period 1.125, not 1"),
        ("interpolation", cells(8), faces(5), "2 of the solver's points, from 0 to 1, lie outside"),
        ("interpolation", Points(count=8), cells(4), "the file must say them"),
        ("interpolation", cells(8), Points(count=4), "the solver's spec must say spacing and offsets"),
        ("injection", cells(8), cells(4), "would give values at"),
    ],
)
def test_a_restriction_that_cannot_be_says_why(name: str, fine: Points, coarse: Points, words: str) -> None:
    with pytest.raises(UnsuitableError, match=words):
        RESTRICTIONS[name](fine, coarse)
