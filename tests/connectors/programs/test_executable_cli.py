"""A program that a YAML file names, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from programs import compiled, running
from training_cases import config_file, line_data, tensors, train_settings

import deepzero_sim as dz
from deepzero_sim.cli.main import main
from deepzero_sim.common.components import Component
from deepzero_sim.connectors.programs.working_folder import default_kept_folder
from deepzero_sim.training.runs.settings import Workers

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
    assert str(tmp_path / "run" / "kept" / "burgers-") in said
    burgers.unlink()
    assert main(["train", "--config", str(failing)]) == 2
    assert "there is no program" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["serial", "process"])
def test_what_fails_in_a_run_is_kept_with_it(burgers: Path, tmp_path: Path, workers: str) -> None:
    """Also where a worker process failed, and the run goes on in the same folder."""
    kept, go = tmp_path / "run" / "kept", tmp_path / "go"
    layer = {"method": "SolverLayer", "vjp": Component("deepzero_sim.vjp.Coloured"), "workers": Workers(workers, 2)}
    solver = {"environment": {"GO": str(go)}}
    assert main(["train", "--config", str(settings(tmp_path / "run", args=solver, **layer))]) == 2
    found = sorted(kept.iterdir())
    assert found and all((folder / "call.txt").read_text().startswith("command: ") for folder in found)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["folders", "run"]
    go.touch()
    assert main(["train", "--config", str(settings(tmp_path / "run", args=solver, **layer))]) == 0
    assert sorted(kept.iterdir()) == found


def test_what_fails_outside_a_run_is_kept_where_git_does_not_look(burgers: Path, tmp_path: Path) -> None:
    solver = yaml.safe_load(SOLVER)["args"]
    with pytest.raises(dz.StatesFailedError) as failed:
        dz.ExecutableSolver(**solver, environment={"GO": str(tmp_path / "go")}).step(np.ones((1, 1, 16)))
    assert failed.value.failures[0].kept.parent == tmp_path / "runs" / "kept"
    assert "/runs/" in (Path(__file__).parents[3] / ".gitignore").read_text().splitlines()
    solver["kept_folder"] = "elsewhere"
    with default_kept_folder(tmp_path / "run"), pytest.raises(dz.StatesFailedError) as failed:
        dz.ExecutableSolver(**solver, environment={"GO": str(tmp_path / "go")}).step(np.ones((1, 1, 16)))
    assert failed.value.failures[0].kept.parent == tmp_path / "elsewhere"
