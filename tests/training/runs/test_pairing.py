"""Signs are counted, and what chance alone would make of them is said exactly."""

from __future__ import annotations

import math
import statistics
from itertools import product

import pytest

from deepzero_sim.training.runs.pairing import Pairing, pair


def test_differences_are_taken_simulation_by_simulation() -> None:
    found = pair([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 3.0, 3.0])
    assert (
        found == Pairing(-0.5, better=2, worse=1, equal=1, spread=statistics.stdev([-1, -2, 0, 1])) and found.simulations == 4
    )


def test_a_difference_is_within_its_spread_where_simulations_do_not_agree() -> None:
    assert pair([1.0, 2.0, 3.0], [2.0, 1.0, 3.1]).is_within_spread
    assert not pair([1.0, 2.0, 3.0], [2.0, 3.0, 4.1]).is_within_spread  # large steps between simulations, the same in both
    assert not pair([1.0], [2.0]).is_within_spread and not pair([1.0, 2.0], [1.0, 2.0]).is_within_spread
    assert not pair([math.inf, 1.0], [1.0, 2.0]).is_within_spread


def test_a_rollout_that_diverged_is_worse_and_two_are_equal() -> None:
    found = pair([math.inf, 1.0, math.inf], [1.0, math.inf, math.inf])
    assert (found.better, found.worse, found.equal) == (1, 1, 1) and math.isnan(found.difference)
    assert pair([math.inf, 1.0], [1.0, 1.0]).difference == math.inf


@pytest.mark.parametrize("count", range(1, 8))
def test_the_sign_test_counts_all_ways_that_coins_may_fall(count: int) -> None:
    falls = list(product((0, 1), repeat=count))
    for better in range(count + 1):
        away = abs(better - count / 2)
        uneven = sum(abs(sum(fall) - count / 2) >= away for fall in falls)
        assert Pairing(0.0, better, count - better, equal=3).p == pytest.approx(uneven / len(falls))


def test_many_simulations_are_counted_exactly() -> None:
    assert Pairing(0.0, 2000, 0, 0).p == 0.0 and Pairing(0.0, 1000, 1000, 0).p == 1.0
    assert Pairing(0.0, 60, 40, 0).p == pytest.approx(0.0569, abs=1e-4)  # of tables of the binomial distribution


def test_nothing_but_ties_say_nothing() -> None:
    assert pair([1.0], [1.0]).p == 1.0
