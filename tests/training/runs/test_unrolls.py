"""Rollouts that grow over a training: each update takes its length, a killed run goes on with it, and plans are held to."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import Burgers, Counting, initial_states

import deepzero_sim as dz
from deepzero_sim.common.settings import read
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.training import train
from deepzero_sim.training.runs.unrolls import Unrolls

SETTINGS: dict[str, Any] = {
    "solver": {"name": "problems.Burgers", "args": {"dtype": "float32"}},
    "network": {"name": "small", "args": {"width": 4}},
    "batch_size": 2,
    "tensorboard": False,
    "workers": {"backend": "serial"},
}

GROWING = {1: 2, 2: 3, 4: 2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    solver = Burgers(dtype="float32")
    states, frames, viscosity = initial_states(3).astype("float32"), [], np.full((3, 1), 0.2)
    for _ in range(8):
        frames.append(states)
        states = solver.step(states, viscosity)
    path = tmp_path / "data.h5"
    trajectories.save(path, Trajectories(torch.stack([torch.from_numpy(one) for one in frames], dim=1).numpy()), solver.spec)
    return path


def settings(data: Path, run: str, **more: Any) -> TrainSettings:
    made: TrainSettings = read(TrainSettings, {**SETTINGS, "train_data": data, "run": data.parent / run, **more})
    return made


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, unique_by=lambda pair: pair[0]).map(sorted),
    st.integers(0, 90),
)
def test_an_update_has_the_length_that_its_place_says(pairs: list[tuple[int, int]], updates: int) -> None:
    unrolls = Unrolls.of(dict(pairs))
    planned = [steps for steps, count in pairs for _ in range(count)]
    expected = [planned[min(update, len(planned) - 1)] for update in range(updates)]
    assert [unrolls.at(update) for update in range(updates)] == expected
    assert unrolls.total(updates) == sum(expected) and unrolls.planned == len(planned)
    assert unrolls.longest == max(planned)


@pytest.mark.parametrize("method", ["DETACHED", "STRAIGHT-THROUGH", "ZO-SOL"])
def test_rollouts_grow_and_take_as_many_solver_steps_as_they_are_long(method: str, data: Path) -> None:
    progress = train(settings(data, "run", method=method, unroll=GROWING, network={"name": "small", "args": {"width": 1}}))
    assert progress.step == 7
    steps = [0, *(line["solver_steps"] for line in metrics(data.parent / "run"))]
    spent = [after - before for before, after in pairwise(steps[1:])]
    if method == "ZO-SOL":  # all steps but the first of each rollout, for every query
        assert spent[0] < spent[1] == spent[2] == spent[3] < spent[4] == spent[5]
    else:
        assert spent == [0, 2, 2, 2, 6, 6]  # the first step of a rollout was taken before


def test_a_run_that_was_killed_in_the_middle_of_its_plan_goes_on_with_it(data: Path) -> None:
    whole, parted = (settings(data, name, method="STRAIGHT-THROUGH", unroll=GROWING, checkpoint_every=1) for name in ("a", "b"))
    train(whole)

    class KilledError(Exception):
        pass

    def kill(progress: dz.Progress) -> None:
        if progress.step == 4:
            raise KilledError

    with pytest.raises(KilledError):
        train(parted, kill)
    train(settings(data, "b", method="STRAIGHT-THROUGH", unroll=GROWING, checkpoint_every=1))
    kept = [(data.parent / name / "checkpoint.safetensors").read_bytes() for name in ("a", "b")]
    losses = [[line["loss"] for line in metrics(data.parent / name)] for name in ("a", "b")]
    assert losses[0] == losses[1] and len(kept[0]) == len(kept[1])
    loops = [dz.load_run(data.parent / name) for name in ("a", "b")]
    for one, other in zip(*(loop.corrector.parameters() for loop in loops), strict=True):
        assert torch.equal(one, other)
    assert loops[0].unroll == 4


def test_a_loop_of_ones_own_takes_the_lengths_that_its_oracle_is_told(data: Path) -> None:
    solver = Counting(Burgers(dtype="float32"))
    loop = dz.SolverLoop(solver, dz.models.small(solver.spec, width=2), unroll=4)
    oracle = dz.LoopOracle(loop, lambda rollout, references: (rollout - references).square().mean(), unrolls=(1, 2))
    frames = torch.from_numpy(trajectories.load(data).frames)
    for steps in (1, 2, 4):
        batch = (frames[:, 0], None, frames[:, 1 : steps + 1])
        assert oracle.preparation_steps(batch) == 3 * steps == oracle.prepare(batch).account.steps
    with pytest.raises(dz.ConfigError, match="cut them to the loop's unroll"):
        oracle.prepare((frames[:, 0], None, frames[:, 1:4]))


def test_more_updates_than_planned_go_on_with_the_last_length_and_fewer_are_refused(data: Path) -> None:
    assert settings(data, "run", method="DETACHED", unroll=GROWING).updates == 7
    assert settings(data, "run", method="DETACHED", unroll=GROWING, updates=9).updates == 9
    with pytest.raises(dz.ConfigError, match="unroll plans 7 updates, but updates says 6: leave out updates, or plan fewer"):
        settings(data, "run", method="DETACHED", unroll=GROWING, updates=6)
    for wrong in ({}, {0: 5}, {1: 0}, {4: 2, 1: 2}, 0):
        with pytest.raises(dz.ConfigError, match="unroll must"):
            settings(data, "run", unroll=wrong)
    with pytest.raises(dz.ConfigError, match="unroll must be values by keys that are whole numbers, not a"):
        settings(data, "run", unroll={"a": 5})


def test_single_steps_come_before_rollouts_that_grow(data: Path) -> None:
    frames = trajectories.load(data).frames
    solver = Burgers(dtype="float32")
    loop = dz.train(
        solver,
        frames,
        unroll=GROWING,
        held_back=0,
        progress=False,
        run=data.parent / "run",
        network=SETTINGS["network"],
        workers={"backend": "serial"},
        stages=[{"method": "NON", "updates": 3}, {"method": "DETACHED"}],
    )
    assert loop.unroll == 4
    assert [len(metrics(data.parent / "run" / name)) for name in ("1-NON", "2-DETACHED")] == [3, 7]
