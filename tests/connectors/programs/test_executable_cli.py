"""A program that a YAML file names, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from programs import compiled, running
from runs import config_file, line_data, tensors, train_settings

from deepzero_sim.cli.main import main
from deepzero_sim.common.components import Component

SOLVER = """
name: deepzero_sim.ExecutableSolver
args:
  spec: {name: burgers, state_shape: [1, 16], dt: 0.01, dtype: float64, stencil: 1}
  command: [./burgers]
  inputs: [{path: u.raw, format: raw}]
  outputs: [{path: v.raw, format: raw}]
  timeout: 10
"""


@pytest.fixture
def burgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return compiled(Path(__file__).with_name("burgers.c"), tmp_path)


def settings(run: Path, **changes: Any) -> Path:
    """A training with the program, as a YAML file."""
    solver = yaml.safe_load(SOLVER)
    solver["args"].update(changes.pop("args", {}))
    made = train_settings(run, line_data(run.with_suffix(".h5")), solver=Component(**solver), updates=2, **changes)
    return config_file(run.with_suffix(".yaml"), made)


def test_a_program_is_trained_through(burgers: Path, tmp_path: Path) -> None:
    layer = {"method": "SolverLayer", "vjp": Component("deepzero_sim.vjp.Coloured")}
    assert main(["train", "--config", str(settings(tmp_path / "run", **layer))]) == 0
    assert all(value.isfinite().all() for value in tensors(tmp_path / "run").values())
    assert not running(str(burgers))


def test_what_goes_wrong_is_one_sentence(burgers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failing = settings(tmp_path / "run", args={"environment": {"GO": str(tmp_path / "go")}})
    assert main(["train", "--config", str(failing)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "solver 'burgers'" in said and "ended with the exit status 3, not 0" in said
    assert str(tmp_path / "kept" / "burgers-") in said
    burgers.unlink()
    assert main(["train", "--config", str(failing)]) == 2
    assert "there is no program" in capsys.readouterr().err
