"""Probes that put another product right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from jacobians import diffused_advection, exact_jacobian, masked, random_states

from deepzero_sim.common.types import Scheme
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp import CoordinateProbes, RandomProbes, ReferenceJacobian, StepTaken, VectorJacobianProduct
from deepzero_sim.errors import ConfigError

SOLVER = masked()
STATES = np.asarray(random_states(SOLVER, 2).numpy())
TAKEN = StepTaken(STATES, None, SOLVER.step(STATES))
W = np.random.default_rng(0).normal(size=STATES.shape) * SOLVER.spec.active()
EXPECTED = np.stack([(w.reshape(-1) @ exact_jacobian(SOLVER, s)).reshape(s.shape) for s, w in zip(STATES, W, strict=True)])


def test_random_probes_are_right_on_average() -> None:
    found = [RandomProbes(4, seed=seed).product(TAKEN, W, SolverProbe(SOLVER)) for seed in range(400)]
    error = np.mean(found, 0) - EXPECTED
    chance = np.std(found, 0) / np.sqrt(len(found))
    active = np.broadcast_to(SOLVER.spec.active(), error.shape)
    assert (np.abs(error[active]) < 5 * chance[active]).all() and (error[~active] == 0).all()
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[7], RandomProbes(4, seed=7).product(TAKEN, W, SolverProbe(SOLVER)))


@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_coordinates_are_exact_where_they_are_probed(scheme: Scheme) -> None:
    probes = SolverProbe(SOLVER)
    found = CoordinateProbes(7, scheme=scheme).product(TAKEN, W, probes)
    assert probes.steps == 2 * 7 * (1 if scheme == "forward" else 2)
    for product, w, expected in zip(found.reshape(2, -1), W.reshape(2, -1), EXPECTED.reshape(2, -1), strict=True):
        largest = np.argsort(-np.abs(w))[:7]
        np.testing.assert_allclose(product[largest], expected[largest], atol=1e-6)
        others = np.setdiff1d(np.arange(w.size), largest)
        np.testing.assert_array_equal(product[others], w[others])
    everywhere = CoordinateProbes(10**6).product(TAKEN, W, SolverProbe(SOLVER))
    np.testing.assert_allclose(everywhere, EXPECTED, atol=1e-6)


def test_nothing_is_left_to_chance_where_the_control_is_exact() -> None:
    control = ReferenceJacobian(2)
    found = RandomProbes(1, control).product(TAKEN, W, SolverProbe(SOLVER))
    np.testing.assert_allclose(found, EXPECTED, atol=1e-6)


def test_a_control_is_prepared_and_kept() -> None:
    solver = diffused_advection((5, 4))
    states = np.asarray(random_states(solver, 3).numpy())
    probes = SolverProbe(solver)
    methods: list[VectorJacobianProduct] = [RandomProbes(2, ReferenceJacobian(3)), CoordinateProbes(2, ReferenceJacobian(3))]
    for method in methods:
        method.prepare(states, None, probes)
        state_dict = method.state_dict()
        assert state_dict["states"].shape == states.shape
        before = probes.steps
        method.product(StepTaken(states, None, states), states, probes)
        assert probes.steps == before + 3 * 2 * 2
        some = {name: array[:2] if array.ndim > 1 else array for name, array in state_dict.items()}
        method.load_state_dict(some | {"references": np.array(2.0)})
        assert method.state_dict()["states"].shape[0] == 2


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="the number of probes must be a positive whole one, not 0"):
        RandomProbes(0)
    with pytest.raises(ConfigError, match="the number of probes must be a positive whole one, not 'all'"):
        CoordinateProbes("all")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"control must be another dz\.vjp\.VectorJacobianProduct, not 'exact'"):
        RandomProbes(3, "exact")  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 1.5, "a", None])
def test_seeds_are_whole_numbers(seed: Any) -> None:
    with pytest.raises(ConfigError, match="seed must be 0 or a positive whole number"):
        RandomProbes(seed=seed)
