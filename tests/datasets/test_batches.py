"""Batches: cut out of the trajectories as they are, by nothing but a seed and a number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from problems import Burgers, Counting
from training_cases import line_data

from deepzero_sim.common.types import Array
from deepzero_sim.datasets import Trajectories, UnrolledBatches, advance_frames, trajectories
from deepzero_sim.errors import DataError, NonFiniteError
from deepzero_sim.solver.contract import as_solver


@pytest.fixture
def data(tmp_path: Path) -> Trajectories:
    return trajectories.load(line_data(tmp_path / "line.h5"), Burgers().spec)


@pytest.fixture
def numbers() -> Trajectories:
    """Every frame holds 100 times its simulation plus its time."""
    frames = (100 * np.arange(5)[:, None] + np.arange(9)).astype(np.float64)
    return Trajectories(
        np.broadcast_to(frames[:, :, None, None], (5, 9, 1, 4)).copy(), np.arange(5.0)[:, None], np.ones((1, 4), bool)
    )


def test_advanced_frames_are_the_solvers_steps(data: Trajectories) -> None:
    solver = Counting(Burgers())
    advanced = advance_frames(solver, data)
    assert advanced.shape == (3, 11, 1, 16) and solver.states == 33
    assert np.array_equal(advanced[2, 5], Burgers().step(data.frames[2, 5:6])[0])


def test_many_frames_are_advanced_in_calls_of_some(tmp_path: Path) -> None:
    def step(states: Array, params: Array) -> Array:
        return states + params[:, :, None]

    frames, params = np.zeros((4, 41, 1, 16)), np.arange(4.0)[:, None]
    solver = Counting(as_solver(step, Burgers(parameters=("push",)).spec))
    advanced = advance_frames(solver, Trajectories(frames, params, np.ones((1, 16), bool)))
    assert solver.states == 160 and solver.calls < 160
    assert (advanced == params[:, :, None, None]).all()


def test_a_solver_that_fails_on_the_data_is_named() -> None:
    solver = as_solver(lambda states: states * np.nan, Burgers().spec)
    with pytest.raises(NonFiniteError, match="what solver 'burgers' returned must be finite"):
        advance_frames(solver, Trajectories(np.zeros((1, 3, 1, 16)), np.zeros((1, 0)), np.ones((1, 16), bool)))


def test_a_batch_is_a_rollout_of_one_simulation(numbers: Trajectories) -> None:
    batches = UnrolledBatches(numbers, numbers.frames[:, :-1] + 0.5, batch_size=40, unroll=3)
    states, params, references, advanced = batches(0)
    assert states is not None and params is not None and references is not None and advanced is not None
    first = states[:, 0, 0]
    assert references.shape == (40, 3, 1, 4)
    assert torch.equal(references[:, :, 0, 0], first[:, None] + torch.arange(1, 4))
    assert torch.equal(advanced, states + 0.5)
    assert torch.equal(params[:, 0], first // 100)
    assert set((first % 100).tolist()) == set(range(6)) and set((first // 100).tolist()) == set(range(5))


def test_a_batch_depends_on_the_seed_and_its_number_only(numbers: Trajectories) -> None:
    def batch(seed: int, step: int) -> torch.Tensor:
        states = UnrolledBatches(numbers, numbers.frames[:, :-1], 8, 2, seed)(step)[0]
        assert states is not None
        return states

    assert torch.equal(batch(1, 7), batch(1, 7))
    assert not torch.equal(batch(1, 7), batch(1, 8)) and not torch.equal(batch(1, 7), batch(2, 7))


def test_without_parameters_there_are_none(data: Trajectories) -> None:
    assert UnrolledBatches(data, data.frames[:, :-1], 2, 2)(0)[1] is None


def test_trajectories_must_be_longer_than_a_rollout(data: Trajectories) -> None:
    assert UnrolledBatches(data, data.frames[:, :-1], 2, 11)(0)[2].shape[1] == 11  # type: ignore[union-attr]
    with pytest.raises(DataError, match="a rollout of 12 steps needs trajectories of at least 13 frames, these have 12"):
        UnrolledBatches(data, data.frames[:, :-1], 2, 12)
