"""`deepzero-sim bench cge`: one JSON object on stdout, honest counts, one sentence for what cannot be measured."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from deepzero_sim.benchmarks import cge_speed
from deepzero_sim.benchmarks.cge_error import relative_errors, sample
from deepzero_sim.benchmarks.cge_speed import Engine, mask_of, mean_seconds, sample_evenly
from deepzero_sim.benchmarks.dense_convolutions import best_rate, layers_of, mean_flops_behind
from deepzero_sim.benchmarks.networks import make_task
from deepzero_sim.benchmarks.plain_loop import PlainLoop
from deepzero_sim.cli.main import main
from deepzero_sim.estimators import CGE
from deepzero_sim.models import resnet20
from deepzero_sim.oracle.model import ModelOracle

QUICK = ["--seconds", "0.001", "--repeats", "1", "--error_coordinates", "2", "--batch", "2"]
KINDS = ("error", "rounding_error")
SERIAL = ["--workers.backend", "serial", "--workers.count", "1"]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["bench", "cge", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_it_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    status, out, err = call(capsys, "--model", "small", *QUICK, *SERIAL, "--scheme", "central")
    assert (status, err) == (0, "")
    found = json.loads(out)
    settings = {"model": "small", "batch": 2, "device": "cpu", "precision": "float32", "scheme": "central", "step_size": 0.001}
    assert found.items() >= {**settings, "parameters": 482, "workers": {"backend": "serial", "count": 1}}.items()
    speeds = ["queries_per_second", "plain_queries_per_second", "plain_channels_last_queries_per_second"]
    ratios = ["ratio", "ratio_to_faster_plain", "share_of_limit", "dense_gflops", "limit_queries_per_second"]
    errors = [f"{who}{which}_{kind}" for who in ("", "plain_") for which in ("largest", "median") for kind in KINDS]
    numbers = [*speeds, *ratios, *errors, "preparation_seconds", "threads", "load_average_before", "peak_memory_mb", "seconds"]
    assert found.keys() == {*settings, "parameters", "workers", *numbers}
    assert all(math.isfinite(found[name]) and found[name] >= 0 for name in numbers)
    assert all(found[name] > 0 for name in (*speeds, *ratios))
    assert found["ratio"] == pytest.approx(found["queries_per_second"] / found["plain_queries_per_second"], rel=1e-2)
    assert found["ratio_to_faster_plain"] <= found["ratio"] * 1.001
    assert found["largest_error"] < 0.2 and found["plain_largest_error"] < 0.2  # float32 and a step of 1e-3
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "resnet21"], "model.*resnet21"),
        (["--batch", "1"], "batch must be at least 2 for resnet20, whose batch norm compares images, .*not 1"),
        (["--model", "small", "--batch", "0"], "batch must be at least 1 for small, .*not 0"),
        (["--device", "tpu"], "device.*tpu"),
        (["--precision", "float8"], "precision.*float8"),
        (["--seconds", "0"], "seconds must be a positive number, not 0"),
        (["--seconds", "nan"], "seconds.*nan"),
        (["--repeats", "0"], "repeats must be a positive number"),
        (["--error_coordinates", "0"], "error_coordinates must be a positive number"),
        (["--seed", "-1"], "seed must be 0 or a positive number"),
        (["--step_size", "0", "--model", "small"], "step_size must be a positive number"),
        (["--workers.count", "0", "--model", "small"], "workers must be a whole number"),
        (["--queries_per_chunk", "0", "--model", "small"], "queries_per_chunk must be a positive number"),
    ],
)
def test_what_cannot_be_measured(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_fails(capsys, says, "bench", "cge", *arguments)


def assert_fails(capsys: pytest.CaptureFixture[str], says: str, *arguments: str) -> None:
    status = main(list(arguments))
    out, err = capsys.readouterr()
    assert (status, out) == (2, "") and err.startswith("deepzero-sim: ") and err.count("\n") == 1 and err.endswith(".\n")
    assert re.search(says, err), err


def test_a_benchmark_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert_fails(capsys, "cge", "bench")
    assert_fails(capsys, "cgf", "bench", "cgf")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert_fails(capsys, "device cuda needs a GPU that torch can use, .*take --device cpu", "bench", "cge", "--device", "cuda")


# ---- what is measured


@pytest.mark.parametrize("name", ["resnet20", "small", "mercury"])
def test_networks_have_a_gradient_everywhere_and_come_from_the_seed(name: str) -> None:
    task, same, other = (make_task(name, 2, seed) for seed in (3, 3, 4))
    task.loss(task.model(task.batch[0]), task.batch[1]).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in task.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(task.model.parameters(), same.model.parameters(), strict=True))
    assert torch.equal(task.batch[0], same.batch[0]) and not torch.equal(task.batch[0], other.batch[0])


def test_every_tensor_gives_the_same_share() -> None:
    parameters = dict(nn.Sequential(nn.Linear(50, 8), nn.Linear(8, 5)).named_parameters())
    held = [name for name, _ in sample_evenly(parameters, 45)]
    assert [held.count(name) for name in parameters] == [40, 1, 4, 1]
    everything = sample_evenly(parameters, 453)
    assert len(everything) == len(set(everything)) == 453
    assert sorted(i for name, i in everything if name == "1.weight") == list(range(40))


def test_a_mask_of_coordinates() -> None:
    parameters = dict(nn.Linear(3, 2).named_parameters())
    mask = mask_of(parameters, [("weight", 4), ("weight", 0)])
    assert mask.keys() == {"weight"} and mask["weight"].tolist() == [[True, False, False], [False, True, False]]


class FakeClock:
    """Seconds as they pass by what is asked of the engine and the loops, not by what the machine does."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self, call: Callable[[], Any], device: torch.device) -> float:
        before = self.now
        call()
        return self.now - before


@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_speeds_are_means_over_the_parameters_without_what_is_done_once_a_batch(
    scheme: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, of_query = FakeClock(), {"0.weight": 0.5, "0.bias": 0.125, "1.weight": 0.25, "1.bias": 0.125}
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    batch, loss = (torch.randn(2, 5), torch.randn(2, 3)), nn.functional.mse_loss
    steps = 2 if scheme == "central" else 1

    class Timed(ModelOracle):
        def prepare(self, batch: Any) -> Any:
            clock.now += 100.0
            return super().prepare(batch)

        def ask(self, prepared: Any, perturbations: Any, ledger: Any = None) -> Any:
            clock.now += sum(of_query[query.name] * len(query) for query in perturbations)
            return super().ask(prepared, perturbations, ledger)

    class TimedLoop(PlainLoop):
        def slopes(self, prepared: Any, coordinates: Any) -> torch.Tensor:
            clock.now += (3.0 if self.channels_last else 2.0) * sum(of_query[name] for name, _ in coordinates) * steps
            return super().slopes(prepared, coordinates)

    monkeypatch.setattr(cge_speed, "_seconds", clock)
    engine = Engine(Timed(model, loss), CGE(1e-3, scheme), batch)
    loops = [TimedLoop(model, loss, 1e-3, scheme, last) for last in (False, True)]
    seconds, mean = mean_seconds(engine, loops, 50.0, 2), (20 * 0.5 + 12 * 0.25 + 7 * 0.125) / 39
    assert seconds == pytest.approx((mean, 2 * mean, 3 * mean))
    assert engine.preparation_seconds() == pytest.approx(100 + 0.125 * steps)


def test_convolutions_are_counted_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, stride=2), nn.Conv2d(2, 1, 1, bias=False))
    layers = layers_of(model, torch.randn(5, 3, 8, 8))
    first, second, third = 5 * 64 * 4 * 27 * 2, 5 * 9 * 2 * 36 * 2, 5 * 9 * 1 * 2 * 2
    assert [layer.flops for layer in layers] == [first, second, third]
    assert [layer.parameters for layer in layers] == [112, 74, 2]
    behind = 112 * (second / 4 + third) + 74 * third / 2
    assert mean_flops_behind(layers) == pytest.approx(behind / 188)


def test_batch_norm_and_linear_layers_count_as_what_is_before_and_after_convolutions() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1), nn.Flatten(), nn.Linear(4, 3))
    before = model[1].running_mean.clone()
    layers = layers_of(model, torch.randn(2, 1, 2, 2))
    assert [layer.flops for layer in layers] == [2 * 4 * 2 * 2, 0, 2 * 4 * 2 * 2, 0]
    assert mean_flops_behind(layers) == pytest.approx((4 + 4) * 32 / 2 / (4 + 4 + 3 + 15))
    assert torch.equal(model[1].running_mean, before)


def test_a_query_of_resnet20_needs_about_three_dense_convolutions() -> None:
    layers = layers_of(resnet20(), torch.randn(2, 3, 32, 32))
    dense = max(layer.flops for layer in layers)
    assert 2.5 < mean_flops_behind(layers) / dense < 3.5


def test_the_rate_of_convolutions_is_positive() -> None:
    layers = layers_of(nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 3)), torch.randn(2, 2, 4, 4))
    assert best_rate(layers, 2, "cpu", 1e-4) > 0


def test_errors_are_relative_to_the_layer() -> None:
    mask = {"a.weight": torch.tensor([True, True, False]), "a.bias": torch.tensor([True]), "b.weight": torch.tensor([True])}
    reference = {"a.weight": torch.tensor([2.0, -4.0, 9.0]), "a.bias": torch.tensor([8.0]), "b.weight": torch.tensor([0.5])}
    grads = {"a.weight": torch.tensor([1.0, -4.0, 0.0]), "a.bias": torch.tensor([10.0]), "b.weight": torch.tensor([0.0])}
    torch.testing.assert_close(relative_errors(grads, reference, mask), torch.tensor([1 / 8, 0, 1 / 4, 1.0]).double())


def test_a_sample_has_some_coordinates_of_every_layer() -> None:
    coordinates = sample(dict(nn.Sequential(nn.Linear(5, 4), nn.Linear(1, 1)).named_parameters()), 3)
    assert [name[0] for name, _ in coordinates] == ["0", "0", "0", "1", "1"] and len(set(coordinates)) == 5
