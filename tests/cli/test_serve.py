"""A trained run as models, and the command that serves them."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import umbridge
from problems import initial_states
from training_cases import line_data, start, train_settings

import deepzero_sim as dz
from deepzero_sim.cli.serve import models_of_run
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.batches import UnrolledBatches, advance_frames
from deepzero_sim.errors import DataError, RunError
from deepzero_sim.training.runs.settings import MethodName
from deepzero_sim.training.runs.trained_run import rollout_loss, trained_loop
from deepzero_sim.training.runs.training import train

STATE = initial_states(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("served"), "NON")


def trained(folder: Path, method: MethodName) -> Path:
    train(train_settings(folder / method, line_data(folder / "line.h5"), method=method))
    return folder / method


def test_a_run_is_served_as_its_solver_corrected_and_not(run: Path) -> None:
    models, left_out = models_of_run(run)
    assert list(models) == ["corrected", "solver", "parameters", "loss"] and left_out is None
    loop = trained_loop(run)
    with torch.no_grad():
        expected = loop.rollout(STATE, steps=2)[0, -1].numpy()
    (corrected,) = models["corrected"].evaluate([STATE.reshape(-1)], {"steps": 2})
    (alone,) = models["solver"].evaluate([STATE.reshape(-1)], {})
    assert np.array_equal(corrected, expected.reshape(-1))
    assert np.array_equal(alone, loop.solver.step(STATE).reshape(-1))


def test_its_loss_is_that_of_the_trainings_batches(run: Path) -> None:
    models, _ = models_of_run(run)
    loop = trained_loop(run)
    data = trajectories.load(run.parent / "line.h5", loop.solver.spec)
    batches = UnrolledBatches(data, advance_frames(loop.solver, data), 2, 3, 0)
    oracle = dz.LoopOracle(loop, rollout_loss(loop.solver.spec, data))
    vector = models["parameters"].evaluate([], {})
    for number in (0, 7):
        expected = float(oracle.differentiable_loss(batches(number))[0].detach())
        assert models["loss"].evaluate(vector, {"batch": number})[0].tolist() == [expected]


def test_batches_come_from_other_data_if_they_are_named(run: Path, tmp_path: Path) -> None:
    other = line_data(tmp_path / "other.h5", simulations=2)
    (models, _), (others, _) = models_of_run(run), models_of_run(run, other)
    vector = models["parameters"].evaluate([], {})
    assert models["loss"].evaluate(vector, {})[0] != others["loss"].evaluate(vector, {})[0]
    with pytest.raises(DataError):
        models_of_run(run, tmp_path / "absent.h5")


def test_without_its_data_a_run_is_served_all_the_same(tmp_path: Path) -> None:
    folder = trained(tmp_path, "NON")
    (tmp_path / "line.h5").unlink()
    models, left_out = models_of_run(folder)
    assert list(models) == ["corrected", "solver", "parameters"]
    assert left_out is not None and "line.h5, the run's training data: name some by --data" in left_out


def test_the_solver_alone_has_no_loss(tmp_path: Path) -> None:
    models, left_out = models_of_run(trained(tmp_path, "SRC"))
    assert list(models) == ["corrected", "solver"] and left_out == "a run of SRC trains no network"


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        models_of_run(tmp_path)


@pytest.mark.slow
def test_the_command_serves_a_run_until_it_is_interrupted(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    process = start("serve", "--run", copy, "--port", 0, cwd=tmp_path)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:")
        address = line.split()[-1]
        assert umbridge.supported_models(address) == ["corrected", "solver", "parameters", "loss"]
        (vector,) = umbridge.HTTPModel(address, "parameters")([])
        models, _ = models_of_run(run)
        (loss,) = umbridge.HTTPModel(address, "loss")([vector], {"batch": 3})
        assert loss == models["loss"].evaluate([np.array(vector)], {"batch": 3})[0].tolist()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
        assert (process.returncode, output, errors) == (0, "", "")
    finally:
        process.kill()
        process.communicate()
