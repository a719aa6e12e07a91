"""Code that is not ours gets copies: whatever it writes into them, and however, nothing of ours changes."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import initial_states
from torch import nn

import deepzero_sim as dz
from deepzero_sim.common.components import call_function
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.evaluation import evaluate
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp import StepTaken, VectorJacobianProduct
from deepzero_sim.datasets import Trajectories
from deepzero_sim.datasets.batches import advance_frames
from deepzero_sim.errors import SolverCrashError
from deepzero_sim.estimators import BackPropagation
from deepzero_sim.serving.solver_models import ServedSolver
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.solver.stepping import checked_step

SPEC = dz.SolverSpec(name="decay", state_shape=(1, 16), dt=1.0, dtype="float64", parameters=("percent",))


def by_operator(array: Array) -> Array:
    array /= 100
    return array


def by_out(array: Array) -> Array:
    return np.divide(array, 100, out=array)


def by_view(array: Array) -> Array:
    array.reshape(-1)[:] = array.reshape(-1) / 100
    return array


def by_torch(array: Array) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it may write through the flag
        torch.from_numpy(array).div_(100)
    return array


def by_address(array: Array) -> Array:
    """As compiled code does, by f2py or ctypes."""
    numbers = (ctypes.c_double * array.size).from_address(array.ctypes.data)
    numbers[:] = [number / 100 for number in numbers]
    return array


Write = Callable[[Array], Array]

#: Ways to write that numpy refuses, and ways that it does not see.
SEEN, UNSEEN = (by_operator, by_out, by_view), (by_torch, by_address)


class Decay(dz.Solver):
    """`s' = s (1 - percent / 100)`, which divides in place; or `s' = s / 100`, likewise."""

    spec = SPEC

    def __init__(self, write: Write, into: str) -> None:
        self.write, self.into = write, into

    def step(self, states: Array, params: Array | None = None) -> Array:
        assert params is not None
        return states * (1 - self.write(params)[:, :, None]) if self.into == "params" else self.write(states) + 0


class Identity(nn.Module):
    """No correction, by a network that has something to train."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        return self.weight * states


def through_rollout(solver: dz.Solver, states: Array, params: Array) -> Any:
    loop = dz.SolverLoop(solver, Identity())
    return loop.rollout(torch.from_numpy(states), torch.from_numpy(params), 2)[:, 1].detach().numpy()


def through_layer(solver: dz.Solver, states: Array, params: Array) -> Any:
    layer = dz.SolverLayer(solver, dz.vjp.StraightThrough())
    given = torch.from_numpy(states), torch.from_numpy(params)
    return layer(layer(*given), given[1]).numpy()


def through_probes(solver: dz.Solver, states: Array, params: Array) -> Any:
    probes = SolverProbe(solver)
    return probes(probes(states, params), params)


def through_check(solver: dz.Solver, states: Array, params: Array) -> Any:
    return checked_step(solver, checked_step(solver, states, params), params)


def through_evaluation(solver: dz.Solver, states: Array, params: Array) -> Any:
    frames = torch.from_numpy(states)[:, None].repeat(1, 3, 1, 1)
    active = torch.ones(states.shape[1:], dtype=torch.bool)
    return (
        evaluate(dz.SolverLoop(solver, Identity()), frames, torch.from_numpy(params), active, 2).rollout[:, 1].detach().numpy()
    )


def through_first_steps(solver: dz.Solver, states: Array, params: Array) -> Any:
    once = advance_frames(solver, Trajectories(np.stack([states, states], 1), params, SPEC.active()))[:, 0]
    return advance_frames(solver, Trajectories(np.stack([once, once], 1), params, SPEC.active()))[:, 0]


def through_server(solver: dz.Solver, states: Array, params: Array) -> Any:
    rows = [ServedSolver(solver).evaluate([s.ravel(), p], {"steps": 2})[0] for s, p in zip(states, params, strict=True)]
    return np.stack(rows)[:, None]


WAYS = (
    through_rollout,
    through_layer,
    through_probes,
    through_check,
    through_evaluation,
    through_first_steps,
    through_server,
)


@pytest.mark.parametrize("write", UNSEEN)
@pytest.mark.parametrize("into", ["params", "states"])
@pytest.mark.parametrize("way", WAYS)
def test_what_a_solver_writes_past_numpy_changes_no_later_step(way: Callable[..., Any], into: str, write: Write) -> None:
    states, params = initial_states(3), np.array([[50.0], [20.0], [10.0]])
    given = states.copy(), params.copy()
    result = way(Decay(write, into), *given)
    expected = states * (1 - params[:, :, None] / 100) ** 2 if into == "params" else states / 1e4
    np.testing.assert_allclose(result, expected, rtol=1e-12)
    np.testing.assert_array_equal(given[0], states)
    np.testing.assert_array_equal(given[1], params)


@pytest.mark.parametrize("write", SEEN)
@pytest.mark.parametrize("into", ["params", "states"])
@pytest.mark.parametrize("way", WAYS)
def test_what_a_solver_writes_by_numpy_is_said(way: Callable[..., Any], into: str, write: Write) -> None:
    states, params = initial_states(3), np.array([[50.0], [20.0], [10.0]])
    given = states.copy(), params.copy()
    with pytest.raises(SolverCrashError, match="a step must not change its input, so copy it first"):
        way(Decay(write, into), *given)
    np.testing.assert_array_equal(given[0], states)
    np.testing.assert_array_equal(given[1], params)


def test_a_solver_that_keeps_what_it_was_given_keeps_a_copy() -> None:
    kept = []

    def step(states: Array, params: Array) -> Array:
        kept.append((states, params))
        return states * 0.5

    states, params = torch.ones(1, 1, 16, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    dz.SolverLoop(dz.as_solver(step, SPEC), Identity()).rollout(states, params, 1)
    states.zero_()
    params.zero_()
    assert kept[0][0].min() == kept[0][1].min() == 1


@pytest.mark.parametrize("place", [0, 1])
def test_what_a_retried_step_spoilt_is_whole_again(place: int) -> None:
    seen = []

    def step(states: Array, params: Array) -> Array:
        seen.append((states.copy(), params.copy()))
        by_address((states, params)[place])
        if len(seen) == 1:
            raise RuntimeError("once")
        return states * 1.0

    solver = dz.as_solver(step, SPEC)
    loop = dz.SolverLoop(solver, Identity(), on_failure=FailurePolicy("retry(1)"))
    loop.rollout(initial_states(1), np.array([[50.0]]), 1)
    np.testing.assert_array_equal(seen[1][place], seen[0][place])


class WritingCorrector(Identity):
    """Writes into states and parameters, which it is given in its own precision or another."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.to(dtype)

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        assert params is not None
        correction = self.weight * states + 0 * params[:, :, None]
        with torch.no_grad():
            states.mul_(0)
            params.mul_(0)
        return correction + params[:, :, None].detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_corrector_may_write_into_what_it_is_given(dtype: torch.dtype) -> None:
    solver = dz.as_solver(lambda states, params: states * (1 - params[:, :, None] / 100), SPEC)
    states, params = torch.ones(1, 1, 16, dtype=torch.float64), torch.full((1, 1), 50.0, dtype=torch.float64)
    with torch.no_grad():
        rollout = dz.SolverLoop(solver, WritingCorrector(dtype)).rollout(states, params, 3)
    np.testing.assert_allclose(rollout[0, :, 0, 0], [0.5, 0.25, 0.125])
    assert float(params) == 50
    assert float(states.min()) == 1


class InPlaceTwin(dz.DifferentiableSolver):
    """A differentiable solver that works in the tensors it is given."""

    spec = SPEC

    def step(self, states: Array, params: Array | None = None) -> Array:
        assert params is not None
        return states * (1 - params[:, :, None] / 100)

    def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        assert params is not None
        params /= 100
        states *= 1 - params[:, :, None]
        return states


def test_a_differentiable_step_may_write_into_what_it_is_given() -> None:
    loop = dz.SolverLoop(InPlaceTwin(), Identity(), gradient="exact")
    states, params = torch.ones(1, 1, 16, dtype=torch.float64, requires_grad=True), torch.full((1, 1), 50.0).double()
    rollout = loop.rollout(states, params, 3)
    np.testing.assert_allclose(rollout.detach()[0, :, 0, 0], [0.5, 0.25, 0.125])
    (gradient,) = torch.autograd.grad(rollout[:, -1].sum(), states)
    np.testing.assert_allclose(gradient, 0.125)
    assert float(params) == 50


def writing_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Takes the mean off both in place, as losses of fluctuations do."""
    targets -= targets.mean()
    return (outputs - outputs.mean() - targets).square().mean()


def pure_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - outputs.mean() - (targets - targets.mean())).square().mean()


ESTIMATORS = (dz.CGE(step_size=1e-6, scheme="central"), dz.RGE(step_size=1e-6, num_directions=3), BackPropagation())


@pytest.mark.filterwarnings("ignore:.*queried by whole forward passes")
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def test_a_loss_may_write_into_the_references_of_a_rollout(estimator: Any) -> None:
    solver = dz.as_solver(lambda states, params: states * (1 - params[:, :, None] / 100), SPEC)
    batch = (
        torch.from_numpy(initial_states(2)),
        torch.tensor([[50.0], [20.0]], dtype=torch.float64),
        1 + torch.from_numpy(initial_states(4, seed=1)).view(2, 2, 1, 16),
    )
    before = [x.clone() for x in batch]
    found = [
        estimator.estimate(dz.LoopOracle(dz.SolverLoop(solver, Identity(), unroll=2), loss), batch)
        for loss in (writing_loss, pure_loss)
    ]
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-12)
    assert float(found[0].grads["weight"]) == pytest.approx(float(found[1].grads["weight"]), rel=1e-6)
    assert all(map(torch.equal, batch, before))


@pytest.mark.filterwarnings("ignore:.*queried by whole forward passes")
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def test_a_network_that_begins_in_place_leaves_the_batch_alone(estimator: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 1)).double()
    inputs, targets = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    given = inputs.clone(), targets.clone()
    estimator.estimate(dz.ModelOracle(model, writing_loss), given)
    assert torch.equal(given[0], inputs)
    assert torch.equal(given[1], targets)


class Greedy(VectorJacobianProduct):
    """The identity, by a product that writes into all it is given."""

    def __init__(self, write: Write) -> None:
        self.write = write

    def product(self, taken: StepTaken, cotangents: Array, probes: SolverProbe) -> Array:
        result = cotangents.copy()
        assert taken.params is not None
        for array in (taken.states, taken.params, taken.advanced, cotangents):
            self.write(array)
        return result


@pytest.mark.parametrize("write", UNSEEN)
def test_a_vector_jacobian_product_may_write_into_what_it_is_given(write: Write) -> None:
    solver = dz.as_solver(lambda states, params: states * (1 - params[:, :, None] / 100), SPEC)
    states, params = torch.ones(2, 1, 16, dtype=torch.float64, requires_grad=True), torch.full((2, 1), 50.0).double()
    layer = dz.SolverLayer(solver, Greedy(write))
    result = layer(layer(states, params), params)
    weights = torch.ones_like(result)
    (gradient,) = torch.autograd.grad(result, states, weights)
    np.testing.assert_array_equal(gradient, 1)
    assert float(weights.min()) == 1
    assert float(states.detach().min()) == 1
    assert float(params.min()) == 50
    np.testing.assert_allclose(result.detach(), 0.25)


def test_parameters_changed_before_the_backward_pass_are_not_used() -> None:
    solver = dz.as_solver(lambda states, params: states * (1 - params[:, :, None] / 100), SPEC)
    states, params = torch.ones(1, 1, 16, dtype=torch.float64, requires_grad=True), torch.full((1, 1), 50.0).double()
    result = dz.SolverLayer(solver, dz.vjp.Coloured(radius=1))(states, params)
    params.zero_()
    (gradient,) = torch.autograd.grad(result.sum(), states)
    np.testing.assert_allclose(gradient, 0.5, rtol=1e-6)


def test_functions_that_settings_name_get_copies_and_give_copies(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nkept = np.zeros(3)\n"
        "def reuses(array):\n    kept[:] += array\n    return kept\n"
        "def writes(array):\n    array += 1\n    return array\n"
    )
    ones = np.ones(3)
    first, second = (call_function(f"{tmp_path}/mine.py:reuses", ones) for _ in range(2))
    assert (first[0], second[0]) == (1, 2)
    with pytest.raises(dz.ConfigError, match="read-only"):
        call_function(f"{tmp_path}/mine.py:writes", ones)
    assert ones.max() == 1


def test_a_mask_is_no_one_elses() -> None:
    mask = np.ones((1, 4), dtype=bool)
    spec = dz.SolverSpec(name="m", state_shape=(1, 4), dt=1.0, mask=mask)
    mask[0, 0] = False
    assert spec.active().all()
    spec.active()[0, 0] = False
    assert spec.active().all()
    with pytest.raises(ValueError, match="read-only"):
        spec.mask[0, 0] = False  # type: ignore[index]


class Wrong(dz.DifferentiableSolver):
    """A differentiable step that is not as the contract wants it."""

    spec = SPEC

    def __init__(self, made: Callable[[torch.Tensor], Any]) -> None:
        self.made = made

    def step(self, states: Array, params: Array | None = None) -> Array:
        return states / 2

    def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        result: torch.Tensor = self.made(states / 2)
        return result


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda s: s[:1], "must return torch.float64 of shape"),
        (lambda s: s[:, :, :2], "must return torch.float64 of shape"),
        (lambda s: s.float(), "not torch.float32"),
        (lambda s: s + 0j, "not torch.complex128"),
        (lambda s: s.detach().numpy(), "must return a tensor, not ndarray"),
        (lambda s: None, "must return a tensor, not NoneType"),
        (lambda s: s @ s, "raised RuntimeError"),
    ],
)
def test_a_differentiable_step_is_held_to_the_contract(made: Callable[[torch.Tensor], Any], words: str) -> None:
    loop = dz.SolverLoop(Wrong(made), Identity(), gradient="exact")
    with pytest.raises(dz.SolverError, match=words):
        loop.rollout(torch.ones(2, 1, 16, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64), 1)
