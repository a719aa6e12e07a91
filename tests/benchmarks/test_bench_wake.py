"""The comparison on the wake from end to end, cut short: the same code on coarser grids, with a few updates."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from training_cases import coarse_data, coarse_training, without_seconds

from deepzero_sim.benchmarks import wake
from deepzero_sim.benchmarks.seed_folders import Folders
from deepzero_sim.benchmarks.wake import bench_wake, points_of
from deepzero_sim.benchmarks.wake_methods import run_of, updates_of
from deepzero_sim.benchmarks.wake_report import STYLES, Comparison, Point, Training, publish, results, rows, summarise
from deepzero_sim.cli import demo
from deepzero_sim.cli.generate import GenerateSettings
from deepzero_sim.cli.main import main
from deepzero_sim.cli.settings.bench import BenchWakeSettings, WakeMethod
from deepzero_sim.errors import ConfigError, DivergedError
from deepzero_sim.training.runs.settings import MethodName, TrainSettings, Workers
from deepzero_sim.training.trainer import Trainer

#: Solver steps of a loss: two rollouts of three steps, the first of which is known.
LOSS = 2 * 2
#: Of all frames but the last of six simulations, which every run advances once.
FRAMES = 6 * 15


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of data for all tests."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def cut_short(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_data, whole_training = demo.data_settings, demo.training_settings

    def data_settings(folder: Path, workers: Workers) -> GenerateSettings:
        return coarse_data(whole_data(data, workers))

    def training_settings(folder: Path, data: Path, method: MethodName, workers: Workers) -> TrainSettings:
        few = {"updates": 5} if method == "NON" else {}
        return replace(coarse_training(whole_training(folder, data, method, workers)), **few)

    monkeypatch.setattr(demo, "data_settings", data_settings)
    monkeypatch.setattr(demo, "training_settings", training_settings)


def short(output: Path, methods: list[WakeMethod], **changes: Any) -> BenchWakeSettings:
    settings = BenchWakeSettings(
        output=output, seeds=1, methods=methods, updates=3, query_steps=1000, unroll=3, steps=6, workers=Workers("serial", 1)
    )
    return replace(settings, **changes)


def read_results(output: Path) -> Any:
    return json.loads((output / "results.json").read_text())


def assert_reported(output: Path, methods: list[str]) -> None:
    found = read_results(output)
    assert list(found["methods"]) == ["NON", *methods]
    for method in found["methods"].values():
        assert method["mae"] > 0 and method["diverged"] == 0
        for training in method["trainings"]:
            steps = [point["solver_steps"] for point in training["points"]]
            assert steps == sorted(steps) and all(point["mae"] > 0 for point in training["points"])
    report = (output / "report.md").read_text()
    assert "wake.png" in report and (output / "wake.png").stat().st_size > 5000
    assert all(f"| {name} |" in report for name in ("SRC", "NON", *methods))


@pytest.mark.usefixtures("cut_short")
def test_methods_are_compared_by_what_they_cost(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table = bench_wake(short(tmp_path, ["Detached", "CGE", "ES"]))
    assert [row[0] for row in table[1:]] == ["SRC", "NON", "Detached", "CGE", "ES"]
    assert_reported(tmp_path, ["Detached", "CGE", "ES"])
    found = read_results(tmp_path)["methods"]
    last = {name: method["trainings"][0]["points"][-1] for name, method in found.items()}
    queries = 11 + 14 + 14 + 7 + 14  # a tenth of the weights of four convolutions, and all biases
    assert last["NON"]["solver_steps"] == FRAMES
    assert last["Detached"]["solver_steps"] == 2 * FRAMES + 3 * LOSS
    assert last["CGE"]["solver_steps"] == 2 * FRAMES + last["CGE"]["update"] * (queries + 1) * LOSS
    assert last["ES"]["solver_steps"] == 2 * FRAMES + last["ES"]["update"] * (24 + 1) * LOSS
    for name in ("CGE", "ES"):
        assert 750 < last[name]["solver_steps"] - 2 * FRAMES <= 1000
    starts = [found[name]["trainings"][0]["points"][0]["mae"] for name in ("Detached", "CGE", "ES")]
    assert set(starts) == {found["NON"]["mae"]}


@pytest.mark.slow
@pytest.mark.usefixtures("cut_short")
def test_every_method_for_two_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("phi", "cma", "nevergrad", "matplotlib"):
        pytest.importorskip(package)
    sizes = ["--updates", "2", "--query_steps", "600", "--unroll", "3", "--steps", "6"]
    few = ["--seeds", "2", *sizes, "--workers.backend", "serial", "--workers.count", "1"]
    assert main(["bench", "wake", "--output", str(tmp_path), *few]) == 0
    assert "FO-SOL" in capsys.readouterr().out
    assert_reported(tmp_path, list(get_args(WakeMethod)))
    found = read_results(tmp_path)
    assert main(["bench", "wake", "--output", str(tmp_path), *few]) == 0
    assert without_seconds(read_results(tmp_path)["methods"]) == without_seconds(found["methods"])
    assert found["methods"]["FO-SOL"]["mae_to_fo_sol"] == 1


class KilledError(Exception):
    """Ends a benchmark in its middle."""


@pytest.mark.usefixtures("cut_short")
@pytest.mark.parametrize("method", ["Detached", "CGE", "ES"])
def test_interrupted_it_goes_on_and_finds_the_same(method: WakeMethod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    bench_wake(short(tmp_path / "whole", [method]))
    with monkeypatch.context() as patch:
        patch.setattr(wake, "training_bar", lambda title, updates: _KillAfter(title, 2))
        with pytest.raises(KilledError):
            bench_wake(short(tmp_path / "killed", [method]))
    assert not (tmp_path / "killed" / "results.json").exists()
    bench_wake(short(tmp_path / "killed", [method]))
    whole, killed = (read_results(tmp_path / name)["methods"] for name in ("whole", "killed"))
    assert without_seconds(killed) == without_seconds(whole)


class _KillAfter:
    def __init__(self, title: str, update: int) -> None:
        self.title, self.update = title, update

    def __enter__(self) -> Callable[[Any], None]:
        def report(progress: Any) -> None:
            if "NON" not in self.title and progress.step == self.update:
                raise KilledError

        return report

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.usefixtures("cut_short")
def test_a_training_that_diverges_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    whole = Trainer._step

    def step(self: Trainer, number: int, *others: Any) -> Any:
        if number == 2 and "Detached" in str(self.run.path):
            raise DivergedError("the loss must be finite, got nan.")
        return whole(self, number, *others)

    monkeypatch.setattr(Trainer, "_step", step)
    table = bench_wake(short(tmp_path, ["Detached", "StraightThrough"]))
    assert table[3][:2] == ("Detached", "diverged for 1 of 1")
    found = read_results(tmp_path)["methods"]
    assert found["Detached"]["mae"] is None and found["StraightThrough"]["mae"] > 0
    (training,) = found["Detached"]["trainings"]
    assert training["diverged"] == "the loss must be finite, got nan."
    assert [point["update"] for point in training["points"]] == [0, 1, 2]
    assert "Detached, seed 0: the loss must be finite" in (tmp_path / "report.md").read_text()


def training(method: str, seed: int, errors: list[float], diverged: str = "") -> Training:
    points = [Point(update, 100 + 10 * update, float(update), mae) for update, mae in enumerate(errors)]
    return Training(method, seed, points, diverged)


def test_a_summary_over_seeds() -> None:
    found = summarise([training("CGE", 0, [3.0, 1.0]), training("CGE", 1, [3.0, 2.0])])
    assert (found.mae, found.least, found.most, found.diverged) == (1.5, 1.0, 2.0, 0)
    assert found.std == pytest.approx(math.sqrt(0.5)) and found.solver_steps == 110 and found.seconds == 1
    assert summarise([training("CGE", 0, [3.0])]).std == 0


def test_what_diverged_is_shown_and_not_averaged_away(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    non = [training("NON", seed, [0.9]) for seed in (0, 1)]
    cge = [training("CGE", 0, [0.9, 0.5, math.inf]), training("CGE", 1, [0.9, 0.4, 0.3])]
    bound = [training("FO-SOL", 0, [0.9, 0.2]), training("FO-SOL", 1, [0.9, 0.4], "it blew up.")]
    found, settings = Comparison(1.0, [*non, *cge, *bound]), short(tmp_path, ["CGE", "FO-SOL"], seeds=2)
    publish(settings, found)
    said = read_results(tmp_path)["methods"]
    assert said == results(settings, found)["methods"]
    assert said["CGE"]["mae"] is None and said["CGE"]["std"] is None and said["CGE"]["diverged"] == 1
    assert said["CGE"]["least"] == 0.3 and said["CGE"]["most"] is None and said["CGE"]["mae_to_fo_sol"] is None
    assert said["CGE"]["trainings"][0]["points"][-1]["mae"] is None
    assert [row[1] for row in rows(found)[3:]] == ["diverged for 1 of 2"] * 2


def test_ratios_are_to_the_upper_bound() -> None:
    trainings = [training("NON", 0, [0.8]), training("CGE", 0, [0.8, 0.3]), training("FO-SOL", 0, [0.8, 0.5, 0.2])]
    head, source, _, cge, bound = rows(Comparison(1.0, trainings))
    errors, steps = head.index("MAE / FO-SOL"), head.index("steps / FO-SOL")
    assert (source[errors], cge[errors], bound[errors]) == ("5.00", "1.50", "1.00")
    assert (cge[steps], bound[steps]) == (f"{110 / 120:.2f}", "1.00")
    assert {row[errors] for row in rows(Comparison(1.0, trainings[:2]))[1:]} == {"-"}


def test_every_method_has_a_style_of_its_own() -> None:
    assert set(STYLES) == set(get_args(WakeMethod)) and len({str(style) for style in STYLES.values()}) == len(STYLES)


def test_points_are_dense_at_the_start_and_hold_the_end() -> None:
    assert points_of(600) == [9, 19, 38, 75, 150, 300, 600]
    assert points_of(1) == [1] and points_of(3)[-1] == 3


@pytest.mark.parametrize(
    "method",
    ["GaussNewton", "EKI", "CGE", "CGE-ZO-GraSP", "CoCD", "RGE", "RGE-rows", "FZOO", "CMA-ES", "Nevergrad", "ES", "ESMDA"],
)
def test_methods_that_ask_for_losses_spend_what_they_may(method: WakeMethod, tmp_path: Path) -> None:
    folders = Folders(tmp_path / "seed4", tmp_path / "train.h5", 4)
    settings = BenchWakeSettings(query_steps=200_000)
    run = run_of(method, settings, folders)
    each = {"CMA-ES": 24, "Nevergrad": 24, "ES": 24, "GaussNewton": 482, "EKI": 483, "ESMDA": 100}.get(method, 60)
    once = 2 * (468 + 1) * 14 if method == "CGE-ZO-GraSP" else 0
    assert updates_of(run) == (200_000 - once) // ((each + 1) * 14)
    assert run.seed == 4 and run.start == tmp_path / "seed4" / "NON" and run.run == tmp_path / "seed4" / method


@pytest.mark.parametrize(
    ("method", "module", "extra"),
    [
        ("FO-SOL", "phi", "phiflow"),
        ("CMA-ES", "cma", "bench"),
        ("Nevergrad", "nevergrad", "bench"),
        ("ESMDA", "iterative_ensemble_smoother", "bench"),
        ("ES", "matplotlib", "report"),
    ],
)
def test_what_is_missing_is_said_before_hours_are_spent(
    method: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wake, "find_spec", lambda name: None if name == module else object())
    assert main(["bench", "wake", "--output", str(tmp_path / "out"), "--methods", f'["{method}"]']) == 2
    said = capsys.readouterr().err
    assert f"needs the package {module!r}" in said and f"[{extra}]" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [{"seeds": 0}, {"updates": 0}, {"query_steps": 0}, {"unroll": 1}, {"steps": 0}, {"methods": []}, {"methods": ["ES", "ES"]}],
)
def test_settings_that_measure_nothing_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(changes))} must"):
        BenchWakeSettings(**changes)
