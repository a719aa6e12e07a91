"""Drift of a field in use: it is noticed by checks, mended by a refit, counted and restored."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_jacobian_field import burgers, exact, heat, rollouts, shift, solver_of, waves

import deepzero_sim as dz
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp import JacobianField, StepTaken
from deepzero_sim.coupling.vjp.field.drift import Drift
from deepzero_sim.errors import ConfigError, NonFiniteError
from deepzero_sim.solver.contract import Solver


def cubic(s: torch.Tensor) -> torch.Tensor:
    """Diffusion, and a reaction that shows at large states only."""
    return s + 0.05 * (s - s**3 / 3) + 0.2 * (shift(s, -1, 1) - 2 * s + shift(s, 1, 1))


def sawtooth(s: torch.Tensor) -> torch.Tensor:
    """A step that is smooth near zero, and switches from point to point elsewhere."""
    return torch.where(s.abs() < 1, s, torch.where(torch.sin(1e4 * s) > 0, -s, s))


SHAPE = (1, 48)


class Use:
    """A field that is measured at small states, and then used.

    Args:
        step: Step of the solver, or the solver itself.
        arguments: Arguments of the field.
    """

    def __init__(self, step: Callable[[torch.Tensor], torch.Tensor] | Solver, **arguments: Any) -> None:
        self.solver = step if isinstance(step, Solver) else solver_of(step, SHAPE)
        self.field = JacobianField(**{"check_every": 8, **arguments})
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.probes = SolverProbe(self.solver)
        self.probes.note, self.probes.warn = self.notes.append, self.warnings.append

    def measure(self, states: Array | None = None) -> None:
        self.field.prepare(0.2 * rollouts(self.solver) if states is None else states, None, self.probes)

    def go_on(self, size: float, products: int, seed: int = 7) -> Array:
        """Ask for products at states of that size, four at a time, along rollouts; return the last."""
        states = size * waves(SHAPE, 4, seed)
        for number in range(products // 4):
            states = size * waves(SHAPE, 4, seed + number) if number % 4 == 0 else states
            taken = StepTaken(states, None, self.solver.step(states))
            found = self.field.product(taken, waves(SHAPE, 4, 8), self.probes)
            states = taken.advanced
        return found


def error_at(use: Use, step: Callable[[torch.Tensor], torch.Tensor], size: float) -> float:
    """Compare products at states of a size with autograd's, without a check."""
    states, w = size * waves(SHAPE, 8, 5), np.random.default_rng(0).normal(size=(8, *SHAPE))
    frozen = JacobianField(check_every=None)
    frozen.load_state_dict(use.field.state_dict())
    found = frozen.product(StepTaken(states, None, use.solver.step(states)), w, SolverProbe(use.solver))
    expected = np.stack([exact(step, state, one) for state, one in zip(states, w, strict=True)])
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_drift_is_found_and_mended() -> None:
    use = Use(cubic)
    use.measure()
    measured, report = use.probes.steps, use.field.report
    assert report is not None and report.refits == 0 and len(report.unseen) == 8
    before = error_at(use, cubic, 1.0)
    use.go_on(1.0, 160)
    after = use.field.report
    assert after is not None and after.refits == 1
    assert after.refitted_after in range(128, 140), "sixteen checks tell it"
    assert before > 0.1 and error_at(use, cubic, 1.0) < before / 5
    assert error_at(use, cubic, 0.2) < 0.05, "what it was fitted to is not forgotten"
    (said,) = use.notes
    assert "a refit of" in said and "refitted once, last after" in said
    assert not use.warnings
    refit = after.steps - report.steps
    assert use.probes.steps == measured + 2 * 20 + refit, "checks take two steps each"
    assert refit <= report.steps


def test_the_steps_of_a_refit_are_those_of_its_products() -> None:
    use = Use(cubic, probes=32)
    use.measure()
    assert use.probes.steps == 2 + 2 * (32 + 40 + 8)
    before = use.probes.steps
    use.go_on(1.0, 200)
    assert use.field.report is not None and use.field.report.refits == 1
    assert use.probes.steps - before == 2 * 25 + 2 * (32 + 40 + 8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("step", "dtype"), [(burgers, "float64"), (burgers, "float32"), (cubic, "float64"), (heat, "float32")])
def test_nothing_is_refitted_where_nothing_drifts(step: Callable[[torch.Tensor], torch.Tensor], dtype: str, seed: int) -> None:
    solver = solver_of(step, SHAPE, dtype)
    use = Use(solver, seed=seed, check_every=1)
    use.measure(rollouts(solver))
    before = use.field.state_dict()["base"].copy(), use.probes.steps
    for number in range(10):
        states = rollouts(solver, 2, 8, 50 + number)
        use.field.product(StepTaken(states, None, solver.step(states)), states, use.probes)
    assert use.probes.steps - before[1] == 2 * 160
    np.testing.assert_array_equal(use.field.state_dict()["base"], before[0])
    assert not use.notes and not use.warnings


def test_a_field_that_is_far_better_than_asked_for_does_not_drift() -> None:
    """A linear step: errors are rounding, at large states more than at small ones."""
    use = Use(heat)
    use.measure()
    use.go_on(1e3, 160)
    assert use.field.report is not None and use.field.report.refits == 0


def test_checks_take_less_than_a_hundredth_of_the_steps() -> None:
    use = Use(burgers, check_every=256)
    use.measure()
    before, layer = use.probes.steps, dz.SolverLayer(use.solver, use.field)
    for number in range(40):
        states = torch.from_numpy(0.2 * waves(SHAPE, 4, number)).requires_grad_()
        moved = states
        for _ in range(8):
            moved = layer(moved)
        moved.square().sum().backward()
    assert use.probes.steps == before
    assert layer.forward_steps == 40 * 8 * 4
    assert layer.backward_steps == 2 * 5 < 0.01 * layer.forward_steps


@pytest.mark.parametrize("ends_after", [20, 68, 124, 144])
def test_a_run_that_is_resumed_is_the_same_to_the_bit(ends_after: int) -> None:
    """Before the first check, between checks, right before a refit, and after it."""
    whole, begun = Use(cubic), Use(cubic)
    whole.measure()
    begun.measure()

    def continue_with(use: Use, part: range) -> list[Array]:
        found = []
        for number in part:
            states = waves(SHAPE, 4, 10 + number)
            taken = StepTaken(states, None, use.solver.step(states))
            found.append(use.field.product(taken, waves(SHAPE, 4, 8), use.probes))
        return found

    expected = continue_with(whole, range(50))
    first = continue_with(begun, range(ends_after // 4))
    resumed = Use(cubic)
    resumed.field.load_state_dict({name: array.copy() for name, array in begun.field.state_dict().items()})
    rest = continue_with(resumed, range(ends_after // 4, 50))
    np.testing.assert_array_equal(np.stack(first + rest), np.stack(expected))
    assert begun.probes.steps + resumed.probes.steps == whole.probes.steps
    assert whole.field.report == resumed.field.report
    assert whole.field.report is not None and whole.field.report.refits == 1
    states = whole.field.state_dict(), resumed.field.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name], err_msg=name)


def test_what_the_first_versions_kept_is_loaded_and_not_checked() -> None:
    use = Use(cubic)
    use.measure()
    new = ("unseen", "refits", "mean", "kept.")
    old = {name: array for name, array in use.field.state_dict().items() if not name.startswith(new)}
    restored = Use(cubic)
    restored.field.load_state_dict(old)
    found = restored.go_on(1.0, 160)
    assert restored.probes.steps == 0
    unchecked = JacobianField(check_every=None)
    unchecked.load_state_dict(use.field.state_dict())
    use.field = unchecked
    np.testing.assert_array_equal(found, use.go_on(1.0, 160))


def test_a_refit_that_does_not_help_is_said_once_and_is_the_last() -> None:
    use = Use(sawtooth)
    use.measure()
    measured = use.probes.steps
    use.go_on(5.0, 160)
    (said,) = use.warnings
    assert "off" in said and "it is not checked again: take Coloured if" in said and "StraightThrough." in said
    spent = use.probes.steps
    assert spent - measured <= measured + 2 * 20
    use.go_on(5.0, 400)
    assert use.probes.steps == spent
    assert len(use.warnings) == 1
    assert use.field.report is not None and use.field.report.refits == 0
    restored = JacobianField(check_every=8)
    restored.load_state_dict(use.field.state_dict())
    use.field = restored
    use.go_on(5.0, 400)
    assert use.probes.steps == spent


def test_refits_take_no_more_steps_than_measuring_did() -> None:
    """It drifts over and over."""
    use = Use(cubic, probes=32)
    use.measure()
    measured = use.probes.steps - 2
    for size in (1.0, 3.0, 3.0):
        use.go_on(size, 200)
    report = use.field.report
    assert report is not None and report.refits == 1
    assert report.steps - measured <= measured
    (said,) = use.warnings
    assert "refits may take no more solver steps than measuring did; it is not checked again" in said


class Fails(dz.Solver):
    """Advances rows that are not disturbed: probes of states fail once it is told to refuse them."""

    def __init__(self, step: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._of = solver_of(step, SHAPE)
        self.refuses = False

    @property
    def spec(self) -> dz.SolverSpec:
        return self._of.spec

    def step(self, states: Array, params: Array | None = None) -> Array:
        if self.refuses:
            raise NonFiniteError("the solver left the finite numbers.")
        return self._of.step(states)


def test_a_solver_that_fails_at_a_check_is_counted_and_said_once() -> None:
    solver = Fails(burgers)
    use = Use(solver)
    use.measure()
    before, states = use.probes.account, waves(SHAPE, 4, 3)
    taken = StepTaken(states, None, solver.step(states))
    solver.refuses = True
    for _ in range(10):
        use.field.product(taken, states, use.probes)
    incidents = use.probes.account.since(before).incidents
    assert [one.action for one in incidents] == ["dropped"] * 5
    (said,) = use.warnings
    assert "a check of a JacobianField's products failed" in said and "left the finite numbers" in said


def test_a_solver_that_fails_in_a_refit_does_not_end_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    solver = Fails(cubic)
    use = Use(solver)
    use.measure()
    use.go_on(1.0, 124)
    states = waves(SHAPE, 64, 3)
    taken = StepTaken(states, None, solver.step(states))
    check = Drift.check

    def then_refuse(*arguments: Any) -> Array:
        errors = check(*arguments)
        solver.refuses = True
        return errors

    monkeypatch.setattr(Drift, "check", then_refuse)
    assert np.isfinite(use.field.product(taken, states, use.probes)).all()
    (said,) = use.warnings
    assert "and a refit failed (" in said and "it is not checked again" in said
    assert use.probes.account.incidents[-1].action == "dropped"


def test_without_a_listener_it_warns_as_python_does() -> None:
    use = Use(sawtooth)
    use.probes = SolverProbe(use.solver)
    use.measure()
    with pytest.warns(UserWarning, match="it is not checked again: take Coloured"):
        use.go_on(5.0, 160)
    with warnings.catch_warnings(record=True) as caught:
        use.go_on(5.0, 160)
    assert not caught


def test_parameters_outside_the_data_are_drift() -> None:
    spec = dz.SolverSpec(name="reaction", state_shape=SHAPE, dt=1.0, dtype="float64", parameters=("rate",))

    def advance(states: Array, params: Array) -> Array:
        around = np.roll(states, 1, 2) - 2 * states + np.roll(states, -1, 2)
        return states + 0.2 * around - 0.1 * np.sin(params[:, :, None]) * states**2

    solver, rng = dz.as_solver(advance, spec), np.random.default_rng(0)
    field, probes, notes = JacobianField(check_every=8), SolverProbe(solver), list[str]()
    probes.note = probes.warn = notes.append  # states that grow without bounds are hard to follow through eight steps
    field.prepare(waves(SHAPE, 40), rng.uniform(0.1, 0.3, (40, 1)), probes)

    def error(rates: Array) -> float:
        states, w = waves(SHAPE, 8, 5), rng.normal(size=(8, *SHAPE))
        found = field.product(StepTaken(states, rates, advance(states, rates)), w, SolverProbe(solver))
        expected = w + 0.2 * (np.roll(w, 1, 2) - 2 * w + np.roll(w, -1, 2)) - 0.2 * np.sin(rates[:, :, None]) * states * w
        return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))

    rates = rng.uniform(4.0, 4.5, (8, 1))
    before = error(rates)
    for number in range(20):
        states, given = waves(SHAPE, 8, number), rng.uniform(4.0, 4.5, (8, 1))
        field.product(StepTaken(states, given, advance(states, given)), states, probes)
    assert len(notes) == 1 and before > 0.3 and error(rates) < before / 2


@pytest.mark.parametrize("value", [0, -3, 2.5, "often", True])
def test_a_bad_interval_gets_one_sentence(value: object) -> None:
    with pytest.raises(ConfigError, match="check_every must be a positive whole number of states, or None, not "):
        JacobianField(check_every=value)  # type: ignore[arg-type]


def test_a_false_alarm_is_told_from_drift_by_a_few_products_more() -> None:
    """Checks that happened to be at the worst states."""
    use = Use(burgers)
    use.measure()
    use.go_on(0.2, 128)
    before = use.probes.steps
    use.field.load_state_dict({**use.field.state_dict(), "drift.factors": np.full(16, 3.0)})
    use.go_on(0.2, 8)
    assert use.probes.steps - before == 2 + 16
    assert not use.notes and not use.warnings
    assert use.field.report is not None and use.field.report.refits == 0
    assert "drift.factors" not in use.field.state_dict(), "it waits for as many checks again"
