"""Variables of a component that a network inside the step provides: fields, of the state's grid or smaller, and scalars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bmi_heat
import numpy as np
import pytest
import torch

import deepzero_sim as dz
from deepzero_sim.solver.stepped_inputs import with_input_channels

SOURCE = "plate__heat_source"


class Heated(bmi_heat.Heat):
    """Heat with a source at every point, `change + source`."""

    def initialize(self, config_file: str) -> None:
        super().initialize(config_file)
        self.values[SOURCE] = np.full(self.values[bmi_heat.FIELD].size, 0.25)

    def update(self) -> None:
        before = self.values[bmi_heat.FIELD].copy()
        super().update()
        self.values[bmi_heat.FIELD] = self.values[bmi_heat.FIELD] + self.dt * (self.values[SOURCE] + 0 * before)

    def get_input_var_names(self) -> tuple[str, ...]:
        return (*super().get_input_var_names(), SOURCE)

    def get_var_grid(self, name: str) -> int:
        return 0 if name == SOURCE else super().get_var_grid(name)

    def get_var_units(self, name: str) -> str:
        return "K s-1" if name == SOURCE else super().get_var_units(name)


class Uneven(Heated):
    """A source that differs from point to point when it is initialised."""

    def initialize(self, config_file: str) -> None:
        super().initialize(config_file)
        self.values[SOURCE] = np.arange(float(self.values[SOURCE].size))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "heat.json"
    path.write_text(json.dumps({"shape": [4, 5]}))
    return path


def solver(config: Path, make: Any = Heated, **more: Any) -> dz.BMISolver:
    given = {"state": {"T": bmi_heat.FIELD}, "params": {"h": bmi_heat.LOSS}, "inputs": {"source": SOURCE}}
    return dz.BMISolver(make, config, **{**given, **more})


@pytest.mark.parametrize("reuse", [False, True])
def test_a_component_takes_the_fields_that_it_is_given(config: Path, reuse: bool) -> None:
    made = solver(config, reuse=reuse)
    (field,) = made.spec.inputs
    assert (field.name, field.unit, field.value, field.shape) == ("source", "K s-1", 0.25, None)
    random = np.random.default_rng(0)
    states, params, inputs = random.random((3, 1, 4, 5)), random.random((3, 1)), random.random((3, 1, 4, 5))
    plain = dz.BMISolver(bmi_heat.Heat, config, {"T": bmi_heat.FIELD}, {"h": bmi_heat.LOSS})
    for _ in range(2):
        np.testing.assert_allclose(made.step(states, params, inputs), plain.step(states, params) + 0.01 * inputs, rtol=1e-12)
    layer = dz.SolverLayer(made, dz.vjp.Coloured())
    fields = torch.from_numpy(inputs).requires_grad_()
    layer(torch.from_numpy(states), torch.from_numpy(params), fields).sum().backward()
    torch.testing.assert_close(fields.grad, torch.full_like(fields, 0.01), rtol=1e-6, atol=1e-10)
    made.close()


def test_a_field_of_one_value_and_a_masked_state(config: Path) -> None:
    mask = np.ones((1, 4, 5), bool)
    mask[0, 0] = False
    room = {"name": "room", "value": 1.0, "scale": 0.5, "shape": (1, 1)}
    made = solver(config, params=(), inputs={"room": bmi_heat.ROOM}, spec={"mask": mask, "inputs": [room]})
    assert made.spec.inputs[0].shape == (1, 1) and made.spec.inputs[0].scale == 0.5
    states, inputs = np.zeros((2, 1, 4, 5)), np.zeros((2, 1, 4, 5))
    inputs[:, 0, 0, 0] = [1.0, 3.0]
    assert with_input_channels(made).step(np.concatenate([states, inputs], axis=1)).shape == (2, 2, 4, 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"make": Uneven}, "variable 'plate__heat_source' of BMI component Uneven is not of one value when it is initialised"),
        ({"inputs": [bmi_heat.FIELD]}, "state and inputs must name different variables, but both name 'plate__temperature'"),
        ({"inputs": ["nothing"]}, "expected a variable of BMI component Heated, which names .*not 'nothing'"),
        ({"spec": {"inputs": ["sources"]}}, "inputs of a spec may have source, not 'sources' .did you mean 'source'"),
        ({"spec": {"inputs": [{"name": "source", "shape": (2, 2)}]}}, "has 20 values, but the spec gives it .2, 2."),
    ],
)
def test_inputs_that_do_not_fit_are_refused(config: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(dz.ConfigError, match=message):
        solver(config, **given)


def test_a_single_value_is_a_field_of_one_point(config: Path) -> None:
    made = solver(config, inputs=[bmi_heat.ROOM])
    assert made.spec.inputs[0].shape == (1, 1)
    inputs = np.zeros((1, 1, 4, 5))
    inputs[0, 0, 0, 0] = 2.0
    advanced = made.step(np.ones((1, 1, 4, 5)), np.ones((1, 1)), inputs)
    difference = advanced - made.step(np.ones((1, 1, 4, 5)), np.ones((1, 1)), 0 * inputs)
    np.testing.assert_allclose(difference, 0.01 * 2.0, rtol=1e-12)


def test_a_field_that_is_described_need_not_be_of_one_value(config: Path) -> None:
    made = solver(config, make=Uneven, spec={"inputs": [{"name": "source", "value": 0.5}]})
    assert made.spec.inputs[0].value == 0.5
