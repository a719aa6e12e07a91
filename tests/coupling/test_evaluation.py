"""The error of a corrected rollout: by hand, and infinite where a rollout diverged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import Burgers, Counting, Network, conv_corrector, initial_states, snapshot

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.evaluation import Evaluation, evaluate
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DataError
from deepzero_sim.models.corrector import NoCorrection
from deepzero_sim.solver.contract import as_solver
from deepzero_sim.solver.spec import SolverSpec

ACTIVE = torch.ones(1, 16, dtype=torch.bool)


def burgers_frames(count: int, viscosity: float = 0.05) -> torch.Tensor:
    frames = [initial_states(3)]
    for _ in range(count - 1):
        frames.append(Burgers().step(frames[-1], np.full((3, 1), viscosity)))
    return torch.from_numpy(np.stack(frames, axis=1))


def test_a_solver_that_is_right_has_no_error() -> None:
    solver = Counting(Burgers())
    found = evaluate(SolverLoop(solver, NoCorrection()), burgers_frames(9), None, ACTIVE, steps=8)
    assert found.errors.shape == (3, 8) and found.mae == 0 and found.mae_std == 0
    assert found.solver_steps == solver.states == 24
    assert torch.equal(found.rollout, burgers_frames(9)[:, 1:])


def test_errors_are_means_over_active_points() -> None:
    step = as_solver(lambda states: states + 1, Burgers().spec)
    frames, active = torch.zeros(2, 4, 1, 16, dtype=torch.float64), torch.zeros(1, 16, dtype=torch.bool)
    active[0, :2] = True
    frames[1, 0] = 1.0
    frames[:, :, ~active] = 50.0
    found = evaluate(SolverLoop(step, NoCorrection()), frames, None, active, steps=3)
    assert found.errors.tolist() == [[1, 2, 3], [2, 3, 4]]
    assert found.mae == 2.5 and found.mae_std == 0.5 and found.seconds > 0


def test_the_network_corrects_and_is_left_as_it_is() -> None:
    corrector = conv_corrector()
    before = snapshot(corrector)
    loop = SolverLoop(Burgers(), corrector, unroll=2)
    frames = burgers_frames(6, viscosity=0.2)
    found = evaluate(loop, frames, None, ACTIVE, steps=5)
    with torch.no_grad():
        expected = loop.rollout(frames[:, 0], None, steps=5)
    assert torch.equal(found.rollout, expected) and not found.rollout.requires_grad
    assert all(torch.equal(snapshot(corrector)[name], before[name]) for name in before)


def test_parameters_reach_the_solver() -> None:
    params = torch.full((3, 1), 0.2, dtype=torch.float64)
    found = evaluate(SolverLoop(Burgers(), NoCorrection()), burgers_frames(5, 0.2), params, ACTIVE, steps=4)
    assert found.mae == 0


@pytest.mark.parametrize("diverges_at", [0, 2])
def test_a_rollout_that_diverges_has_an_infinite_error(diverges_at: int) -> None:
    def step(states: Array) -> Array:
        return np.where(states >= diverges_at, np.inf, states + 1)

    found = evaluate(
        SolverLoop(as_solver(step, Burgers().spec), NoCorrection()),
        torch.zeros(2, 6, 1, 16, dtype=torch.float64),
        None,
        ACTIVE,
        5,
    )
    assert found.errors.isfinite().sum(dim=1).tolist() == [diverges_at, diverges_at]
    assert found.errors[:, diverges_at:].isposinf().all()
    assert math.isinf(found.mae) and math.isinf(found.mae_std)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")
def test_a_network_that_explodes_has_an_infinite_error() -> None:
    linear = torch.nn.Conv1d(1, 1, 1).double()
    torch.nn.init.constant_(linear.weight, 1e200)
    found = evaluate(SolverLoop(Burgers(), Network(linear)), burgers_frames(6), None, ACTIVE, 5)
    assert math.isinf(found.mae) and not found.errors.isnan().any()


def test_there_must_be_frames_for_every_step() -> None:
    with pytest.raises(DataError, match="9 steps of evaluation need 10 frames, the data have 9: evaluate fewer steps"):
        evaluate(SolverLoop(Burgers(), NoCorrection()), burgers_frames(9), None, ACTIVE, steps=9)


@pytest.mark.parametrize("steps", [0, -1])
def test_an_evaluation_has_steps(steps: int) -> None:
    with pytest.raises(ConfigError, match="positive number"):
        evaluate(SolverLoop(Burgers(), NoCorrection()), burgers_frames(9), None, ACTIVE, steps=steps)


def test_one_simulation_has_no_spread() -> None:
    found = Evaluation(
        torch.ones(1, 4),
        torch.zeros(1, 4, 1, 2),
        4,
        0.0,
        channel_errors=torch.ones(1, 4, 1),
        scales=torch.ones(1),
    )
    assert found.mae_std == found.relative_std == 0


def two_channels(dtype: str = "float64") -> SolverSpec:
    return SolverSpec(name="two", state_shape=(2, 4), dt=1.0, dtype=dtype, channels=("h", "q"), channel_units=("m", "m^2/s"))


def test_errors_of_each_channel_are_in_its_own_unit() -> None:
    spec = two_channels()
    frames = np.zeros((2, 3, 2, 4))
    frames[:, :, 0, ::2], frames[:, :, 1, ::2] = 2.0, 200.0  # standard deviations of 1 and 100
    away = np.array([0.1, 30.0])[None, :, None]
    found = evaluate(SolverLoop(as_solver(lambda states: states + away, spec), NoCorrection()), frames)
    assert found.channel_errors.shape == (2, 2, 2)
    assert found.channel_errors[0].numpy() == pytest.approx(np.array([[0.1, 30], [0.2, 60]]))
    assert found.channel_mae.tolist() == pytest.approx([0.15, 45])
    assert found.scales.tolist() == pytest.approx([1, 100])
    assert found.relative_errors[1].tolist() == pytest.approx([0.2, 0.4]) and found.relative == pytest.approx(0.3)
    assert found.mae == pytest.approx((0.15 + 45) / 2)  # what nobody should read: metres and metres squared a second


def test_only_active_points_of_a_channel_count() -> None:
    active = np.ones((2, 4), dtype=bool)
    active[1, 1:] = False
    frames = np.random.default_rng(0).normal(size=(1, 2, 2, 4)) * active
    shift = np.where(active, np.array([[1.0], [4.0]]), 1e6)
    found = evaluate(SolverLoop(as_solver(lambda s: s + shift, two_channels()), NoCorrection()), frames, None, active)
    later = torch.from_numpy(frames[:, 1] - frames[:, 0])
    assert found.channel_errors[0, 0, 1].item() == pytest.approx(abs(4.0 - later[0, 1, 0].item()))
    one = frames[0, :, 1, 0]
    assert found.scales[1].item() == pytest.approx(one.std()) and found.errors[0, 0] < 10


@pytest.mark.parametrize("still", [0.0, 0.1, 101325.0])
def test_a_channel_that_is_constant_in_the_data_is_left_out_of_the_relative_error(still: float) -> None:
    frames = np.random.default_rng(0).normal(size=(2, 6, 2, 4)).astype("float32")
    frames[:, :, 1] = still
    solver = as_solver(lambda states: states + np.float32(0.5), two_channels("float32"))
    found = evaluate(SolverLoop(solver, NoCorrection()), frames)
    assert found.scales.isnan().tolist() == [False, True]
    first = found.channel_errors[:, :, 0] / frames[:, :, 0].std(dtype=np.float64)
    assert found.relative_errors.numpy() == pytest.approx(first.numpy()) and found.channel_mae[1] > 1


def test_without_any_change_in_the_data_there_is_no_relative_error() -> None:
    found = evaluate(SolverLoop(as_solver(lambda s: s + 1, Burgers().spec), NoCorrection()), torch.zeros(2, 3, 1, 16).double())
    assert math.isnan(found.relative) and found.mae == 1.5


def test_a_channel_without_active_points_has_no_error() -> None:
    active = np.array([[True] * 4, [False] * 4])
    frames = np.random.default_rng(0).normal(size=(1, 3, 2, 4)) * active
    found = evaluate(SolverLoop(as_solver(lambda s: s + 1, two_channels()), NoCorrection()), frames, None, active)
    assert found.channel_mae.isnan().tolist() == [False, True] and math.isfinite(found.relative)


def test_a_rollout_that_diverges_has_infinite_errors_in_all_channels() -> None:
    def step(states: Array) -> Array:
        left = states + 1
        left[:, 1] = np.where(states[:, 0] >= 1, np.float32(3e38), left[:, 1])
        return left

    frames = np.random.default_rng(0).uniform(0.5, 1, size=(1, 5, 2, 4)).astype("float32")
    frames[:, :, 1] *= np.float32(-3e38)  # the second channel's difference is beyond all floats, the first one's is not
    found = evaluate(SolverLoop(as_solver(step, two_channels("float32")), NoCorrection()), frames)
    assert found.errors.isinf().any() and torch.equal(found.channel_errors.isinf().all(dim=2), found.errors.isinf())
    assert math.isinf(found.relative) and math.isinf(found.relative_std)


def test_data_are_given_as_arrays_tensors_trajectories_or_a_path(tmp_path: Path) -> None:
    solver = Burgers(parameters=("nu",))
    frames, params = burgers_frames(5, 0.2).numpy(), np.full((3, 1), 0.3)
    data = Trajectories(frames, params, solver.spec.active())
    trajectories.save(tmp_path / "line.h5", data, solver.spec)
    loop = SolverLoop(solver, NoCorrection())
    expected = evaluate(loop, torch.from_numpy(frames), torch.from_numpy(params), ACTIVE, 4)
    assert expected.mae > 0
    frames.flags.writeable = False
    ways: list[Any] = [data, tmp_path / "line.h5", str(tmp_path / "line.h5")]
    for found in (evaluate(loop, frames, params), *(evaluate(loop, way) for way in ways)):
        assert torch.equal(found.errors, expected.errors) and torch.equal(found.rollout, expected.rollout)
        assert torch.equal(found.scales, expected.scales)
    assert torch.equal(evaluate(loop, data, steps=2).errors, expected.errors[:, :2])


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((2, 5, 1, 8)), r"needs frames \(S, T, C, \*N\).*shape \(1, 16\), not an array of shape \(2, 5, 1, 8\)"),
        (np.zeros(3), r"not an array of shape \(3,\)"),
        (np.full((2, 5, 1, 16), np.nan), "needs finite frames, not NaN or infinity among them.*leave such simulations out"),
    ],
)
def test_frames_that_are_none_of_the_solver_are_refused(frames: Array, words: str) -> None:
    with pytest.raises(DataError, match=words):
        evaluate(SolverLoop(Burgers(), NoCorrection()), frames)


def test_an_evaluation_says_what_it_is() -> None:
    loop = SolverLoop(Burgers(), NoCorrection())
    frames = torch.from_numpy(np.stack([initial_states(2)] * 3, axis=1))
    said = repr(evaluate(loop, frames, steps=2))
    assert said.startswith("Evaluation(2 simulations of 2 steps: relative error ") and said.count("\n") == 0
    assert "4 solver steps in" in said
