"""Classifiers, from an archive of a few hundred images to a report: first-order and from forward passes alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from deepzero_sim.cli.classify import CLASSIFIERS, ClassifySettings, _AccuracyLog, classify
from deepzero_sim.cli.main import main
from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.errors import ConfigError, DataError
from deepzero_sim.models.build import build_network
from deepzero_sim.training.accuracy import calibrate, evaluate
from deepzero_sim.training.build import warm_up_cosine
from deepzero_sim.training.checkpoints import load_checkpoint
from deepzero_sim.training.run_folder import ACCURACY, read_metrics
from deepzero_sim.training.runs.settings import Workers

CGE = Component("deepzero_sim.CGE", {"step_size": 1e-3, "scheme": "forward"})
FIRST_ORDER = Component("deepzero_sim.BackPropagation")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 8 x 8 in three classes that differ in colour, and in little else."""
    generator = np.random.default_rng(0)
    labels = np.arange(240) % 3
    pixels = generator.integers(0, 200, size=(240, 8, 8, 3)) + 55 * np.eye(3)[labels][:, None, None]
    path = tmp_path_factory.mktemp("data") / "colours.npz"
    arrays = {"train_x": pixels[:180], "train_y": labels[:180], "test_x": pixels[180:], "test_y": labels[180:]}
    np.savez(path, **{name: array.astype(np.uint8) for name, array in arrays.items()})
    return path


def settings(run: Path, data: Path, **changes: Any) -> ClassifySettings:
    small = ClassifySettings(
        run=run,
        data=data,
        cache=run.parent / "cache",
        network=Component("small_cnn", {"widths": [8, 8]}),
        estimator=CGE,
        epochs=3,
        batch_size=45,
        layer_ratios=Component("zo-grasp", {"num_directions": 8}),
        images_for_ratios=5,
        mask_refresh=1,
        workers=Workers("serial", 1),
        checkpoint_every=3,
        tensorboard=False,
    )
    return replace(small, **changes)


@pytest.mark.parametrize(
    ("changes", "queries"),
    [
        ({"estimator": FIRST_ORDER, "sparsity": 0.0}, 12),
        ({"estimator": FIRST_ORDER, "layer_ratios": Component("grasp")}, None),
        ({}, None),
        ({"sparsity": 0.0}, 12 * (1 + 8 * 27 + 64 * 9 + 4 * 8 + 3 * 9)),
        ({"estimator": Component("deepzero_sim.RGE", {"num_directions": 30, "scheme": "forward"})}, None),
    ],
    ids=["first-order", "sparse gradient", "CGE", "dense CGE", "RGE"],
)
def test_from_data_to_results(changes: dict[str, Any], queries: int | None, data: Path, tmp_path: Path) -> None:
    found = classify(settings(tmp_path / "run", data, **changes))
    assert found == json.loads((tmp_path / "run" / "results.json").read_text())
    curve = [json.loads(line) for line in (tmp_path / "run" / "accuracy.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in curve] == [1, 2, 3] and found["updates"] == 12
    assert found["accuracy"]["test"]["images"] == 60
    assert curve[-1]["test_accuracy"] == found["accuracy"]["test"]["accuracy"] > 0.5  # a third by chance
    assert curve[-1]["queries"] == found["queries"]
    assert queries is None or (found["queries"], found["images_forwarded"]) == (queries, 45 * queries)


def test_dense_cge_follows_first_order_training(data: Path, tmp_path: Path) -> None:
    runs = [
        settings(tmp_path / name, data, estimator=estimator, sparsity=0.0)
        for name, estimator in (("cge", Component("deepzero_sim.CGE", {"step_size": 1e-5})), ("first-order", FIRST_ORDER))
    ]
    for run in runs:
        classify(run)
    ours, theirs = (load_checkpoint(run.run).tensors for run in runs)
    for name in (
        name for name in theirs if name.startswith("network.") and "running" not in name and "num_batches" not in name
    ):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


def test_sparse_weights_stay_zero(data: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"estimator": FIRST_ORDER, "sparse_weights": True, "mask_refresh": None}
    classify(settings(tmp_path / "run", data, **changes))
    weights = {
        name: x for name, x in load_checkpoint(tmp_path / "run").tensors.items() if name.startswith("network.") and x.dim() > 1
    }
    zero = sum(int((x == 0).sum()) for x in weights.values()) / sum(x.numel() for x in weights.values())
    assert 0.85 < zero < 0.95


def test_masks_may_change_within_an_epoch(data: Path, tmp_path: Path) -> None:
    """Plain gradient descent moves the coordinates that were active, and no others."""
    moved = {}
    for refresh in (None, 1, 0.25, 1e-9):
        run = settings(
            tmp_path / f"{refresh}", data, estimator=FIRST_ORDER, mask_refresh=refresh, layer_ratios=Component("uniform")
        )
        run = replace(run, optimiser=Component("torch.optim.SGD", {"lr": 0.01}), scheduler=None)
        classify(run)
        start = build_network(run.network, CLASSIFIERS, 3, run.seed).state_dict()
        weights = {
            name: x - start[name.removeprefix("network.")]
            for name, x in load_checkpoint(run.run).tensors.items()
            if x.dim() > 1
        }
        moved[refresh] = sum(int((x != 0).sum()) for x in weights.values()) / sum(x.numel() for x in weights.values())
    assert moved[None] == pytest.approx(0.1, abs=0.01)
    assert moved[None] < moved[1] < moved[0.25] == moved[1e-9]
    assert moved[0.25] == pytest.approx(1 - 0.9**12, abs=0.05)  # a fresh draw for each of twelve updates


@pytest.mark.parametrize("refresh", [0.0, -1.0, float("nan"), float("inf")])
def test_masks_serve_some_time(data: Path, tmp_path: Path, refresh: float) -> None:
    with pytest.raises(ConfigError, match="mask_refresh must be a positive number of epochs, or null, not"):
        settings(tmp_path / "run", data, mask_refresh=refresh)


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("at", [1, 5, 8])
def test_killed_and_resumed_is_undisturbed(at: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of an epoch, before and after a checkpoint."""
    undisturbed = settings(tmp_path / "undisturbed", data)
    expected = classify(undisturbed)
    run = settings(tmp_path / "run", data)

    noting = _AccuracyLog.__call__

    def dying(self: Any, progress: Any) -> None:
        noting(self, progress)
        if progress.step == at:
            raise _KilledError

    with monkeypatch.context() as patched:
        patched.setattr("deepzero_sim.cli.classify._AccuracyLog.__call__", dying)
        with pytest.raises(_KilledError):
            classify(run)
    found = classify(run)
    assert found["accuracy"] == expected["accuracy"] and found["queries"] == expected["queries"]
    ours, theirs = (
        [(line["step"], line["test_loss"]) for line in read_metrics(path.run / ACCURACY)] for path in (run, undisturbed)
    )
    assert ours == theirs
    ours, theirs = (load_checkpoint(path.run).tensors for path in (run, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_other_images_are_classified_at_the_end(data: Path, tmp_path: Path) -> None:
    found = classify(settings(tmp_path / "run", data, epochs=1, more_test_data=data, estimator=FIRST_ORDER, sparsity=0.0))
    assert found["accuracy"]["more_test_data"] == found["accuracy"]["test"]


def test_from_the_command_line_to_a_comparison(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("cge", "first-order")
    for name, estimator in zip(names, (CGE, FIRST_ORDER), strict=True):
        written = settings_to_dict(settings(tmp_path / name, data, epochs=1, estimator=estimator))
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**written, "run": str(tmp_path / name)}))
        assert main(["classify", "--config", str(tmp_path / f"{name}.yaml")]) == 0, capsys.readouterr().err
    output = tmp_path / "compared"
    assert main(["compare", *(str(tmp_path / name) for name in names), "--output", str(output)]) == 0
    page = (output / "report.md").read_text()
    assert all(f"| {name} |" in page for name in names)
    for figure in ("accuracy_over_epochs.png", "accuracy_over_images.png", "training_loss.png", "ratios.png"):
        assert figure in page and (output / figure).stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare", "nowhere"], "expected a run of 'deepzero-sim classify' that has ended in nowhere"),
        (["compare"], "runs"),
        (["classify", "--run", "r", "--data", "nowhere"], "expected images at nowhere"),
        (["classify", "--run", "r", "--data", "d", "--epochs", "0"], "epochs must be a positive number"),
        (["classify", "--run", "r", "--data", "d", "--batch_size", "1"], "batch_size must be at least 2"),
        (["classify", "--run", "r", "--data", "d", "--sparse_weights", "true"], "sparse_weights needs one draw"),
        (["classify", "--run", "r", "--data", "d", "--sparsity", "1"], "sparsity"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert says in message and message.count("\n") == 1


def seven_scores(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 7))


def test_other_things_that_cannot_be(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a batch of 181 needs as many images, these are 180"):
        classify(settings(tmp_path / "run", data, batch_size=181))
    with pytest.raises(ConfigError, match=r"must make a torch\.nn\.Module, not bytearray"):
        classify(settings(tmp_path / "run", data, network=Component("builtins.bytearray")))
    with pytest.raises(ConfigError, match=r"a network must give a score for each of 3 classes, \(batch, 3\), not \(2, 7\)"):
        classify(settings(tmp_path / "other", data, network=Component(f"{__file__}:seven_scores")))


def test_running_statistics_are_those_of_the_batches() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(2, affine=False), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    batches = [torch.randn(4, 2, 3, 3) * 3 + 5 for _ in range(3)]
    before = {name: x.clone() for name, x in model.state_dict().items()}
    ready = calibrate(model, batches)
    norm: Any = ready[0]  # type: ignore[index]
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0))
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items()) and model.training
    found = evaluate(
        ready, [(torch.tensor([[[[9.0]], [[0.0]]]]), torch.tensor([0])), (torch.zeros(1, 2, 1, 1), torch.tensor([1]))]
    )
    assert found.images == 2 and found.accuracy in (0.5, 1.0)


def test_the_learning_rate_goes_up_and_down() -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warm_up_cosine(optimiser, 10, 0.2)
    rates = []
    for _ in range(10):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    expected = [1.0, 2.0, *(1 + np.cos(np.pi * np.arange(8) / 8))]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    with pytest.raises(ConfigError, match="warm_up must be a share of the steps"):
        warm_up_cosine(optimiser, 10, 1.0)
