"""Runs compared on data: what they started from, what the comparison itself asks of the solver, and what misleads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import Burgers, initial_states
from training_cases import line_data, train_settings

from deepzero_sim.cli.reports.sentences import all_warnings
from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.training import checkpoints
from deepzero_sim.training.runs import compared_starts
from deepzero_sim.training.runs.comparison import by_name, compare
from deepzero_sim.training.runs.start import claim_folder
from deepzero_sim.training.runs.training import train

SGD = {"scheduler": None, "held_back": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a run of NON, one that goes on from it, and one that is ruined by its learning rate."""
    folder = tmp_path_factory.mktemp("runs")
    line_data(folder / "train.h5")
    line_data(folder / "unseen.h5", simulations=4)
    adam = Component("torch.optim.Adam", {"lr": 1e-3})
    train(train_settings(folder / "NON", folder / "train.h5", method="NON", updates=60, optimiser=adam, **SGD))
    for name, rate in (("going_on", 1e-5), ("ruined", 3.0)):
        optimiser = Component("torch.optim.SGD", {"lr": rate})
        common = {"method": "DETACHED", "start": folder / "NON", "updates": 2, "optimiser": optimiser, **SGD}
        train(train_settings(folder / name, folder / "train.h5", **common))
    return folder


def test_what_a_run_started_from_is_evaluated_in_its_place(folder: Path) -> None:
    alone = compare({"DETACHED": folder / "going_on"}, folder / "unseen.h5", steps=6)
    both = compare({"NON": folder / "NON", "DETACHED": folder / "going_on"}, folder / "unseen.h5", steps=6)
    assert list(alone.methods) == ["SRC", "DETACHED"] and alone.starts["DETACHED"].name == "NON"
    assert torch.equal(alone.starts["DETACHED"].evaluation.errors, both.methods["NON"].evaluation.errors)
    assert both.starts["DETACHED"].evaluation is both.methods["NON"].evaluation and "NON" not in both.starts
    assert alone.solver_steps["rollouts of what runs started from"] == 24
    assert "rollouts of what runs started from" not in both.solver_steps


def test_a_run_that_is_worse_than_what_it_started_from_is_said(folder: Path) -> None:
    found = compare({"DETACHED": folder / "ruined"}, folder / "unseen.h5", steps=6)
    said = [sentence for sentence in all_warnings(found) if "NON, the network that it started from" in sentence]
    assert len(said) == 1 and said[0].startswith("DETACHED is worse than NON")


def test_what_a_run_started_from_is_not_run_where_nobody_has_trusted_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compared_starts, "parts_without_trust", lambda path: {"network": Component("evil.py:Network")})
    found = compare({"DETACHED": folder / "going_on"}, folder / "unseen.h5", steps=6)
    assert not found.starts
    assert any("cannot be compared with" in one and "was not made by you here" in one for one in found.warnings)


def test_every_step_that_a_comparison_takes_is_counted_apart_from_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, step = [0], Burgers.step

    def counting(self: Burgers, states: Array, params: Array | None = None) -> Array:
        taken[0] += len(states)
        return step(self, states, params)

    monkeypatch.setattr(Burgers, "step", counting)
    found = compare({"DETACHED": folder / "going_on"}, folder / "unseen.h5", steps=6)
    assert sum(found.solver_steps.values()) == taken[0]
    assert found.solver_steps["rollouts"] == 2 * 4 * 6 and found.solver_steps["timing"] > 0
    again = compare({"DETACHED": folder / "going_on"}, folder / "unseen.h5", steps=6)
    assert again.methods["DETACHED"].cost == found.methods["DETACHED"].cost


def test_an_evaluation_on_the_data_of_training_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compare({"NON": folder / "NON"}, folder / "train.h5", steps=6)
    assert any("is what NON was trained on: errors on simulations" in sentence for sentence in found.warnings)
    monkeypatch.chdir(folder)
    again = compare({"NON": folder / "NON"}, DataSource(Path("train.h5")), steps=6)
    assert any("train.h5 is what NON was trained on" in sentence for sentence in again.warnings)
    assert not compare({"NON": folder / "NON"}, folder / "unseen.h5", steps=6).warnings


def save_frames(path: Path, frames: Array) -> Path:
    spec = Burgers().spec
    trajectories.save(path, Trajectories(frames, np.zeros((len(frames), 0)), spec.active(), {"settings": {}}), spec)
    return path


def frames_of(steps: int) -> Array:
    taken = [initial_states(2)]
    for _ in range(steps):
        taken.append(Burgers().step(taken[-1]))
    return np.stack(taken, axis=1)


def test_data_that_mislead_are_said(folder: Path) -> None:
    runs = {"NON": folder / "NON"}
    far = compare(runs, save_frames(folder / "far.h5", frames_of(32)[:, ::4]), steps=6)
    assert any("frames seem to lie 4 steps of solver 'burgers' apart" in sentence for sentence in far.warnings)
    twice = compare(runs, save_frames(folder / "twice.h5", np.repeat(frames_of(8), 2, axis=0)), steps=6)
    assert any("simulations 0 and 1; simulations 2 and 3 are identical" in sentence for sentence in twice.warnings)
    still = compare(runs, save_frames(folder / "still.h5", np.repeat(frames_of(0), 9, axis=1)), steps=6)
    assert any("do not change with time" in sentence for sentence in still.warnings)


def test_a_comparison_takes_trajectories_themselves(folder: Path) -> None:
    data = trajectories.load(folder / "unseen.h5")
    ours, theirs = (compare({"NON": folder / "NON"}, source, steps=6) for source in (data, folder / "unseen.h5"))
    assert torch.equal(ours.methods["NON"].evaluation.errors, theirs.methods["NON"].evaluation.errors)


def test_every_checkpoint_is_read_once_and_every_step_is_a_step_of_the_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = line_data(tmp_path / "line.h5")
    first = train_settings(tmp_path / "NON", data, method="NON")
    others = [train_settings(tmp_path / name, data, method="DETACHED", start=first.run) for name in ("a", "b")]
    for settings in (first, *others):
        train(settings)
    read: list[Path] = []
    load = checkpoints.load_with_identity
    monkeypatch.setattr(checkpoints, "load_with_identity", lambda path: (read.append(path), load(path))[1])
    totals: list[int] = []
    steps: list[str] = []

    @contextmanager
    def bar(title: str, total: int) -> Iterator[Callable[[str], None]]:
        totals.append(total)
        yield steps.append

    found = compare({"a": tmp_path / "a", "b": tmp_path / "b"}, data, 7, bar=bar)
    assert sorted(path.name for path in read) == ["NON", "a", "b"]
    assert totals == [7 * 4] and len(steps) == 7 * 4  # SRC, both, and the network that they started from
    assert found.starts["a"].evaluation is found.starts["b"].evaluation and found.starts["a"].name == "NON"
    assert found.starts["a"].evaluation.mae == compare({"NON": first.run}, data, 7).methods["NON"].evaluation.mae


def test_runs_of_one_method_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    data = line_data(tmp_path / "line.h5", 3, 12)

    def made(*folders: str) -> list[Path]:
        for folder in folders:
            claim_folder(train_settings(tmp_path / folder, data, method="NON"))
        return [tmp_path / folder for folder in folders]

    def names(*folders: str) -> list[str]:
        return list(by_name(made(*folders)))

    assert names("runs/first/1-NON", "runs/second/1-NON") == ["NON, first", "NON, second"]
    assert names("a/x", "b/x", "NON") == ["NON, a/x", "NON, b/x", "NON"]
    assert names("c/1-NON", "c/2-NON") == ["NON, 1-NON", "NON, 2-NON"]
    (only,) = made("runs/first/1-NON")
    assert by_name([only, only]) == {"NON": only}
