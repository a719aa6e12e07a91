"""Values that are refused, and misspelt names, which are told what they are most like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepzero_sim.common.requirements import did_you_mean, is_count, is_positive, require, require_known
from deepzero_sim.errors import ConfigError

KNOWN = ("state_shape", "stencil", "dtype")


def test_the_name_that_is_most_like_it_is_named() -> None:
    assert did_you_mean("state_shap", KNOWN) == " (did you mean 'state_shape'?)"
    assert did_you_mean("nothing like these", KNOWN) == did_you_mean(3, KNOWN) == did_you_mean("dtype", ()) == ""


def test_a_name_that_there_is_not_is_refused() -> None:
    require_known(["dtype", "stencil"], KNOWN, "a spec")
    with pytest.raises(
        ConfigError, match=r"^a spec may have state_shape, stencil, dtype, not 'dtyp' .did you mean 'dtype'\?.\.$"
    ):
        require_known(["dtype", "dtyp"], KNOWN, "a spec")


@given(st.one_of(st.text(), st.integers(), st.none()))
def test_any_name_is_either_known_or_refused(name: object) -> None:
    with pytest.raises(ConfigError, match="not"):
        require_known([name, "no such name"], KNOWN, "a spec")


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), 10**400, True, "1", None, 1j])
def test_what_no_array_can_hold_is_no_positive_number(value: object) -> None:
    assert not is_positive(value)
    assert is_positive(1) and is_positive(5e-324) and is_positive(1.7e308)


def test_counts_have_bounds() -> None:
    assert is_count(1) and is_count(10**400) and is_count(8, most=8) and is_count(0, least=0)
    assert not any((is_count(0), is_count(9, most=8), is_count(True), is_count(1.0), is_count(10**400, most=8)))


def test_a_number_that_is_too_long_to_be_shown_is_refused_too() -> None:
    with pytest.raises(ConfigError, match=r"^x must be small, not int of too many digits\.$"):
        require(False, "x must be small", 10**5000)
