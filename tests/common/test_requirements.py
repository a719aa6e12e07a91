"""Misspelt names are told what they are most like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepzero_sim.common.requirements import did_you_mean, require_known
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
