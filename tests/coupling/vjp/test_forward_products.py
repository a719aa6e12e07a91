"""Products with the Jacobian itself, by which products with its transpose are judged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from jacobians import advection, exact_jacobian, masked, random_states

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp import (
    Auto,
    Coloured,
    JacobianField,
    RandomProbes,
    ReferenceJacobian,
    StepTaken,
    StraightThrough,
    VectorJacobianProduct,
)
from deepzero_sim.coupling.vjp.windows import colours, count_colours
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import Solver

PRODUCTS = (StraightThrough, Coloured, ReferenceJacobian, JacobianField, lambda: ReferenceJacobian(block=2), Auto)


def prepared(make: Callable[[], VectorJacobianProduct], solver: Solver) -> tuple[VectorJacobianProduct, StepTaken, SolverProbe]:
    method, probes = make(), SolverProbe(solver)
    method.prepare(random_states(solver, 24).numpy(), None, probes)
    states = random_states(solver, 3).numpy()
    return method, StepTaken(states, None, solver.step(states)), probes


def vectors(solver: Solver) -> Array:
    """Two for each of three states, zero in padding."""
    drawn = np.random.default_rng(3).normal(size=(2, 3, *solver.spec.state_shape))
    return np.asarray(drawn * solver.spec.active())


@pytest.mark.filterwarnings("ignore:JacobianField found no Jacobian")
@pytest.mark.parametrize("make", PRODUCTS)
@pytest.mark.parametrize("solver", [advection(), masked()], ids=["advection", "masked"])
def test_they_are_the_transpose_of_the_others(make: Callable[[], VectorJacobianProduct], solver: Solver) -> None:
    method, taken, probes = prepared(make, solver)
    v, w = vectors(solver)
    ahead, back = method.jvp(taken, v, probes), method.product(taken, w, probes)
    assert ahead.shape == v.shape
    np.testing.assert_allclose((w * ahead).sum((1, 2, 3)), (v * back).sum((1, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("make", [Coloured, ReferenceJacobian])
def test_they_are_the_jacobians_where_that_is_exact(make: Callable[[], VectorJacobianProduct]) -> None:
    solver = advection()
    method, taken, probes = prepared(make, solver)
    v = vectors(solver)[0]
    expected = v.reshape(3, -1) @ exact_jacobian(solver, taken.states[0]).T
    np.testing.assert_allclose(method.jvp(taken, v, probes).reshape(3, -1), expected, atol=1e-6)


def test_a_product_without_them_says_so() -> None:
    method, taken, probes = prepared(RandomProbes, advection())
    with pytest.raises(ConfigError, match=r"RandomProbes has no products J v, only J\^T w: judge it by check-gradient"):
        method.jvp(taken, vectors(advection())[0], probes)


@pytest.mark.parametrize("radius", [0, 1, 2, 5])
@pytest.mark.parametrize("solver", [advection((8, 6)), advection((7,), 1), masked()], ids=["plane", "line", "masked"])
def test_colours_are_counted_without_making_them(solver: Solver, radius: int) -> None:
    assert count_colours(solver.spec.active(), radius) == len(colours(solver.spec.active(), radius))
