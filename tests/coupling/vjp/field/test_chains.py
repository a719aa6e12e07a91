"""Chains of products that tell a field's error, and channels that they cannot tell of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import deepzero_sim as dz
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.field.probing import CHAINS, LENGTH, Chains, channel_deviations

SHAPE = (1, 16)


@dataclass
class Scaling:
    """Field that multiplies each direction by a number of its own."""

    factors: Array

    def jvp(self, states: Array, advanced: Array, params: Array | None, directions: Array) -> Array:
        return directions * self.factors[:, None, None]


def chains(growth: Array) -> Chains:
    """Chains of a solver that multiplies the direction of each by a number."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(CHAINS, *SHAPE))
    answers = np.stack([directions * growth[:, None, None] ** t for t in range(1, LENGTH + 1)], axis=1)
    return Chains(np.zeros((CHAINS, LENGTH + 1, *SHAPE)), None, directions, answers, rng.normal(size=(32, *SHAPE)))


def test_one_that_grows_does_not_hide_the_others() -> None:
    growth = np.array([1e6, 1, 1, 1, 1])
    cosines, alignment = chains(growth).compare(Scaling(growth * [1, -1, -1, -1, -1]))
    assert cosines[0] < 0 and alignment == 1, "an even number of steps has the right sign"
    np.testing.assert_allclose(chains(growth).cosines(Scaling(growth)), 1)


def test_units_of_chains_say_nothing() -> None:
    """The same field, of which one chain was measured in another unit."""
    growth, error = np.ones(CHAINS), np.random.default_rng(1).uniform(0.5, 2, CHAINS)
    plain = chains(growth)
    plain_cosines = plain.cosines(Scaling(error))
    scale = np.array([1e-8, 1, 1, 1e8, 1])[:, None, None]
    scaled = Chains(plain.states, None, plain.directions * scale, plain.answers * scale[:, None], plain.cotangents)
    np.testing.assert_allclose(scaled.cosines(Scaling(error)), plain_cosines)


def test_a_field_without_bounds_is_told_without_a_warning() -> None:
    cosines, alignment = chains(np.ones(CHAINS)).compare(Scaling(np.full(CHAINS, 1e200)))
    assert np.isfinite(cosines).all() and cosines[-1] == 0 and alignment == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("constant", [0.0, 0.1, 101325.0])
def test_a_channel_that_is_constant_has_its_size_as_unit(constant: float, dtype: str) -> None:
    """The mean of equal numbers is not always equal to them."""
    states = np.random.default_rng(0).normal(size=(24, 2, 16)).astype(dtype)
    states[:, 1] = constant
    units = channel_deviations(states, np.ones((2, 16), dtype=bool))
    assert units.shape == (2, 1) and units.dtype == dtype
    assert units[1, 0] == pytest.approx(constant or 1.0)
    assert units[0, 0] == pytest.approx(1.0, abs=0.1)


def carried(s: Array) -> Array:
    """A channel that is carried by another, which stays."""
    u, k = s[:, :1], s[:, 1:]
    return np.concatenate([u - k * (u - np.roll(u, 1, -1)), k], axis=1)


def coefficient(deviation: float) -> tuple[dz.Solver, Array]:
    """A solver, and states in which its coefficient varies by so much of its size."""
    rng, spec = np.random.default_rng(0), dz.SolverSpec(name="carried", state_shape=(2, 16), dt=0.1, dtype="float64")
    states = 0.5 * rng.normal(size=(24, 2, 16))
    states[:, 1] = 0.1 * (1 + deviation * rng.normal(size=(24, 16)))
    return dz.as_solver(carried, spec), states


def exact_product(states: Array, w: Array) -> Array:
    u, k = states[:, 0], states[:, 1]
    at_u = np.roll(w[:, 0] * k, -1, -1) + w[:, 0] * (1 - k)
    return np.stack([at_u, w[:, 1] - w[:, 0] * (u - np.roll(u, 1, -1))], axis=1)


@pytest.mark.parametrize("deviation", [0.2, 1e-2, 1e-3, 1e-6, 0.0])
def test_a_channel_that_varies_little_has_right_gradients_by_default(deviation: float) -> None:
    solver, states = coefficient(deviation)
    layer = dz.SolverLayer(solver)
    layer.vjp.prepare(states, None, layer.probes)
    given, w = torch.from_numpy(states).requires_grad_(), np.random.default_rng(1).normal(size=states.shape)
    layer(given).backward(torch.from_numpy(w))
    assert given.grad is not None
    np.testing.assert_allclose(given.grad.numpy(), exact_product(states, w), atol=0.2)


@pytest.mark.parametrize("deviation", [1e-2, 1e-3, 1e-6])
def test_a_field_says_of_which_channel_it_knows_nothing(deviation: float) -> None:
    solver, states = coefficient(deviation)
    layer = dz.SolverLayer(solver, dz.vjp.JacobianField())
    with pytest.warns(UserWarning, match="does not know what changes of 'channel_1' alone do, .* take Coloured or Reference"):
        layer.vjp.prepare(states, None, layer.probes)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_channel_that_varies_little_and_is_known_is_no_reason_to_warn(dtype: str) -> None:
    """Sound in air: the pressure differs by a thousandth of what it is."""

    def sound(s: Array) -> Array:
        p, u = s[:, :1].astype(np.float64), s[:, 1:].astype(np.float64)
        u = u - 1e-4 * (np.roll(p, -1, -1) - p)
        return np.concatenate([p - 1e-4 * p * (u - np.roll(u, 1, -1)), u], axis=1).astype(dtype)

    places, rng = np.arange(32) * 2 * np.pi / 32, np.random.default_rng(0)
    shapes = np.sin(np.arange(1, 5)[:, None] * places)
    states = np.stack([101325 + 200 * rng.normal(size=(40, 4)) @ shapes, rng.normal(size=(40, 4)) @ shapes], axis=1)
    spec = dz.SolverSpec(name="sound", state_shape=(2, 32), dt=1e-4, dtype=dtype)
    layer = dz.SolverLayer(dz.as_solver(sound, spec), dz.vjp.JacobianField())
    layer.vjp.prepare(states.astype(dtype), None, layer.probes)
    assert len(layer.vjp.report.weak) == 1 and layer.vjp.report.weak[0][1] < 0.2
