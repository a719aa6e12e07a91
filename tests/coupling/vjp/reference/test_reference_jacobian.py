"""Measured Jacobians: what they are, what they cost, and when they are measured anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jacobians import advection, diffused_advection, exact_jacobian, masked, random_states
from problems import LogisticSolver
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from deepzero_sim import SolverSpec, as_solver
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp import ReferenceJacobian, StepTaken
from deepzero_sim.coupling.vjp.reference import reference_jacobian
from deepzero_sim.coupling.vjp.state_metric import farthest, medoids
from deepzero_sim.errors import ConfigError, RunError, SolverCrashError, SolverError
from deepzero_sim.solver.contract import Solver


def states_of(solver: Solver, count: int) -> Array:
    return np.asarray(random_states(solver, count).numpy())


def steps_taken(solver: Solver, states: Array, params: Array | None = None) -> StepTaken:
    return StepTaken(states, params, solver.step(states, params))


def error(method: ReferenceJacobian, solver: Solver, states: Array, probes: SolverProbe | None = None) -> float:
    """Of products of random cotangents, relative."""
    w = np.random.default_rng(2).normal(size=states.shape) * solver.spec.active()
    found = method.product(steps_taken(solver, states), w, probes or SolverProbe(solver))
    expected = np.stack([(c.reshape(-1) @ exact_jacobian(solver, s)).reshape(s.shape) for s, c in zip(states, w, strict=True)])
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_what_changes_is_local_and_the_rest_is_measured_once() -> None:
    solver = diffused_advection()
    states, probes = states_of(solver, 6), SolverProbe(solver)
    method = ReferenceJacobian(6, radius=2)
    assert error(method, solver, states, probes) < 0.03
    assert probes.steps == 6 + 2 * (1 + 16 * 12 + 6 * 6 * 6)  # 16 / 5 and 12 / 5 points have six colours each
    assert error(ReferenceJacobian(1), solver, states) > 0.08, "one reference says less"


@pytest.mark.parametrize(("block", "largest"), [(1, 1e-6), (2, 0.01)])
def test_blocks_take_fewer_steps(block: int, largest: float) -> None:
    solver = diffused_advection((24, 24))
    states = 0 * states_of(solver, 1)  # where the step is linear
    probes = SolverProbe(solver)
    method = ReferenceJacobian(1, radius=0, block=block, scheme="forward")
    assert error(method, solver, states, probes) < largest
    windows = {1: 0, 2: 12**2}[block]  # two of 11 points fit into 24
    assert probes.steps == 2 + (24 // block) ** 2 + windows + 1


def test_blocks_with_windows_over_the_whole_grid_are_exact() -> None:
    for solver in (masked(), advection((4, 5), 3, periodic=False)):
        assert error(ReferenceJacobian(3, block=2), solver, states_of(solver, 3)) < 1e-6


def test_the_nearest_reference_is_taken() -> None:
    solver = masked()
    states = states_of(solver, 5)
    method, probes = ReferenceJacobian(), SolverProbe(solver)
    method.measure(states, None, probes)
    assert error(method, solver, states[::-1]) < 1e-6
    assert error(method, solver, states[3:] + 1e-7) < 1e-5


def test_the_nearest_reference_is_taken_where_all_have_much_in_common() -> None:
    """Squares of what is common round off what is not; and a channel or parameter that is constant says nothing."""
    spec = SolverSpec(name="pressure", state_shape=(2, 16), dt=1.0, dtype="float64", parameters=("depth",))

    def advance(states: Array, params: Array) -> Array:
        return states - 0.1 * (states - np.roll(states, 1, -1)) + 0.1 * np.sin(1e3 * (states[:, :1] - 101325))

    solver, states = as_solver(advance, spec), np.full((8, 2, 16), 0.1)
    states[:, 0] = 101325 + 1e-3 * np.random.default_rng(0).normal(size=(8, 16))
    params = np.full((8, 1), 0.1)
    method, probes = ReferenceJacobian(step_size=1e-12), SolverProbe(solver)
    method.measure(states, params, probes)
    assert method._measured is not None
    nearest = method._measured.nearest(states, params)
    for state, reference in zip(states, nearest, strict=True):
        np.testing.assert_array_equal(state, reference.state)


def test_the_state_that_is_least_like_the_others_is_found() -> None:
    states = np.random.default_rng(0).normal(size=(20, 2, 8)) * np.array([1e-3, 1e3])[:, None]
    assert farthest(np.concatenate([states, 10 * states[:1]]), None) == 20
    params = np.full((20, 1), 0.1)
    params[7] = 0.2
    assert farthest(states, params) == 7


def test_medoids_are_near_to_all() -> None:
    states = np.array([0.0, 0.1, 0.2, 5.0, 5.1, 5.2, 5.3, 5.4])[:, None]
    assert list(medoids(states, 1)) == [3]  # nearest to the mean, 3.3
    assert set(medoids(states, 3)) == {3, 1, 6}
    assert len(medoids(states, 20)) == 8
    assert list(medoids(np.ones((4, 3)), 2)) == [0]


def test_a_secant_pair_is_met() -> None:
    solver, w = LogisticSolver(), states_of(LogisticSolver(), 2)
    params = np.array([[3.0], [3.0]])
    states = states_of(solver, 3)[1:]
    taken = steps_taken(solver, states, params)
    method, probes = ReferenceJacobian(1, secants=True), SolverProbe(solver)
    method.measure(states_of(solver, 1), params[:1], probes)
    product = method.product(taken, w, probes)
    d = states - states_of(solver, 1)
    change = taken.advanced - solver.step(states_of(solver, 1), params[:1])
    np.testing.assert_allclose((product * d).sum((1, 2)), (w * change).sum((1, 2)), rtol=1e-9)
    plain = ReferenceJacobian(1)
    plain.measure(states_of(solver, 1), params[:1], probes)
    assert abs((plain.product(taken, w, probes) * d).sum((1, 2)) - (w * change).sum((1, 2))).max() > 0.1
    other = StepTaken(states, params + 1, taken.advanced)  # says nothing of the reference's parameters
    np.testing.assert_array_equal(method.product(other, w, probes), plain.product(other, w, probes))


def drifting() -> tuple[Solver, Array, Array]:
    """A step whose Jacobian depends on where it is, states where it starts, and where it gets."""
    solver = masked()
    states = states_of(solver, 4)
    return solver, states, states + 5 * solver.spec.active()


def test_drift_is_noticed_and_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_jacobian, "CHECK_EVERY", 3)
    solver, start, far = drifting()
    probes = SolverProbe(solver)
    method = ReferenceJacobian(4, tolerance=1e-3)
    assert [error(method, solver, start, probes) < 1e-6 for _ in range(4)] == [True] * 4
    measured = probes.steps
    assert error(method, solver, start, probes) < 1e-6 and probes.steps == measured
    assert error(method, solver, start, probes) < 1e-6 and probes.steps == measured + 2, "the sixth is looked at"
    assert error(method, solver, far[:1], probes) > 0.01
    error(method, solver, far[:1], probes)
    assert error(method, solver, far[:1], probes) < 1e-6, "the ninth is, too, and found wanting"
    known = method.state_dict()
    assert known["products"] == 9 and known["states"].shape[0] == 5
    again = ReferenceJacobian(4, tolerance=1e-3)
    again.load_state_dict(known)
    w = states_of(solver, 4)
    for states in (far, start):
        taken = steps_taken(solver, states)
        np.testing.assert_array_equal(again.product(taken, w, probes), method.product(taken, w, probes))
    assert again.state_dict()["products"] == 11


def test_what_was_measured_is_found_again(tmp_path: Path) -> None:
    file = tmp_path / "kept" / "jacobians.safetensors"
    solver, start, _ = drifting()
    w = states_of(solver, 4)
    products, steps, taken = [], [], 0

    def counted(states: Array) -> Array:
        nonlocal taken
        taken += len(states)
        return solver.step(states)

    for _ in range(2):
        taken, probes = 0, SolverProbe(as_solver(counted, solver.spec))
        method = ReferenceJacobian(4, block=2, file=file)
        products.append(method.product(steps_taken(solver, start), w, probes))
        steps.append(probes.steps)
    np.testing.assert_array_equal(*products)
    assert taken == 4 + 2, "only the steps by which the solver is known"
    assert steps[0] == steps[1] > taken, "but the run costs what it would have cost by itself"
    for other, options in (
        (as_solver(lambda s: 2 * solver.step(s), solver.spec), {"block": 2}),
        (solver, {"block": 1}),
        (solver, {"block": 2, "radius": 0}),
        (solver, {"block": 2, "scheme": "forward"}),
    ):
        assert_measures(other, start, file, **options)
    file.write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"must be a file of Jacobians of this package, but it is not, or damaged .*: name"):
        assert_measures(solver, start, file)


def assert_measures(solver: Solver, states: Array, file: Path, **options: Any) -> None:
    """Something that is needed is not in a file."""
    try:
        before = len(load_file(file))
    except (FileNotFoundError, SafetensorError):
        before = 0
    method = ReferenceJacobian(4, file=file, **options)
    method.product(steps_taken(solver, states), states, SolverProbe(solver))
    assert len(load_file(file)) > before
    if options.get("radius", 1) > 0:
        assert error(method, solver, states) < 1e-5


def test_what_would_not_fit_is_said_before_it_is_measured() -> None:
    spec = SolverSpec(name="large", state_shape=(2, 300, 300), dt=1.0)
    probes = SolverProbe(as_solver(lambda s: s, spec))
    states = np.zeros((1, 2, 300, 300), np.float32)
    with pytest.raises(ConfigError, match=r"of solver 'large' and 1 references would take 121 GiB, more than the 4 GiB"):
        ReferenceJacobian(1).measure(states, None, probes)
    assert probes.steps == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"references": 0}, "references must be a positive whole number, not 0"),
        ({"block": 1.5}, "block must be a positive whole number, not 1.5"),
        ({"radius": -1}, "radius must be a whole number of points, 0 or more, not -1"),
        ({"tolerance": 0}, "tolerance must be a positive share"),
        ({"tolerance": float("nan")}, "tolerance must be a positive share"),
        ({"tolerance": float("inf")}, "tolerance must be a positive share"),
        ({"references": 10**400}, "references must be a positive whole number, not 10{400}"),
        ({"memory": 10**400}, "memory must be a positive whole number, not 10{400}"),
        ({"block": 10**20}, "block must be a positive whole number, not 10{20}"),
        ({"step_size": 10**400}, "step_size must be a positive number, or None to be chosen, not 10{400}"),
        ({"secants": "no"}, "secants must be true or false, not 'no'"),
        ({"file": ""}, "file must be a path"),
        ({"file": 3}, "file must be a path"),
        ({"scheme": "backward"}, "scheme must be one of forward, central, not 'backward'"),
    ],
)
def test_refusals(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ReferenceJacobian(**options)


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    solver, start, _ = drifting()
    other = tmp_path / "checkpoint.safetensors"
    save_file({"network.weight": np.ones(3)}, other, metadata={"state": "{}"})
    before = other.read_bytes()
    with pytest.raises(RunError, match=r"checkpoint\.safetensors must be a file of Jacobians of this package"):
        assert_measures(solver, start, other)
    assert other.read_bytes() == before
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "x", tmp_path, tmp_path / ("n" * 300) / "x"):
        probes = SolverProbe(solver)
        with pytest.raises(RunError):
            ReferenceJacobian(file=place).measure(start, None, probes)
        assert probes.steps == 4 + 2, "before what is to be kept is measured"


def test_a_file_whose_numbers_were_changed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "jacobians.safetensors"
    solver, start, _ = drifting()
    assert_measures(solver, start, file)
    with safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata()
    save_file({name: 0 * array for name, array in load_file(file).items()}, file, metadata=metadata)
    with pytest.raises(RunError, match="holds Jacobians that were changed"):
        assert_measures(solver, start, file)


def test_solvers_that_take_the_same_steps_at_rest_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "jacobians.safetensors"
    for viscosity in (0.05, 0.2):
        spec = SolverSpec(name="heat", state_shape=(1, 16), dt=1.0, dtype="float64")
        solver = as_solver(lambda s, nu=viscosity: s + nu * (np.roll(s, 1, -1) - s), spec)  # type: ignore[misc]
        method = ReferenceJacobian(file=file)
        method.measure(np.zeros((1, 1, 16)), None, SolverProbe(solver))
        assert error(method, solver, states_of(solver, 1)) < 1e-6


def test_scenario_parameters_choose_the_reference() -> None:
    solver = LogisticSolver()
    states = np.repeat(states_of(solver, 1), 2, axis=0)
    params = np.array([[0.0], [8.0]])
    method, probes = ReferenceJacobian(8), SolverProbe(solver)
    w = states_of(solver, 2)
    found = method.product(steps_taken(solver, states, params), w, probes)
    for product, cotangent, rate in zip(found, w, params, strict=True):
        at_rate = as_solver(lambda s, r=rate: solver.step(s, np.repeat(r[None], len(s), 0)), SPEC)  # type: ignore[misc]
        np.testing.assert_allclose(product[0], cotangent[0] @ exact_jacobian(at_rate, states[0]), atol=1e-6)


SPEC = SolverSpec(name="at a rate", state_shape=LogisticSolver().spec.state_shape, dt=0.1, dtype="float64")


def test_a_solver_that_fails_leaves_what_was_measured() -> None:
    solver, start, far = drifting()
    broken = False

    def step(states: Array) -> Array:
        if broken and len(states) > 4:
            raise RuntimeError("down")
        return solver.step(states)

    flaky = as_solver(step, solver.spec)
    method, probes = ReferenceJacobian(4), SolverProbe(flaky)
    assert error(method, flaky, start, probes) < 1e-6
    broken = True
    with pytest.raises(SolverCrashError, match="down"):
        method.measure(far, None, probes)
    assert error(method, flaky, start, probes) < 1e-6 and len(method.state_dict()["states"]) == 4


def test_no_more_is_measured_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_jacobian, "CHECK_EVERY", 1)
    solver, start, far = drifting()
    fitting = ReferenceJacobian(4, tolerance=1e-3).value_count(solver.spec, 5) * 8
    method, probes = ReferenceJacobian(4, tolerance=1e-3, memory=fitting), SolverProbe(solver)
    error(method, solver, start, probes)
    error(method, solver, far[:1], probes)
    with pytest.warns(
        UserWarning, match="off by more than tolerance, and no more is measured: the Jacobian of solver 'masked'"
    ):
        error(method, solver, -3 * start[:1], probes)
    assert len(method.state_dict()["states"]) == 5


@pytest.mark.parametrize(
    ("states", "params", "says"),
    [
        (np.zeros((0, 2, 5, 4)), None, "one state of solver 'masked' is needed at least"),
        (np.zeros((3, 2, 5, 5)), None, r"must have shape \(batch, 2, 5, 4\)"),
        (np.full((3, 2, 5, 4), np.nan), None, "must be finite"),
        (torch.zeros(3, 2, 5, 4), None, "must be a numpy array, not Tensor"),
        (np.zeros((3, 2, 5, 4)), [1.0], "parameters of solver 'masked' must be a numpy array"),
    ],
)
def test_what_cannot_be_measured_at(states: Any, params: Any, says: str) -> None:
    for measure in (ReferenceJacobian().measure, ReferenceJacobian().prepare):
        with pytest.raises(SolverError, match=says):
            measure(states, params, SolverProbe(masked()))
