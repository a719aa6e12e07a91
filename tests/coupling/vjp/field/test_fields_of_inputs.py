"""Fields of a solver's inputs: when in a step inputs act is found, and drift of the states and inputs is mended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_jacobian_field import shift

import deepzero_sim as dz
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp import JacobianField, StepTaken
from deepzero_sim.coupling.vjp.field.fitting import Products
from deepzero_sim.coupling.vjp.field.rest_of_step import SHARES, RestOfStep
from deepzero_sim.coupling.vjp.field.saved_field import field_from_tensors
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.stepped_inputs import with_input_channels

POINTS, SUBSTEPS = 48, 4


def moved(s: torch.Tensor) -> torch.Tensor:
    """Diffusion, and a speed that depends on the state."""
    around, slope = shift(s, -1, -1) - 2 * s + shift(s, 1, -1), shift(s, -1, -1) - shift(s, 1, -1)
    return s + 0.12 * around - 0.02 * s * slope


def heated(s: torch.Tensor, u: torch.Tensor, strength: float) -> torch.Tensor:
    return s + strength * u * (1 + 0.3 * s + 0.3 * s**2)


def advance(when: str, s: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Move a state four times, and heat it at the beginning, at the end, or each time."""
    if when == "beginning":
        s = heated(s, u, 0.08)
    for _ in range(SUBSTEPS):
        s = moved(heated(s, u, 0.01) if when == "throughout" else s)
        s = heated(s, u, 0.01) if when == "throughout" else s
    return heated(s, u, 0.08) if when == "end" else s


def solver_of(when: str, dtype: str = "float64") -> dz.Solver:
    spec = dz.SolverSpec(name="heated", state_shape=(1, POINTS), dt=1.0, dtype=dtype, inputs=(dz.InputField("heat"),))

    def step(states: Array, params: None, inputs: Array) -> Array:
        return advance(when, torch.tensor(states), torch.tensor(inputs)).numpy()

    return with_input_channels(dz.as_solver(step, spec))


def waves(count: int, seed: int, size: float = 1.0) -> Array:
    """Draw smooth states and inputs, `(B, 2, N)`."""
    generator, places = np.random.default_rng(seed), 2 * np.pi * np.arange(POINTS) / POINTS
    numbers = np.arange(1, 5)[:, None]
    heights, phases = generator.normal(size=(2, count, 2, 4, 1))
    return np.asarray(size * 0.6 * (heights * np.sin(numbers * places + 3 * phases)).sum(2))


def exact(when: str, states: Array, cotangents: Array) -> Array:
    """Products with the transposed Jacobian of state and inputs, by autograd."""
    at = torch.tensor(states, requires_grad=True)
    both = torch.cat([advance(when, at[:, :1], at[:, 1:]), at[:, 1:]], dim=1)
    return torch.autograd.grad(both, at, torch.tensor(cotangents))[0].numpy()


def cotangents_of(states: Array) -> Array:
    found = np.zeros_like(states)
    found[:, 0] = waves(len(states), 77)[:, 0]
    return found


class Use:
    """A field that is measured at states and inputs of a size, and then used at others."""

    def __init__(self, when: str, **arguments: Any) -> None:
        self.solver, self.when = solver_of(when), when
        self.field, self.probes = JacobianField(**arguments), SolverProbe(self.solver)
        self.notes: list[str] = []
        self.probes.note = self.probes.warn = self.notes.append

    def product(self, states: Array, cotangents: Array | None = None) -> Array:
        w = cotangents_of(states) if cotangents is None else cotangents
        return self.field.product(StepTaken(states, None, self.solver.step(states)), w, self.probes)

    def error(self, size: float) -> float:
        """Compute the share by which products of inputs are off, without a check."""
        frozen = JacobianField(check_every=None)
        frozen.load_state_dict(self.field.state_dict())
        states = waves(8, 5, size)
        w = cotangents_of(states)
        found = frozen.product(StepTaken(states, None, self.solver.step(states)), w, SolverProbe(self.solver))[:, 1:]
        expected = exact(self.when, states, w)[:, 1:]
        return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("when", "shares"), [("throughout", {0.5}), ("end", {0.0}), ("beginning", set(SHARES))])
def test_when_in_a_step_inputs_act_is_found(when: str, shares: set[float], seed: int) -> None:
    use = Use(when, seed=seed, tolerance=0.005)
    use.field.prepare(waves(40, 1), None, use.probes)
    report = use.field.report
    assert report is not None and report.of_inputs is not None
    assert report.of_inputs.share in shares
    assert use.error(1.0) < 0.05
    states = waves(4, 3)
    w, v = waves(4, 8), waves(4, 9)
    taken = StepTaken(states, None, use.solver.step(states))
    back, forth = use.field.product(taken, w, use.probes), use.field.jvp(taken, v, use.probes)
    np.testing.assert_allclose((back * v).sum((1, 2)), (w * forth).sum((1, 2)), rtol=1e-9)


@pytest.mark.parametrize("share", SHARES)
def test_the_rest_of_a_step_is_undone_by_least_squares(share: float) -> None:
    use = Use("throughout")
    use.field.prepare(waves(40, 1), None, use.probes)
    field, sizes, _ = field_from_tensors(use.field.state_dict())
    rest = RestOfStep(field, np.array([[1.0], [3.0]]), 1, share)
    states = waves(6, 2) / sizes / rest.units
    at = (states, use.solver.step(waves(6, 2)) / sizes / rest.units, None)
    changes, w = waves(6, 4), waves(6, 6)
    answers = rest.jvp(*at, changes)
    np.testing.assert_array_equal(answers[:, 1:], changes[:, 1:])
    np.testing.assert_allclose((answers * w).sum(), (changes * rest.vjp(*at, w)).sum(), rtol=1e-9)
    found = rest.carry_back(Products(*at, changes, answers)).answers
    np.testing.assert_allclose(found, changes, atol=1e-3 * np.abs(changes).max())


def test_drift_of_inputs_is_found_and_mended() -> None:
    use = Use("throughout", check_every=8)
    use.field.prepare(waves(40, 1, 0.2), None, use.probes)
    before, first = use.error(2.0), use.field.report
    for number in range(80):
        use.product(waves(4, 100 + number, 2.0))
    after = use.field.report
    assert first is not None and after is not None and first.of_inputs is not None and after.of_inputs is not None
    assert first.of_inputs.refits == 0 and after.of_inputs.refits == 1
    assert any("those of the JacobianField of the inputs of solver 'heated' are off" in said for said in use.notes)
    assert before > 0.1 and use.error(2.0) < before / 2
    assert use.error(0.2) < 0.1, "what it was fitted to is not forgotten"


@pytest.mark.parametrize("ends_after", [10, 40, 70])
def test_a_run_that_is_resumed_is_the_same_to_the_bit(ends_after: int) -> None:
    """Before a refit of either field, between the two or right before them, and after both."""
    whole, begun, resumed = (Use("throughout", check_every=8) for _ in range(3))
    for use in (whole, begun):
        use.field.prepare(waves(40, 1, 0.2), None, use.probes)
    expected = [whole.product(waves(4, 100 + number, 2.0)) for number in range(80)]
    first = [begun.product(waves(4, 100 + number, 2.0)) for number in range(ends_after)]
    resumed.field.load_state_dict({name: array.copy() for name, array in begun.field.state_dict().items()})
    rest = [resumed.product(waves(4, 100 + number, 2.0)) for number in range(ends_after, 80)]
    np.testing.assert_array_equal(np.stack(first + rest), np.stack(expected))
    assert begun.probes.steps + resumed.probes.steps == whole.probes.steps
    assert whole.field.report == resumed.field.report


def test_measuring_takes_no_more_steps_than_said() -> None:
    for product in (JacobianField(probes=32), JacobianField()):
        solver = solver_of("throughout")
        product.bind(solver)
        probes = SolverProbe(solver)
        most = product.steps_to_measure(solver.spec)
        product.prepare(waves(40, 1), None, probes)
        assert probes.steps <= most
    assert JacobianField(probes=32).steps_to_measure(solver.spec) < most


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, np.nan])
def test_a_share_that_none_is_gets_one_sentence(share: float) -> None:
    use = Use("throughout")
    use.field.prepare(waves(40, 1), None, use.probes)
    state = {**use.field.state_dict(), "inputs.share": np.array([share])}
    with pytest.raises(ConfigError, match=r"the state of JacobianField must have .*share.*: load what its state_dict gave"):
        JacobianField().load_state_dict(state)


def test_a_field_of_inputs_and_parameters_is_found_again_in_a_file(tmp_path: Path) -> None:
    """Slopes of several parameters, which are computed in another order of axes than a file has."""
    spec = dz.SolverSpec(
        name="driven", state_shape=(1, POINTS), dt=1.0, dtype="float64", parameters=("a", "b"), inputs=(dz.InputField("heat"),)
    )

    def step(states: Array, params: Array, inputs: Array) -> Array:
        a, b = params[:, :1, None], params[:, 1:, None]
        return states + 0.1 * a * (np.roll(states, 1, -1) - states) + 0.1 * b * inputs * (1 + 0.3 * states)

    solver = with_input_channels(dz.as_solver(step, spec))
    params, fields = np.random.default_rng(0).uniform(0.5, 1.5, (40, 2)), []
    for _ in range(2):
        field, probes = JacobianField(file=tmp_path / "field.safetensors"), SolverProbe(solver)
        field.prepare(waves(40, 1), params, probes)
        fields.append((field.state_dict(), probes.steps, field.report))
    (first, steps, report), (second, again, found) = fields
    assert steps == again and report == found and first.keys() == second.keys()
    for name, array in first.items():
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, second[name], err_msg=name)
