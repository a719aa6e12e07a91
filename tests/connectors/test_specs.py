"""Specs as YAML has them."""

from __future__ import annotations

import numpy as np
import yaml

import deepzero_sim as dz
from deepzero_sim.connectors.specs import as_spec

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
