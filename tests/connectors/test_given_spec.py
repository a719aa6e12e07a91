"""Specs as YAML gives them."""

from __future__ import annotations

from typing import Any

import pytest

from deepzero_sim.connectors.given_spec import spec_of
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver import SolverSpec


def test_a_mapping_is_filled_up() -> None:
    given = {"state_shape": [2, 3], "parameters": ["rate"], "mask": [[True, True, False]] * 2, "offsets": [[0.5], [0]]}
    spec = spec_of(given, name="box", dt=1.0)
    assert spec.state_shape == (2, 3) and spec.parameters == ("rate",) and spec.offsets == ((0.5,), (0,))
    assert (spec.name, spec.dt, spec.active().sum()) == ("box", 1.0, 4)


def test_a_mapping_has_the_last_word() -> None:
    assert spec_of({"state_shape": [1, 3], "dt": 0.5, "name": "mine"}, name="box", dt=1.0).dt == 0.5


def test_a_spec_is_taken_as_it_is() -> None:
    spec = SolverSpec(name="x", state_shape=(1, 2), dt=1.0)
    assert spec_of(spec, name="y") is spec


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"state_shape": [1, 2], "shape": 3}, "not 'shape'"),
        ([1, 2], "must be a SolverSpec or a mapping"),
        ({}, "give its state_shape"),
        ({"state_shape": 5}, "give its state_shape"),
        ({"state_shape": [5]}, "add the channel axis"),
    ],
)
def test_what_is_no_spec_is_said(given: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        spec_of(given, name="box", dt=1.0)
