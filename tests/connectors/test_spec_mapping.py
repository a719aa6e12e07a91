"""Specs as YAML has them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import yaml

import deepzero_sim as dz
from deepzero_sim.connectors.spec_mapping import as_spec, channel_places

WRITTEN = """
name: staggered
state_shape: [2, 2]
dt: 0.1
channels: [u, v]
parameters: [nu]
spacing: [0.5]
offsets: [[0], [0.5]]
mask: [[true, true], [true, false]]
stencil: 1
"""


def test_a_spec_is_made_of_plain_values() -> None:
    spec = as_spec(yaml.safe_load(WRITTEN))
    assert spec.state_shape == (2, 2) and spec.channels == ("u", "v") and spec.offsets == ((0,), (0.5,)) and spec.stencil == 1
    np.testing.assert_array_equal(spec.active(), [[True, True], [True, False]])
    np.testing.assert_array_equal(spec.coordinates(1, 0), [0.25, 0.75])


def test_a_spec_is_taken_as_it_is() -> None:
    spec = dz.SolverSpec(name="a", state_shape=(1, 2), dt=1.0)
    assert as_spec(spec) is spec


#: What YAML 1.1 takes for something else than text.
TAKEN = ("NO", "no", "off", "Off", "yes", "on", "true", "null", "~", "1.0e+3", "1.0", "12:30", "7", "2020-01-01")


@pytest.mark.parametrize("word", TAKEN)
@pytest.mark.parametrize("field", ["channels", "channel_units", "parameters", "parameter_units", "axes"])
def test_a_word_that_yaml_takes_for_something_else_is_refused_and_in_quotes_it_is_a_name(field: str, word: str) -> None:
    rest = {} if field.startswith("parameters") else {"parameters": ["k"]}
    text = "{{name: chem, state_shape: [1, 4], dt: 0.1, {}: [{}]}}"
    with pytest.raises(dz.ConfigError, match=f"{field} must be text, not .*: put it in quotes"):
        as_spec({**yaml.safe_load(text.format(field, word)), **rest})
    assert getattr(as_spec({**yaml.safe_load(text.format(field, f'"{word}"')), **rest}), field) == (word,)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"dt": "1e-3"}, "dt must be a positive number, not '1e-3': write 0.001"),  # YAML 1.1 takes 1e-3 for text
        ({"spacing": ["1e-3"]}, "spacing must be finite numbers, not '1e-3': write 0.001"),
        ({"parameters": 3}, "must have a list for parameters"),
        ({"channels": None}, "must have a list for channels"),
        ({"offsets": 0.5}, "must have a list for offsets"),
        ({"mask": [["true", "false"]]}, "must hold true and false only, without quotes"),
        ({"mask": [[True, "false"]]}, "must hold true and false only"),
        ({"mask": [[1, 2]]}, "must hold true and false only"),
        ({"mask": [[0.5, 1]]}, "must hold true and false only"),
        ({"mask": [[True], [True, False]]}, "lists of one length"),
        ({"mask": [[True, None]]}, "must hold true and false only"),
        ({"mask": [True, True]}, "must be a bool array of the shape of a state"),
        ({False: 1}, "a spec may have .*, not False"),
    ],
)
def test_what_is_no_field_is_refused(said: dict[Any, Any], words: str) -> None:
    with pytest.raises(dz.ConfigError, match=words):
        as_spec({"name": "a", "state_shape": [1, 2], "dt": 1.0, **said})


def test_a_mask_may_be_ones_and_zeros() -> None:
    np.testing.assert_array_equal(as_spec({"name": "a", "state_shape": [1, 2], "dt": 1, "mask": [[1, 0]]}).active(), [[1, 0]])


CHEMISTRY = dz.SolverSpec(name="chemistry", state_shape=(2, 4), dt=1.0, channels=("NO", "NO2"))
UNNAMED = dz.SolverSpec(name="unnamed", state_shape=(2, 4), dt=1.0)


@pytest.mark.parametrize(
    ("spec", "named", "places"),
    [(CHEMISTRY, ["NO2"], (1,)), (CHEMISTRY, ["NO2", "NO"], (1, 0)), (UNNAMED, [1], (1,)), (UNNAMED, [0, 1], (0, 1))],
)
def test_channels_are_named_by_the_spec_or_counted(spec: dz.SolverSpec, named: list[Any], places: tuple[int, ...]) -> None:
    assert channel_places(named, spec, "inputs") == places


@pytest.mark.parametrize("spec", [CHEMISTRY, UNNAMED], ids=["named", "unnamed"])
@pytest.mark.parametrize("named", [[False], [True], [None], [0.0], [1.0], ["O3"], [2], [], "NO", None, 1, [["NO"]], {"NO": 1}])
def test_channels_of_a_file_are_no_truth_values_and_no_others(spec: dz.SolverSpec, named: Any) -> None:
    with pytest.raises(dz.ConfigError, match=r"in\.npy: channels must be a list of some of .*, each once, not"):
        channel_places(named, spec, "inputs: in.npy")


@pytest.mark.parametrize("named", [["NO", "NO"], [1, 1]])
def test_channels_of_a_file_stand_once(named: list[Any]) -> None:
    with pytest.raises(dz.ConfigError, match="each once"):
        channel_places(named, CHEMISTRY if "NO" in named else UNNAMED, "outputs")


def test_a_programs_channels_that_yaml_took_for_false_are_not_the_first_one() -> None:
    files = {"inputs": [{"path": "in.npy", "channels": yaml.safe_load("[NO]")}], "outputs": [{"path": "out.npy"}]}
    with pytest.raises(dz.ConfigError, match=r"not \[False\]: put names such as NO in quotes"):
        dz.ExecutableSolver(UNNAMED, [sys.executable, "-c", ""], **files)
