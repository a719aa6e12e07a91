"""Chains of products that tell a field's error: what growth and units of single ones make of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

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
