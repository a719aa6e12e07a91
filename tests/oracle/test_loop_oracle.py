"""Oracles: the same answers wherever they are computed, and batches that do not fit."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pytest
import torch
from problems import (
    Burgers,
    Counting,
    Network,
    assert_untouched,
    burgers_oracle,
    conv_corrector,
    fallback_allowed,
    initial_states,
    model_oracle,
    mse,
    network,
    relative_error,
    snapshot,
)
from torch import nn

from deepzero_sim.common.types import NamedTensors
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.coupling.vjp import JacobianField
from deepzero_sim.errors import ConfigError, DivergedError, InvalidStateError, NonFiniteError
from deepzero_sim.estimators import CGE, RGE, BackPropagation, Estimator
from deepzero_sim.models import small
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.oracle.model import ModelOracle
from deepzero_sim.oracle.parameters import trainable, unit_direction
from deepzero_sim.oracle.queries import Coordinates, Directions


def assert_same(grads: NamedTensors, expected: NamedTensors) -> None:
    assert set(grads) == set(expected)
    assert all(torch.equal(grads[name], expected[name]) for name in expected)


@pytest.mark.parametrize("estimator", [CGE(), CGE(scheme="forward"), RGE(num_directions=20)], ids=["CGE", "forward", "RGE"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_workers_change_nothing(executors: dict[str, Executor], estimator: Estimator, dtype: torch.dtype) -> None:
    oracle, batch = burgers_oracle(corrector=conv_corrector().to(dtype), queries_per_chunk=3)
    before = snapshot(oracle.model)
    expected = estimator.estimate(oracle, batch, seed=2)
    for executor in executors.values():
        oracle.executor = executor
        estimate = estimator.estimate(oracle, batch, seed=2)
        assert_same(estimate.grads, expected.grads)
        assert (estimate.loss, estimate.queries) == (expected.loss, expected.queries)
        assert estimate.solver_steps == expected.solver_steps
    assert_untouched(oracle.model, before)


def test_workers_follow_the_network_as_it_is_trained(executors: dict[str, Executor]) -> None:
    model, inputs = network("batch norm")
    serial, batch = model_oracle(model, inputs)
    remotes = [model_oracle(model, inputs, executor=executors[name])[0] for name in ("thread", "two processes")]
    norm = model[1]  # type: ignore[index]
    for training in (True, False):  # the norm alone goes over to its running statistics: the network stays in training mode
        norm.train(training)
        with torch.no_grad():
            norm.running_mean.add_(0.3)
            model.get_parameter("3.weight").mul_(1.7)
        before = snapshot(model)
        expected = CGE().estimate(serial, batch)
        for remote in remotes:
            assert_same(CGE().estimate(remote, batch).grads, expected.grads)
        assert_untouched(model, before)


def test_masks_reach_the_workers(executors: dict[str, Executor]) -> None:
    oracle, batch = burgers_oracle()
    mask = {name: torch.rand(p.shape) < 0.5 for name, p in oracle.model.named_parameters()}
    for estimator in (CGE(), RGE(num_directions=5)):
        oracle.executor = executors["two processes"]
        remote = estimator.estimate(oracle, batch, mask=mask)
        oracle.executor = burgers_oracle()[0].executor
        assert_same(remote.grads, estimator.estimate(oracle, batch, mask=mask).grads)


@pytest.mark.parametrize("queries_per_chunk", [1, 2, 5, 64, 1000])
def test_the_size_of_chunks_changes_nothing_but_rounding(queries_per_chunk: int) -> None:
    oracle, batch = burgers_oracle()
    chunked, _ = burgers_oracle(corrector=oracle.model, queries_per_chunk=queries_per_chunk)
    for estimator in (CGE(), RGE(num_directions=7)):
        expected, estimate = (estimator.estimate(o, batch) for o in (oracle, chunked))
        assert relative_error(estimate.grads, expected.grads) < 1e-10
        assert estimate.solver_steps == expected.solver_steps


@pytest.mark.parametrize("queries_per_chunk", [1, 4, 7])
def test_chunks_are_what_the_solver_is_called_with(queries_per_chunk: int) -> None:
    solver = Counting(Burgers())
    oracle, batch = burgers_oracle(batch=2, unroll=3, solver=solver, queries_per_chunk=queries_per_chunk)
    CGE().estimate(oracle, batch)
    queries = sum(2 * p.numel() for p in oracle.model.parameters())
    chunks = 1 + math.ceil(queries / queries_per_chunk)  # and the network as it is
    assert solver.calls == 1 + 2 * chunks


def test_answers_are_the_changes_of_the_loss_in_the_order_asked() -> None:
    oracle, batch = burgers_oracle(queries_per_chunk=2)
    prepared = oracle.prepare(batch)
    name = next(n for n, _ in oracle.model.named_parameters())
    coordinates = Coordinates(name, (0, 5, 3, 2, 1), (0.1, -0.2, 0.3, 0.0, 0.5))
    directions = Directions((3, 9, 4), (0.1, 0.2, 0.0))
    answers = oracle.ask(prepared, [coordinates, directions])
    assert answers.changes.dtype == torch.float64 and answers.changes.shape == (8,)
    assert answers.solver_steps == 8 * 2 * 2
    assert answers.loss == prepared.loss
    assert float(answers.changes[3]) == float(answers.changes[7]) == 0.0, "a step of zero changes nothing"
    expected = []
    for index, step in zip(coordinates.indices, coordinates.steps, strict=True):
        changed = copy.deepcopy(oracle)
        with torch.no_grad():
            changed.model.get_parameter(name).view(-1)[index] += step
        expected.append(changed.prepare(batch).loss)
    for seed, step in zip(directions.seeds, directions.steps, strict=True):
        changed = copy.deepcopy(oracle)
        with torch.no_grad():
            for key, u in unit_direction(trainable(oracle.model), seed, None).items():
                changed.model.get_parameter(key).add_(step * u)
        expected.append(changed.prepare(batch).loss)
    assert answers.losses.tolist() == pytest.approx(expected, rel=1e-12)
    assert answers.losses.tolist() == (answers.loss + answers.changes).tolist()


def test_an_untrained_corrector_on_parameters_gives_a_gradient(executors: dict[str, Executor]) -> None:
    """The package's own network in float32: its last layer is zero, and it takes scenario parameters."""
    solver = Burgers(dtype="float32", parameters=("nu",), parameter_units=("1",))
    corrector = small(solver.spec, width=3)
    states, params = initial_states(2, dtype="float32"), np.array([[0.02], [0.08]], dtype=np.float32)
    batch = states, params, 0.5 * np.random.default_rng(0).normal(size=(2, 3, 1, 16)).astype("float32")
    loop = SolverLoop(solver, corrector, unroll=3)
    estimate = CGE().estimate(LoopOracle(loop, mse), batch)
    assert_same(CGE().estimate(LoopOracle(loop, mse, executors["two processes"]), batch).grads, estimate.grads)
    moved = {name for name, grad in estimate.grads.items() if grad.any()}
    assert moved == {"network.3.weight", "network.3.bias"}


BATCH = burgers_oracle()[1]


@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        ((BATCH[0][:, :, :-1], *BATCH[1:]), InvalidStateError, r"the batch's states must have shape \(batch, 1, 16\)"),
        ((BATCH[0].astype("float32"), *BATCH[1:]), InvalidStateError, "the batch's states must be float64, not float32"),
        ((BATCH[0] * np.nan, *BATCH[1:]), NonFiniteError, "the batch's states must be finite"),
        ((*BATCH[:2], BATCH[2][:, :2]), ConfigError, r"= \(2, 3, 1, 16\), not \(2, 2, 1, 16\): cut them"),
        ((*BATCH[:2], BATCH[2] * np.inf), NonFiniteError, "references must be finite"),
        ((*BATCH, BATCH[0][:1]), InvalidStateError, r"advanced states must have shape \(2, 1, 16\), not \(1, 1, 16\)"),
        ((*BATCH, BATCH[0].astype("float32")), InvalidStateError, "advanced states must be float64"),
        ((BATCH[0], np.ones((1, 1)), BATCH[2]), InvalidStateError, "one row for each state"),
    ],
)
def test_batches_that_do_not_fit_are_refused(batch: Any, error: type[Exception], words: str) -> None:
    oracle, _ = burgers_oracle()
    for estimator in (CGE(), RGE(num_directions=2), BackPropagation()):
        with pytest.raises(error, match=words) as caught:
            estimator.estimate(oracle, batch)
        assert "\n" not in str(caught.value)


def test_the_batch_is_left_as_it_was() -> None:
    oracle, batch = burgers_oracle()
    copies = copy.deepcopy(batch)
    CGE().estimate(oracle, batch)
    for array, kept in zip(batch, copies, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_settings_are_checked(executors: dict[str, Executor]) -> None:
    with pytest.raises(ConfigError, match="queries_per_chunk must be a positive number, not 0"):
        burgers_oracle(queries_per_chunk=0)
    with pytest.raises(ConfigError, match="'burgers' may not be called by several threads at once"):
        burgers_oracle(solver=Burgers(thread_safe=False), executor=executors["thread"])
    assert isinstance(burgers_oracle(solver=Burgers(thread_safe=False), executor=executors["one process"])[0], Oracle)


def test_what_cannot_be_sent_to_a_worker_is_said(executors: dict[str, Executor]) -> None:
    class Locked(Burgers):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

    oracle, batch = burgers_oracle(solver=Locked(), executor=executors["one process"])
    with pytest.raises(ConfigError, match="must be picklable to be sent to workers, but pickling raised TypeError"):
        CGE().estimate(oracle, batch)


def test_a_loss_that_is_not_finite_is_said() -> None:
    oracle, batch = burgers_oracle(unroll=1)
    with torch.no_grad():
        next(oracle.model.parameters()).fill_(np.inf)
    for estimator in (CGE(), RGE(num_directions=2), BackPropagation()):
        with pytest.raises(DivergedError, match="the loss must be finite, got"):
            estimator.estimate(oracle, batch)


def test_a_corrector_with_batch_norm_gives_the_same_in_every_process(executors: dict[str, Executor]) -> None:
    """Batch norm in training mode: the same statistics in every process, buffers as they were."""
    corrector = nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), nn.BatchNorm1d(2), nn.Tanh(), nn.Conv1d(2, 1, 1)).double()

    class Ignoring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = corrector

        def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
            result: torch.Tensor = self.inner(states)
            return result

    oracle, batch = burgers_oracle(corrector=Ignoring())
    before = snapshot(oracle.model)
    expected = CGE().estimate(oracle, batch)
    for executor in executors.values():
        oracle.executor = executor
        assert_same(CGE().estimate(oracle, batch).grads, expected.grads)
    assert_untouched(oracle.model, before)


class Remembering(nn.Module):
    """A corrector with something from call to call."""

    def __init__(self, remember: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.remember = conv_corrector(), remember
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))
        self.register_buffer("hidden", torch.zeros(1, 1, 1, dtype=torch.float64))
        self.count = 0

    def forward(self, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
        return self.remember(self, self.layer(states, params))


def by_buffer(corrector: Any, correction: torch.Tensor) -> torch.Tensor:
    corrector.calls += 1
    return correction * corrector.calls


def by_hidden_state(corrector: Any, correction: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = correction + corrector.hidden
    corrector.hidden = result.detach().mean((0, 1, 2), keepdim=True)
    return result


def by_attribute(corrector: Any, correction: torch.Tensor) -> torch.Tensor:
    corrector.count += 1
    return correction * corrector.count


@pytest.mark.parametrize("remember", [by_buffer, by_hidden_state, by_attribute])
def test_a_corrector_that_remembers_is_refused(remember: Callable[..., torch.Tensor]) -> None:
    """In a rollout it would be another one at every step."""
    oracle, batch = burgers_oracle(corrector=Remembering(remember))
    with pytest.raises(ConfigError, match="gives other results when it is called again"):
        CGE().estimate(oracle, batch)


class WritingStates(Network):
    """A corrector that writes into the states it is given."""

    def forward(self, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
        return super().forward(states.mul_(2), params)


@pytest.mark.filterwarnings("ignore:.*whole")
def test_a_corrector_may_write_into_its_states() -> None:
    oracle, batch = burgers_oracle(corrector=WritingStates(conv_corrector().layers))
    estimate = CGE(1e-4).estimate(oracle, batch)
    rollout = oracle.loop.rollout(torch.as_tensor(batch[0])).detach()
    assert estimate.loss == pytest.approx(float(mse(rollout, torch.as_tensor(batch[2]))), rel=1e-12)
    plain = BackPropagation().estimate(oracle, batch)
    assert plain.loss == pytest.approx(estimate.loss, rel=1e-12)


def test_a_corrector_that_returns_no_tensor_is_said() -> None:
    class Pair(Network):
        def forward(self, states: torch.Tensor, params: torch.Tensor | None) -> Any:
            return (super().forward(states, params),)

    oracle, batch = burgers_oracle(corrector=Pair(conv_corrector().layers))
    with pytest.raises(ConfigError, match="Pair must return a tensor, not tuple"):
        CGE().estimate(oracle, batch)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda a, b: (a - b).square(), r"float64 of shape \("),
        (lambda a, b: (a - b).square().mean().item(), "float"),
        (lambda a, b: None, "NoneType"),
        (lambda a, b: (a - b).square().mean() + 0j, "complex128"),
    ],
)
def test_a_loss_that_is_no_number_is_refused(loss: Any, says: str) -> None:
    oracle, batch = burgers_oracle()
    for estimator in (CGE(1e-3), BackPropagation()):
        with (
            fallback_allowed(),
            pytest.raises(ConfigError, match=f"the loss must return a tensor of one floating-point number, not .*{says}"),
        ):
            estimator.estimate(LoopOracle(oracle.loop, loss), batch)


def test_a_loss_without_a_gradient_is_refused_where_one_is_needed() -> None:
    oracle, batch = burgers_oracle()
    oracle = LoopOracle(oracle.loop, lambda a, b: mse(a, b).detach())
    with pytest.raises(ConfigError, match="the loss has no gradient"):
        BackPropagation().estimate(oracle, batch)
    assert CGE(1e-3).estimate(oracle, batch).loss > 0


def test_batches_have_as_many_parts_as_they_should() -> None:
    oracle, batch = burgers_oracle()
    for wrong in (batch[:2], (*batch, batch[0], batch[0]), None, 3):
        with pytest.raises(ConfigError, match=r"a batch must be \(states, params, references\)"):
            CGE(1e-3).estimate(oracle, wrong)
    plain = ModelOracle(nn.Linear(3, 1), mse)
    with pytest.raises(ConfigError, match=r"a batch must be \(inputs, targets\), not 1 entries"):
        plain.prepare((torch.zeros(2, 3),))


def test_targets_need_no_batch_axis() -> None:
    oracle, inputs = ModelOracle(nn.Linear(3, 1), lambda a, b: (a.mean() - b).square()), torch.ones(4, 3)
    batch = inputs, torch.tensor(1.0)
    estimate, exact = (estimator.estimate(oracle, batch) for estimator in (CGE(1e-3), BackPropagation()))
    torch.testing.assert_close(estimate.grads, exact.grads, rtol=1e-2, atol=1e-3)


def test_what_a_product_learnt_becomes_tensors_without_a_warning() -> None:
    """Its arrays are only to be read, of which torch warns once a process, or always."""
    solver, states, torch_warns = Burgers(), initial_states(16), torch.is_warn_always_enabled()
    fields = JacobianField(16), JacobianField(16)
    loops = [SolverLoop(solver, conv_corrector(), unroll=2, gradient=field) for field in fields]
    fields[0].prepare(states, None, loops[0].layer.probes)
    torch.set_warn_always(True)
    try:
        tensors = LoopOracle(loops[0], mse).state_dict()
    finally:
        torch.set_warn_always(torch_warns)
    LoopOracle(loops[1], mse).load_state_dict(tensors)
    assert fields[1].state_dict().keys() == tensors.keys()
    assert all(np.array_equal(array, tensors[name]) for name, array in fields[1].state_dict().items())
