"""Building blocks of Jacobian fields: convolutions, stencils that differ from point to point, and least squares for kernels."""

from __future__ import annotations

import numpy as np
import pytest

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.field.kernel_grid import KernelGrid, convolve, correlate
from deepzero_sim.coupling.vjp.field.least_squares import KernelEquations, Term
from deepzero_sim.coupling.vjp.field.local_stencils import LocalStencils
from deepzero_sim.coupling.vjp.field.operators import FieldOperators

GRIDS = [
    ((16,), (True,)),
    ((13,), (False,)),
    ((8, 10), (True, False)),
    ((7, 9), (False, False)),
    ((4, 5, 4), (True, False, True)),
]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def inner(one: Array, other: Array) -> Array:
    return np.asarray((one * other).reshape(len(one), -1).sum(1))


def operators_on(points: tuple[int, ...], periodic: tuple[bool, ...], order: int, has_after: bool) -> FieldOperators:
    """Random operators of rank 3 of two channels with stencils of radius 1."""
    grid = KernelGrid(points, periodic)
    kernels = grid.transform(draw(5, 2, 2, *grid.shape) * grid.support) * 0.1
    local = LocalStencils(grid, 1, draw(2, 2, 3 ** len(points), *points, seed=4))
    return FieldOperators(grid, kernels[0], kernels[2:], kernels[1] if has_after else None, local, None, order)


@pytest.mark.parametrize(("points", "periodic"), GRIDS)
def test_nothing_is_carried_around_ends_that_do_not_meet(points: tuple[int, ...], periodic: tuple[bool, ...]) -> None:
    grid = KernelGrid(points, periodic)
    kernel = draw(*grid.shape) * grid.support
    found = grid.values(
        convolve(grid.transform(kernel[None, None]), grid.transform(np.eye(np.prod(points)).reshape(-1, 1, *points)))
    )
    for row, start in zip(found, np.ndindex(*points), strict=True):
        for end in np.ndindex(*points):
            offset = tuple(
                (b - a) % size if ends_meet else b - a
                for a, b, size, ends_meet in zip(start, end, grid.shape, periodic, strict=True)
            )
            np.testing.assert_allclose(row[(0, *end)], kernel[offset], atol=1e-10)


@pytest.mark.parametrize("has_after", [False, True])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("points", "periodic"), GRIDS)
def test_transposed_products_are_adjoint(
    points: tuple[int, ...], periodic: tuple[bool, ...], order: int, has_after: bool
) -> None:
    operators, v, w = operators_on(points, periodic, order, has_after), draw(4, 2, *points, seed=1), draw(4, 2, *points, seed=2)
    coefficients = draw(4, 3, *points, seed=3)
    ahead, back = operators.jvp(coefficients, v), operators.vjp(coefficients, w)
    np.testing.assert_allclose(inner(w, ahead), inner(v, back), rtol=1e-10)


@pytest.mark.parametrize("has_after", [False, True])
@pytest.mark.parametrize(("points", "periodic"), GRIDS)
def test_an_exponential_is_that_of_the_matrix(points: tuple[int, ...], periodic: tuple[bool, ...], has_after: bool) -> None:
    operators = operators_on(points, periodic, 2, has_after)
    coefficients, size = draw(1, 3, *points, seed=3), 2 * int(np.prod(points))
    eye = np.eye(size).reshape(size, 2, *points)
    many = np.repeat(coefficients, size, axis=0)
    base, varying, whole = (
        columns.reshape(size, size).T
        for columns in (operators.apply_base(eye), operators.apply_varying(many, eye), operators.jvp(many, eye))
    )
    np.testing.assert_allclose(whole, (np.eye(size) + varying + varying @ varying / 2) @ base, atol=1e-9)


@pytest.mark.parametrize("has_after", [False, True])
def test_kernels_are_found_again(has_after: bool) -> None:
    grid = KernelGrid((10, 12), (True, False))
    after = grid.identity(2) + grid.transform(draw(2, 2, *grid.shape, seed=5) * grid.support * np.exp(-2 * grid.distance)) / 4
    kernels = draw(2, 2, 2, *grid.shape) * grid.support * np.exp(-2 * grid.distance)
    v, weights = draw(60, 2, 10, 12, seed=1), draw(60, 10, 12, seed=2)
    transforms = grid.transform(kernels)
    products = [grid.values(convolve(kernel, grid.transform(v))) for kernel in transforms]
    rates = weights[:, None] * products[1]
    answers = products[0] + (grid.values(convolve(after, grid.transform(rates))) if has_after else rates)
    equations = KernelEquations(grid, [Term(None, v), Term(weights, v)], 2, after if has_after else None)
    found = grid.kernels(equations.solve(answers))
    assert np.linalg.norm(found - kernels) < 0.02 * np.linalg.norm(kernels)


def test_correlation_is_the_transposed_convolution() -> None:
    grid = KernelGrid((6, 7), (True, True))
    kernels, v, w = (grid.transform(draw(*shape, 6, 7, seed=n)) for n, shape in enumerate([(3, 2), (4, 2), (4, 3)]))
    ahead, back = grid.values(convolve(kernels, v)), grid.values(correlate(kernels, w))
    np.testing.assert_allclose(inner(grid.values(w), ahead), inner(grid.values(v), back), rtol=1e-10)


@pytest.mark.parametrize(("points", "periodic"), GRIDS)
def test_stencils_of_every_point_are_found(points: tuple[int, ...], periodic: tuple[bool, ...]) -> None:
    grid = KernelGrid(points, periodic)
    true = LocalStencils(grid, 1, draw(2, 2, 3 ** len(points), *points, seed=4))
    v = draw(200, 2, *points)
    found = LocalStencils.fit(grid, 1, v, true.jvp(v))
    assert np.linalg.norm(found.jvp(v) - true.jvp(v)) < 0.07 * np.linalg.norm(true.jvp(v)), "the ridge takes a twentieth"
    nothing = LocalStencils.none(grid, 2, v.dtype)
    assert not nothing.jvp(v).any()
    assert not nothing.vjp(v).any()
