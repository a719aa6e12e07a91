"""The choice of a product: each one reached over a real solver, said in a line, kept in a checkpoint, and paid for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import Burgers, Counting, DifferentiableBurgers, Network, initial_states

import deepzero_sim as dz
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp import Auto, JacobianField, ReferenceJacobian, StepTaken
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import Solver

POINTS = 24

#: Solver steps of the chains, and of the product that tells the solver from others.
CHAIN_STEPS = 2 * 5 * 8 + 2


def solver_of(step: Callable[[Array], Array], **changes: object) -> Solver:
    spec = dz.SolverSpec(name="flow", state_shape=(1, POINTS), dt=1.0, dtype="float64", **changes)  # type: ignore[arg-type]
    return dz.as_solver(step, spec)


def noise(count: int = 40) -> Array:
    return np.random.default_rng(0).normal(size=(count, 1, POINTS))


def frames(solver: Solver, steps: int = 40) -> Array:
    """States along a few rollouts, `(B, 1, N)`."""
    taken = [initial_states(6, solver.spec.state_shape[1])]
    for _ in range(steps - 1):
        taken.append(solver.step(taken[-1]))
    return np.concatenate(taken[:: max(1, steps // 8)])


def little(s: Array) -> Array:
    return s - 1e-3 * (s - np.roll(s, 1, -1))


ORDER = np.random.default_rng(0).permutation(POINTS)


def mixed(s: Array) -> Array:
    """Points of which none is near another."""
    return np.asarray(s[..., ORDER] - 0.03 * s**2)


def scattered(s: Array) -> Array:
    """A reaction, then points change places: its slopes change where no window around a point is."""
    return np.asarray((s - 0.1 * s**2)[..., ORDER])


def moved(s: Array) -> Array:
    return np.asarray(0.6 * s + 0.4 * np.roll(s, 1, -1))


def folded(s: Array, often: float = 5) -> Array:
    """Local, and so far from linear that neither features of the state nor Jacobians at other states tell its slopes."""
    return np.asarray(0.5 * np.sin(often * s) + 0.4 * np.roll(s, 1, -1))


def rough(s: Array) -> Array:
    """Kinks everywhere: no difference says anything of the step."""
    return np.asarray(s + 1e-3 * np.sin(1e7 * s))


class Chosen:
    """What Auto chose of a solver at some states, with the warnings on the way."""

    def __init__(self, solver: Solver, states: Array, **arguments: object) -> None:
        self.solver = Counting(solver)
        self.method, self.probes = Auto(**arguments), SolverProbe(self.solver)  # type: ignore[arg-type]
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            self.method.prepare(states, None, self.probes)
        self.said = [str(warning.message) for warning in said]
        assert self.probes.steps == self.solver.states, "all solver steps are counted, also those of products that lost"

    @property
    def report(self) -> str:
        assert self.method.report is not None
        return str(self.method.report)

    def product(self, method: Auto | None = None) -> Array:
        states = noise(3)[..., : self.solver.spec.state_shape[1]]
        taken, w = StepTaken(states, None, self.solver.step(states)), np.cos(7 * states)
        return (method or self.method).product(taken, w, SolverProbe(self.solver))


#: By name: solver, states, arguments, and what is chosen.
CASES: dict[str, tuple[Callable[[], Solver], Callable[[Solver], Array], dict[str, object], str]] = {
    "hardly anything changes": (lambda: solver_of(little), frames, {}, "StraightThrough"),
    "the same law at all points": (lambda: Burgers(points=POINTS), frames, {}, "JacobianField"),
    "no point is near another": (lambda: solver_of(mixed), lambda _: 0.5 * noise(), {}, "ReferenceJacobian(block=1)"),
    "nor is what changes": (lambda: solver_of(scattered), lambda _: 0.5 * noise(), {}, "JacobianField(block=1)"),
    "few steps": (lambda: solver_of(mixed), lambda _: 0.5 * noise(), {"most_steps": 370}, "ReferenceJacobian(block=1)"),
    "local, and far from linear": (lambda: solver_of(folded), lambda _: noise(), {}, "Coloured"),
    "kinks everywhere": (lambda: solver_of(rough), lambda _: noise(), {}, "Detached"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_product_is_chosen_where_it_suits(case: str) -> None:
    make, states_of, arguments, expected = CASES[case]
    solver = make()
    found = Chosen(solver, states_of(solver), **arguments)
    assert found.report.startswith(f"{expected} was chosen: "), found.report
    assert f", {found.probes.steps:,} solver steps to measure" in found.report
    assert found.probes.steps <= found.method.steps_to_measure(solver.spec)
    assert "\n" not in found.report
    none = [f"no gradient passes solver 'flow': {found.report}."]
    assert found.said == (none if expected == "Detached" else []), "products that were not chosen warn of nothing"
    before = found.solver.states
    found.product()
    assert (found.solver.states - before > 3) == (expected == "Coloured"), "all others take no steps but the test's own"
    again = Auto()
    again.load_state_dict({name: array.copy() for name, array in found.method.state_dict().items()})
    assert str(again.report) == found.report
    if expected != "ReferenceJacobian(block=1)":  # that keeps its matrices in its file
        np.testing.assert_array_equal(found.product(again), found.product())


def test_the_report_has_the_figures_of_what_was_tried() -> None:
    found = Chosen(solver_of(mixed), 0.5 * noise(), most_steps=370)
    assert found.method.report is not None
    assert [trial.name for trial in found.method.report.trials] == [
        "StraightThrough",
        "JacobianField",
        "ReferenceJacobian(block=1)",
        "JacobianField in blocks",
    ]
    assert "; the identity has 0." in found.report or "; the identity has -0." in found.report
    assert "JacobianField was left out: it takes 2" in found.report
    assert f"more than the {370 - CHAIN_STEPS} solver steps that are left of most_steps" in found.report


def test_what_costs_no_more_than_the_search_so_far_is_tried_besides_a_good_product() -> None:
    found = Chosen(solver_of(lambda s: folded(s, 1.1)), noise())
    assert found.method.report is not None
    cosines = {trial.name: trial.cosine for trial in found.method.report.trials}
    assert cosines["JacobianField"] is not None and 0.9 < cosines["JacobianField"] < 0.99
    known = {name: cosine for name, cosine in cosines.items() if cosine is not None}
    assert len(known) == 4 and str(found.method.report.chosen) == max(known, key=known.__getitem__)
    dear = Chosen(solver_of(lambda s: folded(s, 1.1)), noise(), most_steps=CHAIN_STEPS + 300)
    assert dear.report.startswith("JacobianField was chosen")


def test_a_solver_that_is_not_deterministic_is_asked_nothing() -> None:
    solver = Counting(solver_of(lambda s: s + np.random.default_rng().normal(size=s.shape), deterministic=False))
    layer = dz.SolverLayer(solver)
    assert isinstance(layer.vjp, Auto)
    assert str(layer.vjp.report) == (
        "Detached was chosen: the solver is not deterministic, so that differences of its steps say nothing"
    )
    states = torch.from_numpy(noise(2)).requires_grad_()
    layer(states).sum().backward()
    layer.vjp.prepare(noise(), None, layer.probes)
    assert (solver.states, layer.backward_steps) == (2, 0)
    assert states.grad is not None and not states.grad.any()
    with pytest.raises(ConfigError, match="is not deterministic"):
        dz.SolverLayer(solver, JacobianField())


def test_a_differentiable_solver_has_its_own_gradient() -> None:
    solver = DifferentiableBurgers(points=POINTS)
    auto, exact = dz.SolverLayer(solver), dz.SolverLayer(solver, dz.vjp.Exact())
    gradients = []
    for layer in (auto, exact):
        states = torch.from_numpy(initial_states(2, POINTS)).requires_grad_()
        layer(layer(states)).square().sum().backward()
        gradients.append(states.grad)
        assert (layer.forward_steps, layer.backward_steps) == (4, 0)
    assert torch.equal(*gradients)  # type: ignore[arg-type]
    assert str(auto.vjp.report) == "Exact was chosen: the solver is a DifferentiableSolver"


def test_a_solver_that_fails_when_it_is_probed_leaves_no_gradient_and_says_why() -> None:
    def fragile(s: Array) -> Array:
        if np.abs(s).max() > 1:
            raise ValueError("out of range")
        return s

    found = Chosen(solver_of(fragile), np.ones((4, 1, POINTS)))
    assert found.report.startswith("Detached was chosen: probes of the solver failed (") and "out of range" in found.report
    assert found.said == [f"no gradient passes solver 'flow': {found.report}."]


def test_a_candidate_whose_probes_fail_is_left_out() -> None:

    def narrow(s: Array) -> Array:
        if len(s) > 16:  # more than the chains ask for at once, and a colour
            raise MemoryError("too many states")
        return moved(s)

    found = Chosen(solver_of(narrow), frames(solver_of(little)))
    assert "; JacobianField was left out: " in found.report and "too many states" in found.report
    assert found.report.startswith("Coloured was chosen: cosine 1.0000 through 8 steps")


def test_too_few_steps_to_tell_leave_the_identity() -> None:
    found = Chosen(Burgers(points=POINTS), frames(Burgers(points=POINTS)), most_steps=CHAIN_STEPS - 1)
    assert found.report == (
        "StraightThrough was chosen: to tell which suits takes 82, more than the 81 solver steps that are left of most_steps"
    )
    assert found.solver.states == 0


def test_a_poor_product_that_is_chosen_for_want_of_a_better_one_warns() -> None:
    found = Chosen(solver_of(lambda s: folded(s, 1.4)), noise(), most_steps=CHAIN_STEPS + 300)
    assert found.report.startswith("JacobianField was chosen: cosine 0.")
    assert "Coloured was left out: it takes 68, more than the " in found.report
    (said,) = found.said
    assert said == f"the best product found for solver 'flow' is poor: {found.report}."


def test_what_was_measured_is_found_in_the_file_and_counts_the_same(tmp_path: Path) -> None:
    file, states = tmp_path / "auto.safetensors", 0.5 * noise()
    first = Chosen(solver_of(scattered), states, file=file)
    written = file.stat().st_mtime_ns
    asked = Counting(solver_of(scattered))
    again, probes = Auto(file=file), SolverProbe(asked)
    again.prepare(states, None, probes)
    assert str(again.report) == first.report
    assert probes.steps == first.probes.steps
    assert asked.states == 3 * 2 + 41, "chains and two fields are looked for by a product of two steps, 40 references by a step"
    assert file.stat().st_mtime_ns == written
    np.testing.assert_array_equal(first.product(again), first.product())


def test_a_reference_jacobian_is_restored_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "auto.safetensors"
    found = Chosen(solver_of(mixed), 0.5 * noise(), most_steps=370, file=file)
    again = Auto(file=file)
    again.load_state_dict(found.method.state_dict())
    assert isinstance(again.chosen, ReferenceJacobian)
    before = found.solver.states
    np.testing.assert_array_equal(found.product(again), found.product())
    assert found.solver.states == before + 2 * 3, "the steps that the test takes itself"


@pytest.mark.parametrize("make", [dz.SolverLayer, lambda s: dz.SolverLoop(s, Network(), gradient="auto").layer])
def test_a_layer_without_a_product_chooses_at_its_first_one_and_trains(make: Callable[[Solver], dz.SolverLayer]) -> None:
    layer = make(solver_of(moved))
    network = torch.nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular", dtype=torch.float64)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    start = torch.from_numpy(initial_states(8, POINTS))
    losses = []
    for _ in range(12):
        states = start
        for _ in range(3):
            states = layer(states)
            states = states + 0.1 * network(states)
        loss = (states - 0.5 * start).square().mean()
        optimiser.zero_grad()
        with pytest.warns(UserWarning, match="Auto of solver 'flow' learnt from the 8") if not losses else nullcontext():
            loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert isinstance(layer.vjp, Auto) and layer.vjp.report is not None
    assert losses[-1] < 0.8 * losses[0]
    assert layer.backward_steps == layer.vjp.report.steps


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"most_steps": -1}, "most_steps must be a whole number of solver steps, 0 or more, or None, not -1"),
        ({"most_steps": 1.5}, "most_steps must be a whole number of solver steps, 0 or more, or None, not 1.5"),
        ({"seed": -1}, "seed must be 0 or a positive whole number, not -1"),
        ({"step_size": 0}, "step_size must be a positive number, or None to be chosen, not 0"),
        ({"file": ""}, "file must be a path, or None to keep nothing, not ''"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Auto(**arguments)  # type: ignore[arg-type]


def test_a_step_size_that_the_states_cannot_take_is_refused() -> None:
    with pytest.raises(ConfigError, match="step_size 1e-17 is below the noise floor of float64 states"):
        Auto(step_size=1e-17).prepare(noise(), None, SolverProbe(solver_of(little)))


def test_the_state_of_another_product_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"has 'choice', not \['radius'\]: load the state of an Auto"):
        Auto().load_state_dict({"radius": np.ones(1)})


def test_states_of_another_shape_are_refused() -> None:
    with pytest.raises(dz.SolverError, match="shape"):
        Auto().prepare(np.ones((4, 1, POINTS - 1)), None, SolverProbe(solver_of(little)))


def test_a_product_of_another_solver_is_refused() -> None:
    method = Chosen(solver_of(little), frames(solver_of(little))).method
    with pytest.raises(ConfigError, match="this Auto belongs to another solver object already"):
        dz.SolverLayer(solver_of(mixed), method)
