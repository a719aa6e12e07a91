"""The demo from end to end, cut short: the same code on coarser grids, with a few updates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from training_cases import coarse_data, coarse_training

from deepzero_sim.cli import demo
from deepzero_sim.cli.generate import GenerateSettings
from deepzero_sim.cli.main import main
from deepzero_sim.training.runs.settings import MethodName, TrainSettings, Workers

SHORT = 6


@pytest.fixture
def cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_data, whole_training = demo.data_settings, demo.training_settings

    def data_settings(folder: Path, workers: Workers) -> GenerateSettings:
        return coarse_data(whole_data(folder, workers))

    def training_settings(folder: Path, data: Path, method: MethodName, workers: Workers) -> TrainSettings:
        return replace(coarse_training(whole_training(folder, data, method, workers)), updates=2, unroll=3)

    monkeypatch.setattr(demo, "data_settings", data_settings)
    monkeypatch.setattr(demo, "training_settings", training_settings)
    monkeypatch.setattr(demo, "STEPS", SHORT)


@pytest.mark.slow
@pytest.mark.usefixtures("cut_short")
def test_the_demo_runs_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("phi")
    assert main(["demo", "--run", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert list(found["methods"]) == ["SRC", "NON", "DETACHED", "STRAIGHT-THROUGH", "ZO-SOL", "SolverLayer", "FO-SOL"]
    for method in found["methods"].values():
        assert set(method) == {"mae", "mae_std", "solver_steps", "seconds", "failures"}
        assert method["mae"] > 0
    report = (tmp_path / "report.md").read_text()
    for figure in ("fields.png", "error_over_time.png", "error_over_cost.png"):
        assert figure in report and (tmp_path / figure).stat().st_size > 5000
    assert main(["demo", "--run", str(tmp_path)]) == 0
    assert "there already" in capsys.readouterr().out.replace("\n", " ")
    again = json.loads((tmp_path / "results.json").read_text())
    assert again["methods"] == found["methods"]


@pytest.mark.parametrize("missing", ["phi", "matplotlib", "tensorboard"])
def test_what_is_missing_is_said_before_minutes_are_spent(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda module: None if module == missing else object())
    assert main(["demo", "--run", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"the demo needs the package {missing!r}" in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())
