"""Erdos-Renyi ratios: the formula, and layers that it fills."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quadratic import convolutional, oracle_of
from torch import nn

from deepzero_sim.estimators.sparsity import ErdosRenyi


def shares(network: nn.Module, sparsity: float) -> list[float]:
    return list(ErdosRenyi().densities(oracle_of(network), None, sparsity).by_layer.values())


def test_the_formula_by_hand() -> None:
    """Two linear layers: n_1 + n_2 over n_1 n_2, one epsilon."""
    found = shares(nn.Sequential(nn.Linear(100, 50), nn.Linear(50, 10)), 0.9)
    epsilon = 0.1 * 5500 / (150 + 60)
    assert found == pytest.approx([epsilon * 150 / 5000, epsilon * 60 / 500])


def test_a_kernel_s_axes_count() -> None:
    found = shares(nn.Sequential(nn.Conv2d(16, 32, 3), nn.Conv2d(32, 32, (3, 5))), 0.95)
    epsilon = 0.05 * (4608 + 15360) / ((32 + 16 + 3 + 3) + (32 + 32 + 3 + 5))
    assert found == pytest.approx([epsilon * 54 / 4608, epsilon * 72 / 15360])


def test_a_layer_that_would_get_more_than_all_of_itself_is_dense() -> None:
    """By hand: at 80 % of 573 weights, epsilon = 0.2 * 573 / 44 gives 2.604 * 22 = 57.3, 2.604 * 19 = 49.5 and, of 3, 10.4;
    so the last is dense, and epsilon = (114.6 - 3) / 41 for the others."""
    epsilon = (0.2 * 573 - 3) / (22 + 19)
    assert shares(convolutional(), 0.8) == pytest.approx([epsilon * 22 / 500, epsilon * 19 / 70, 1.0])


def test_layers_fill_one_after_the_other() -> None:
    """161 of 2510: `epsilon = 161 / 108` fills the first of 1, but not yet the second of 9; `160 / 106` fills that too."""
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(3, 3), nn.Linear(50, 50))
    assert 161 / 108 * 6 < 9 < 160 / 106 * 6
    assert shares(network, 1 - 161 / 2510) == pytest.approx([1.0, 1.0, 151 / 2500])


@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6),
    sparsity=st.floats(0, 0.999),
)
def test_it_is_the_largest_epsilon_that_the_budget_pays(shapes: list[tuple[int, int]], sparsity: float) -> None:
    found = shares(nn.Sequential(*(nn.Linear(i, o) for i, o in shapes)), sparsity)
    epsilons = [share * i * o / (i + o) for share, (i, o) in zip(found, shapes, strict=True) if share < 1]
    assert all(epsilon == pytest.approx(epsilons[0], rel=1e-6) for epsilon in epsilons)
    for share, (i, o) in zip(found, shapes, strict=True):
        if share == 1 and epsilons:
            assert epsilons[0] * (i + o) / (i * o) >= 1 - 1e-6


def test_no_sparsity_fills_every_layer() -> None:
    assert shares(convolutional(), 0.0) == pytest.approx([1.0, 1.0, 1.0])
