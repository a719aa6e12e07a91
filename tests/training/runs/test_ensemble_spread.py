"""The spread of an ensemble's rollouts: by hand, in reports, and of members that diverge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from problems import assert_untouched, snapshot
from training_cases import line_data, train_settings

from deepzero_sim.cli.main import main
from deepzero_sim.common.components import Component
from deepzero_sim.common.randomness import new_generator
from deepzero_sim.coupling.evaluation import measure_errors, read_first_frames
from deepzero_sim.datasets import trajectories
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.training.checkpoints import load_checkpoint
from deepzero_sim.training.runs.comparison import compare
from deepzero_sim.training.runs.ensemble_spread import MEMBERS, ensemble_of, measure_spread
from deepzero_sim.training.runs.trained_run import trained_loop
from deepzero_sim.training.runs.training import train


def trained(folder: Path, data: Path, name: str = "EKI") -> Path:
    estimator = Component(f"deepzero_sim.{name}", {"members": 9} if name == "EKI" else {})
    train(train_settings(folder, data, estimator=estimator, optimiser=Component("torch.optim.SGD", {"lr": 1.0}), updates=3))
    return folder


def test_the_spread_is_that_of_rollouts_of_its_members(tmp_path: Path) -> None:
    data = line_data(tmp_path / "line.h5")
    path = trained(tmp_path / "run", data)
    loop, ensemble = trained_loop(path), ensemble_of(path, load_checkpoint)
    assert ensemble is not None
    frames = read_first_frames(trajectories.load(data, loop.solver.spec), 5)
    before = snapshot(loop.model)
    found = measure_spread(ensemble, loop, frames, np.ones(1))
    assert_untouched(loop.model, before)
    weights = ensemble.draw(MEMBERS, new_generator(0))
    rollouts = []
    for move in ensemble.displacements(weights, trainable(loop.model)).moves:
        other, first = trained_loop(path), 0
        with torch.no_grad():
            for p in trainable(other.model).values():
                p.add_(move[first : first + p.numel()].view(p.shape))
                first += p.numel()
        rollouts.append(measure_errors(other, frames, np.ones(1)).rollout)
    assert found.deviations is not None
    expected = torch.stack(rollouts).std(dim=0).mean(dim=(2, 3))
    torch.testing.assert_close(found.deviations.errors, expected)
    assert float(expected[:, -1].min()) > 0
    assert (found.members, found.lost, found.solver_steps) == (MEMBERS, 0, MEMBERS * 3 * 5)


def test_members_that_diverge_are_left_out_and_counted(tmp_path: Path) -> None:
    data = line_data(tmp_path / "line.h5")
    path = trained(tmp_path / "run", data)
    loop, ensemble = trained_loop(path), ensemble_of(path, load_checkpoint)
    assert ensemble is not None
    frames = read_first_frames(trajectories.load(data, loop.solver.spec), 5)
    wide = replace(ensemble, precision=1e-150 * ensemble.precision)
    found = measure_spread(wide, loop, frames, np.ones(1))
    assert found.lost == found.members and found.deviations is None


def test_only_runs_that_end_with_an_ensemble_have_a_spread(tmp_path: Path) -> None:
    data = line_data(tmp_path / "line.h5")
    assert ensemble_of(trained(tmp_path / "cge", data, "CGE"), load_checkpoint) is None


def test_reports_draw_it_and_count_its_steps(tmp_path: Path) -> None:
    data = line_data(tmp_path / "line.h5")
    path = trained(tmp_path / "run", data)
    comparison = compare({"ZO-SOL": path}, data, 5)
    assert comparison.solver_steps["rollouts of ensembles"] == MEMBERS * 3 * 5
    assert comparison.methods["ZO-SOL"].spread is not None and comparison.methods["SRC"].spread is None
    assert main(["evaluate", "--run", str(path), "--data", str(data), "--steps", "5"]) == 0
    page = (path / "report.md").read_text(encoding="utf-8")
    assert f"ensemble that training ended with (ZO-SOL: {MEMBERS} members)" in page
    numbers = json.loads((path / "results.json").read_text(encoding="utf-8"))
    assert numbers["evaluation_solver_steps"]["rollouts of ensembles"] == MEMBERS * 3 * 5
