"""Fields that a step reads, written into files of programs: by name, one by one or in batches, and none forgotten."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forced_solvers import ViscousBurgers, case

import deepzero_sim as dz
from deepzero_sim.solver.stepped_inputs import with_input_channels

PROGRAM = """
import sys
import numpy as np
u, nu = np.load("state.npy"), np.load("viscosity.npy")
if (nu < 0).any():
    sys.exit("a negative viscosity")
np.save("next.npy", u - 0.1 * nu * u)
"""


def solver(folder: Path, **more: Any) -> dz.ExecutableSolver:
    (folder / "step.py").write_text(PROGRAM)
    spec = {"name": "program", "state_shape": [1, 8], "dt": 0.1, "dtype": "float64", "channels": ["u"], "stencil": 0}
    inputs = [{"name": "viscosity", "value": 0.5, "scale": 0.1}]
    files = [{"path": "state.npy"}, {"path": "viscosity.npy", "channels": ["viscosity"]}]
    given = {"inputs": files, "outputs": [{"path": "next.npy"}], "keep": "never", "external_input_files": [folder / "step.py"]}
    return dz.ExecutableSolver({**spec, "inputs": inputs}, [sys.executable, "step.py"], **{**given, **more})


@pytest.mark.parametrize("batched", [False, True])
def test_a_program_reads_what_it_is_given(batched: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    states, inputs = random.normal(size=(3, 1, 8)), random.random((3, 1, 8))
    np.testing.assert_allclose(solver(tmp_path, batched=batched).step(states, None, inputs), states - 0.1 * inputs * states)


def test_a_state_whose_field_the_program_refuses_fails_alone(tmp_path: Path) -> None:
    states, inputs = np.ones((3, 1, 8)), np.full((3, 1, 8), 0.5)
    inputs[1] = -1
    with pytest.raises(dz.StatesFailedError, match="a negative viscosity") as caught:
        solver(tmp_path).step(states, None, inputs)
    assert set(caught.value.failures) == {1} and caught.value.advanced.shape == states.shape
    np.testing.assert_allclose(caught.value.advanced[[0, 2]], 0.95)


def test_a_network_inside_a_program_has_the_gradient_of_its_fields(tmp_path: Path) -> None:
    layer = dz.SolverLayer(solver(tmp_path), dz.vjp.Coloured())
    import torch  # noqa: PLC0415

    states, fields = torch.rand(1, 1, 8, dtype=torch.float64), torch.rand(1, 1, 8, dtype=torch.float64, requires_grad=True)
    layer(states, None, fields).sum().backward()
    torch.testing.assert_close(fields.grad, -0.1 * states, rtol=1e-6, atol=1e-9)


def test_a_field_that_no_file_has_is_named(tmp_path: Path) -> None:
    words = r"inputs must write viscosity, which the spec names among the inputs of a step: name a file for it"
    with pytest.raises(dz.ConfigError, match=words):
        solver(tmp_path, inputs=[{"path": "state.npy"}])
    with pytest.raises(dz.ConfigError, match="channels must be a list of some of u, viscosity, each once"):
        solver(tmp_path, inputs=[{"path": "state.npy"}, {"path": "viscosity.npy", "channels": ["viscosty"]}])
    with pytest.raises(dz.ConfigError, match=r"outputs: .* channels must be a list of some of u, each once"):
        solver(tmp_path, outputs=[{"path": "next.npy", "channels": ["viscosity"]}])


def test_the_solver_alone_runs_with_the_values_of_its_spec(tmp_path: Path) -> None:
    states = np.ones((2, 1, 8))
    rollout = dz.SolverLoop(solver(tmp_path), dz.models.NoCorrection()).rollout(states, steps=1).numpy()
    np.testing.assert_allclose(rollout[:, 0], 0.95)


def test_channels_of_inputs_are_those_of_any_solver() -> None:
    twin = ViscousBurgers(8)
    states, params, inputs = (None if one is None else one.numpy() for one in case(twin, 2))
    assert states is not None and inputs is not None
    taken = np.concatenate([states, inputs], axis=1)
    expected = np.concatenate([twin.advance(states, params, inputs), inputs], axis=1)
    np.testing.assert_array_equal(with_input_channels(twin).step(taken, params), expected)
