"""Oracles of plain networks: the same gradient wherever and in whatever chunks it is computed, and what does not fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from problems import assert_untouched, autograd, fallback_allowed, mse, relative_error, snapshot
from torch import nn

from deepzero_sim.common.types import NamedTensors
from deepzero_sim.errors import ConfigError, DivergedError
from deepzero_sim.estimators import CGE, RGE, BackPropagation, Estimator
from deepzero_sim.execution.executors import Backend, open_executor
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.oracle.model import ModelOracle
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.oracle.queries import Coordinates, parts_of


def classifier(dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).to(dtype)  # fmt: skip


def labelled(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(8, 1, 8, 8, dtype=dtype), torch.randint(0, 3, (8,))


def assert_same(grads: NamedTensors, expected: NamedTensors) -> None:
    assert set(grads) == set(expected)
    assert all(torch.equal(grads[name], expected[name]) for name in expected)


@pytest.mark.parametrize("estimator", [CGE(1e-3), CGE(1e-3, "forward"), RGE(num_directions=9)], ids=["CGE", "forward", "RGE"])
def test_workers_change_nothing(executors: dict[str, Executor], estimator: Estimator) -> None:
    model, batch = classifier(), labelled()
    before = snapshot(model)
    expected = estimator.estimate(ModelOracle(model, F.cross_entropy), batch, seed=4)
    for executor in executors.values():
        oracle = ModelOracle(model, F.cross_entropy, executor)
        for _ in range(2):
            estimate = estimator.estimate(oracle, batch, seed=4)
            assert_same(estimate.grads, expected.grads)
            assert (estimate.loss, estimate.queries) == (expected.loss, expected.queries)
    assert_untouched(model, before)


def test_workers_change_nothing_of_whole_passes(executors: dict[str, Executor]) -> None:
    """Workers find out for themselves that a network cannot be recorded, and warn only where it is seen."""
    model, batch = nn.Sequential(classifier(), Branching()), labelled()
    with fallback_allowed() as caught:
        expected = CGE(1e-3).estimate(ModelOracle(model, F.cross_entropy), batch)
        for name in ("serial", "thread"):
            oracle = ModelOracle(model, F.cross_entropy, executors[name])
            assert_same(CGE(1e-3).estimate(oracle, batch).grads, expected.grads)
    assert {str(w.message).split()[0] for w in caught} == {"Sequential"}


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x if x.mean() > 100 else x


SIZES: list[dict[str, Any]] = [
    {"queries_per_chunk": 1}, {"queries_per_chunk": 4}, {"queries_per_chunk": 5}, {"working_set": 1}, {"working_set": 2**30},
]  # fmt: skip


@pytest.mark.parametrize("options", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_size_of_chunks_changes_nothing_but_rounding(options: dict[str, Any], dtype: torch.dtype) -> None:
    model, batch = classifier(dtype), labelled(dtype)
    expected = CGE(1e-3).estimate(ModelOracle(model, F.cross_entropy), batch)
    estimate = CGE(1e-3).estimate(ModelOracle(model, F.cross_entropy, **options), batch)
    assert relative_error(estimate.grads, expected.grads) < (1e-5 if dtype == torch.float32 else 1e-12)


def test_chunks_hold_every_query_once_and_what_the_working_set_holds() -> None:
    model, batch = classifier(), labelled()
    asked = [Coordinates(n, tuple(range(p.numel())), (1e-3,) * p.numel()) for n, p in trainable(model).items()]
    lengths = []
    for working_set in (1, 2**16, 2**30):
        oracle = ModelOracle(model, F.cross_entropy, working_set=working_set)
        prepared = oracle.prepare(batch)
        chunks = oracle.chunks(prepared, asked)
        found = [(part.name, index) for chunk in chunks for part in parts_of(chunk) for index in part.indices]
        assert found == [(part.name, index) for part in asked for index in part.indices]
        for chunk in chunks:
            (part,) = parts_of(chunk)
            assert len(chunk) == 1 or len(chunk) * prepared.footprint[part.name].size <= working_set
            assert oracle.cost(prepared, chunk) > 0
        lengths.append(max(map(len, chunks)))
    assert lengths[0] == 1 < lengths[2] == max(len(part) for part in asked)
    assert lengths == sorted(lengths)


def test_chunks_answer_what_single_queries_answer() -> None:
    model, batch = classifier(torch.float64), labelled(torch.float64)
    oracle = ModelOracle(model, F.cross_entropy)
    prepared = oracle.prepare(batch)
    for name, parameter in trainable(model).items():
        for index in {0, parameter.numel() // 2, parameter.numel() - 1}:
            (change,) = oracle.ask(prepared, [Coordinates(name, (index,), (0.05,))]).changes
            with torch.no_grad():
                parameter.view(-1)[index] += 0.05
                moved = ModelOracle(model, F.cross_entropy).prepare(batch).loss
                parameter.view(-1)[index] -= 0.05
            assert float(change) == pytest.approx(moved - prepared.loss, rel=1e-8, abs=1e-14)


def test_a_step_far_below_the_rounding_of_the_loss_still_gives_the_gradient() -> None:
    """In float32, where `l(theta + mu e) == l(theta)` for nearly every coordinate."""
    model, batch = classifier(), labelled()
    estimate = CGE(1e-7, "forward").estimate(ModelOracle(model, F.cross_entropy), batch)
    exact = autograd(ModelOracle(model.double(), F.cross_entropy), (batch[0].double(), batch[1]))
    assert relative_error(estimate.grads, exact) < 1e-4


def test_bfloat16_rounds_differences_only() -> None:
    model, batch = classifier(), labelled()
    oracle = ModelOracle(model, F.cross_entropy, precision="bfloat16")
    before = snapshot(model)
    estimate = CGE(1e-4).estimate(oracle, batch)
    assert_untouched(model, before)
    assert all(grad.dtype == torch.float32 for grad in estimate.grads.values())
    exact = autograd(ModelOracle(model.double(), F.cross_entropy), (batch[0].double(), batch[1]))
    assert relative_error(estimate.grads, exact) < 3e-2
    a, b = (torch.cat([grads[name].double().flatten() for name in exact]) for grads in (estimate.grads, exact))
    assert float(F.cosine_similarity(a, b, dim=0)) > 0.999


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"working_set": 0}, "working_set must be a positive whole number of bytes, not 0"),
        ({"working_set": -5}, "working_set must be a positive whole number of bytes, not -5"),
        ({"memory": "1GB"}, "memory must be a positive whole number of bytes, not '1GB'"),
        ({"memory": None}, "memory must be a positive whole number of bytes, not None"),
        ({"memory": 0}, "memory must be a positive whole number of bytes, not 0"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, not 'float16'"),
        ({"queries_per_chunk": 0}, "queries_per_chunk must be a positive number, not 0"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_in_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        ModelOracle(classifier(), F.cross_entropy, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.5, r"its activations take more than the \S+ MiB"),
        (1.2, r"activations and the differences of a single query take \S+ MiB"),
    ],
)
def test_a_network_that_does_not_fit_is_queried_by_whole_passes_and_a_warning_says_why(share: float, words: str) -> None:
    """Never an out-of-memory error, and never another answer."""
    model, batch = classifier(), labelled()
    recording = ModelOracle(model, F.cross_entropy)._network.unperturbed_pass((batch[0],), batch[1]).recording
    assert recording is not None
    expected = CGE(1e-2).estimate(ModelOracle(model, F.cross_entropy), batch)
    oracle = ModelOracle(model, F.cross_entropy, memory=int(share * recording.size))
    with pytest.warns(UserWarning, match=words):
        estimate = CGE(1e-2).estimate(oracle, batch)
    assert relative_error(estimate.grads, expected.grads) < 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        CGE(1e-2).estimate(oracle, batch, {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()})


def test_a_loss_that_is_not_finite_is_said() -> None:
    model, (inputs, targets) = classifier(), labelled()
    for value in (np.nan, np.inf):
        for estimator in (CGE(), RGE(num_directions=2)):
            with pytest.raises(DivergedError, match="the loss must be finite, got"):
                estimator.estimate(ModelOracle(model, F.cross_entropy), (inputs * value, targets))


def test_a_network_without_parameters_is_refused() -> None:
    oracle = ModelOracle(nn.Tanh(), mse)
    with pytest.raises(ConfigError, match="the network Tanh has no parameters to train"):
        CGE().estimate(oracle, (torch.zeros(2, 3), torch.zeros(2, 3)))
    frozen = classifier().requires_grad_(False)
    with pytest.raises(ConfigError, match="Sequential has no parameters to train"):
        CGE().estimate(ModelOracle(frozen, F.cross_entropy), labelled())


@pytest.mark.parametrize("estimator", [CGE(), RGE(num_directions=2), BackPropagation()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x[:, :, 0], y), "the network raised RuntimeError on shapes .*; check that they fit"),
        (lambda x, y: (x.long(), y), "the network raised RuntimeError on shapes "),
        (lambda x, y: ((x, x), y), "the network raised TypeError on shapes "),
        (lambda x, y: (x, y[:2]), "the loss raised ValueError on shapes "),
        (lambda x, y: (x, y + 100), "the loss raised IndexError on shapes "),
        (lambda x, y: (x, y > 0), "the loss raised .*Error on shapes "),
    ],
    ids=["shape", "dtype", "count", "sizes", "labels", "targets"],
)
def test_a_batch_that_does_not_fit_is_said(estimator: Estimator, change: Callable[..., Any], words: str) -> None:
    oracle = ModelOracle(classifier(), F.cross_entropy)
    with pytest.raises(ConfigError, match=words):
        estimator.estimate(oracle, change(*labelled()))


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda a, b: 1 / 0, "the loss raised ZeroDivisionError"),
        (lambda a, b: (a.argmax(1) != b).any(), "the loss must return a tensor of one floating-point number, not torch.bool"),
        (lambda a, b: (a.argmax(1) != b).sum(), "the loss must return a tensor of one floating-point number, not torch.int64"),
    ],
    ids=["raises", "bool", "int"],
)
def test_a_loss_that_is_none_is_said(loss: Callable[..., Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CGE().estimate(ModelOracle(classifier(), loss), labelled())


def test_what_an_oracle_is_made_of_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"an oracle asks a torch\.nn\.Module, not NoneType"):
        ModelOracle(None, mse)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"a loss must be callable as loss\(outputs, targets\), but None is not"):
        ModelOracle(classifier(), None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"a LoopOracle asks a dz\.SolverLoop, not Sequential"):
        LoopOracle(classifier(), mse)  # type: ignore[arg-type]


class Scaling(nn.Module):
    """Uses an attribute, and a buffer that state dicts leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.factor = nn.Linear(4, 5), nn.Linear(5, 3), 1.0
        self.register_buffer("scale", torch.ones(5), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(x)) * self.scale) * self.factor  # type: ignore[no-any-return]

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


CHANGES: dict[str, Callable[[Any], Any]] = {
    "buffer": lambda m: m.scale.fill_(5.0),
    "attribute": lambda m: setattr(m, "factor", 3.0),
    "hook": lambda m: m.first.register_forward_hook(lambda module, inputs, output: 2 * output),
    "frozen": lambda m: m.first.weight.requires_grad_(False),
    "another layer": lambda m: setattr(m, "first", nn.Linear(4, 5)),
    "weights": lambda m: m.first.weight.data.mul_(2),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["thread", "two processes"])
def test_workers_follow_whatever_changes(executors: dict[str, Executor], kind: str, change: str) -> None:
    model, batch = Scaling(), (torch.randn(6, 4), torch.randn(6, 3))
    ours, alone = ModelOracle(model, F.mse_loss, executors[kind]), ModelOracle(model, F.mse_loss)
    assert_same(*(CGE().estimate(oracle, batch).grads for oracle in (ours, alone)))
    CHANGES[change](model)
    assert_same(*(CGE().estimate(oracle, batch).grads for oracle in (ours, alone)))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_networks_and_autocast_are_refused() -> None:
    plain = nn.Sequential(nn.Linear(4, 3))
    batch = torch.randn(6, 4), torch.randn(6, 3)
    with pytest.raises(ConfigError, match="a network that was scripted or traced hides its parameters"):
        ModelOracle(torch.jit.trace(plain, batch[0]), F.mse_loss)  # type: ignore[no-untyped-call]
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigError, match="autocast rounds the results"):
        CGE().estimate(ModelOracle(plain, F.mse_loss), batch)


def test_overlapping_parameters_are_refused() -> None:
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter(torch.randn(1, 4).expand(3, 4))
    with pytest.raises(ConfigError, match=r"parameter 'weight' .* has several coordinates in one place of memory"):
        CGE().estimate(ModelOracle(model, F.mse_loss), (torch.randn(6, 4), torch.randn(6, 3)))


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_a_closed_executor_is_said(backend: Backend) -> None:
    with open_executor(backend, 2) as executor:
        pass
    with pytest.raises(ConfigError, match=r"the executor takes no tasks .*: use it within 'with dz\.open_executor"):
        CGE().estimate(ModelOracle(classifier(), F.cross_entropy, executor), labelled())


def test_a_batch_is_of_dense_tensors() -> None:
    for strange in (torch.zeros(8, 1, 8, 8).to_sparse(), torch.zeros(8, 1, 8, 8, device="meta")):
        with pytest.raises(ConfigError, match="a batch must hold dense tensors with values, not torch"):
            ModelOracle(classifier(), F.cross_entropy).prepare((strange, torch.zeros(8, dtype=torch.long)))


@pytest.mark.parametrize("batch", [None, 3, (torch.zeros(2, 3),), (torch.zeros(2), torch.zeros(2), torch.zeros(2))], ids=str)
def test_a_batch_is_inputs_and_targets(batch: Any) -> None:
    with pytest.raises(ConfigError, match=r"a batch must be \(inputs, targets\), not"):
        ModelOracle(classifier(), F.cross_entropy).prepare(batch)


def test_the_batch_is_left_as_it_was() -> None:
    batch = labelled()
    copies = tuple(x.clone() for x in batch)
    CGE(1e-3).estimate(ModelOracle(classifier(), F.cross_entropy), batch)
    assert all(torch.equal(x, kept) for x, kept in zip(batch, copies, strict=True))


def test_every_batch_is_answered_with_its_own_base(executors: dict[str, Executor]) -> None:
    """Two prepared batches, asked in turn: what was kept of one is not used for the other."""
    model = classifier(torch.float64)
    oracle = ModelOracle(model, F.cross_entropy, executors["one process"])
    batches = [labelled(torch.float64) for _ in range(2)]
    prepared = [oracle.prepare(batch) for batch in batches]
    query = Coordinates("0.weight", (0, 5), (0.1, 0.1))
    answers = [oracle.ask(prepared[i], [query]).changes for i in (0, 1, 0)]
    assert torch.equal(answers[0], answers[2]) and not torch.equal(answers[0], answers[1])
    serial = ModelOracle(model, F.cross_entropy)
    assert torch.equal(serial.ask(serial.prepare(batches[1]), [query]).changes, answers[1])
