"""What there is to correct is said before it is trained: how much, whether it is a transient, or nearly nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from problems import Burgers
from training_cases import line_data, train_settings

import deepzero_sim as dz
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import Trajectories, frames, trajectories
from deepzero_sim.datasets.fitting.one_step_error import FRAMES, SIMULATIONS, OneStepError, of_first_steps, of_some_frames
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.training.runs.comparison import cost
from deepzero_sim.training.runs.training import train

SPEC = dz.SolverSpec(name="decay", state_shape=(2, 8), dt=0.1, dtype="float64", stencil=0)


def decay(states: Array, params: Array | None = None) -> Array:
    return 0.9 * states


def data_of(errors: Array, simulations: int = 3) -> Trajectories:
    """Frames that each step of `decay` misses by a part of what it changes."""
    taken = [np.random.default_rng(0).normal(size=(simulations, 2, 8)) * [[[1.0], [100.0]]]]
    for error in errors:
        taken.append(taken[-1] * (0.9 - 0.1 * error))
    return Trajectories(np.stack(taken, axis=1))


def first_steps(data: Trajectories) -> Array:
    return decay(np.asarray(data.frames[:, :-1]))


def test_the_error_is_that_of_a_step_in_units_of_each_channel() -> None:
    data = data_of(np.full(20, 0.25))
    found = of_first_steps(data, first_steps(data))
    assert found is not None and len(found.errors) == 20
    # a step should change 0.1 * (1 + 0.25) of the state, and misses the 0.25 in that
    np.testing.assert_allclose(found.errors / found.changes, 0.2)
    by_hand = [np.abs(first_steps(data)[:, 3, c] - data.frames[:, 4, c]).mean() / data.frames[:, 1:, c].std() for c in range(2)]
    assert found.errors[3] == pytest.approx(np.mean(by_hand)) and not found.is_nearly_nothing and not found.transient
    assert len(found.notes()) == 1 and "20% of what a step changes" in found.notes()[0]


def test_steps_that_failed_and_channels_that_stand_still_say_nothing() -> None:
    data = data_of(np.full(20, 0.25))
    still = np.array(data.frames)
    still[:, :, 1] = 7.0
    steps = first_steps(data)
    steps[:, :, 1] = 8.0
    steps[0, 5], steps[:, 7] = np.nan, np.nan
    found = of_first_steps(replace(data, frames=still), steps)
    assert found is not None and found.times.tolist() == [time for time in range(20) if time != 7]
    np.testing.assert_allclose(found.errors / found.changes, 0.2)
    assert of_first_steps(data, np.full_like(steps, np.nan)) is None


def test_a_transient_at_the_beginning_is_said_with_its_length() -> None:
    errors = np.r_[np.full(4, 3.0), np.full(26, 0.05)]
    data = data_of(errors)
    data = replace(data, frames=np.asarray(data.frames) / np.abs(data.frames).mean(axis=(0, 3))[None, :, :, None])
    steps = np.asarray(data.frames[:, 1:]) * (1 + 0.01 * errors[None, :, None, None])
    found = of_first_steps(data, steps)
    assert found is not None and found.transient == 4
    assert "the error of the first 4 frames is up to 60 times that of the second half" in found.notes()[1]
    assert "4 more for discard" in found.notes()[1]
    # neither errors that are alike nor one that never ends is a transient
    for other in (np.full(30, 3.0), np.r_[np.full(20, 3.0), np.full(10, 0.05)], errors[::-1]):
        found = of_first_steps(data, np.asarray(data.frames[:, 1:]) * (1 + 0.01 * other[None, :, None, None]))
        assert found is not None and not found.transient and len(found.notes()) == 1


def errors_over_time(errors: Array) -> OneStepError:
    return OneStepError(np.arange(len(errors)), errors, np.full(len(errors), 2.0))


@pytest.mark.parametrize("frames", [8, 20, 50, 200])
@pytest.mark.parametrize("ratio", [30.0, 150.0, 1e5])
def test_errors_that_decay_without_an_end_are_a_transient(frames: int, ratio: float) -> None:
    found = errors_over_time(0.117 * ratio ** -np.linspace(0, 20 / frames if frames > 20 else 1, frames))
    if found.errors[: -(-frames // 10)].sum() < 0.5 * found.errors.sum():  # it decays too slowly for that
        assert not found.transient
        return
    assert 0 < found.transient < frames and "% of the summed error" in found.notes()[1]
    share = int(found.notes()[1].split("%")[0].split()[-1])
    assert 50 <= share == round(100 * found.errors[: -(-frames // 10)].sum() / found.errors.sum())
    assert found.errors[found.transient] <= 0.117 / 10 and f"{found.transient} more for discard" in found.notes()[1]
    assert "standard deviations (mean absolute error), " in found.notes()[0]


def test_a_decay_as_a_newcomer_met_it_is_said() -> None:
    found = errors_over_time(np.maximum(0.117 * 150 ** (-np.arange(50) / 20), 1e-6))
    assert "the first tenth of the frames has 71% of the summed error, which falls from 0.12 to" in found.notes()[1]
    assert "if the first 10 frames are a transient" in found.notes()[1]


def test_errors_that_are_flat_or_grow_or_vary_are_no_transient() -> None:
    random = np.random.default_rng(0)
    for count in (8, 9, 20, 101):
        time = np.arange(count)
        alike = (
            np.ones(count),
            1e-3 * 1.1**time,
            1 + 0.5 * np.sin(time),
            1.0 / (1 + 0.05 * time),
            np.eye(8)[5],
        )
        for errors in (*alike, *(random.lognormal(0, 0.5, count) for _ in range(200))):
            assert not errors_over_time(errors).transient, errors


@pytest.mark.parametrize(("error", "nothing"), [(0.0, True), (5e-4, True), (2e-3, False)])
def test_nearly_nothing_to_correct_is_a_warning(error: float, nothing: bool) -> None:
    data = data_of(np.full(12, error))
    found = of_first_steps(data, first_steps(data))
    assert found is not None and found.is_nearly_nothing == nothing
    warning = found.warning("decay")
    assert (warning is not None and "there is nearly nothing to correct" in warning) == nothing == (not found.notes())


def test_a_step_that_leads_away_is_doubted() -> None:
    data = data_of(np.full(12, -1.5))
    found = of_first_steps(data, first_steps(data))
    assert found is not None and "more than it changes: check parameters, units and the solver's dt" in found.notes()[0]


def test_frames_on_disk_cost_a_few_counted_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = line_data(tmp_path / "line.h5", 6, 40)
    whole = trajectories.load(path)
    solver = Burgers(dtype="float64")
    monkeypatch.setattr(frames, "IN_MEMORY", 0)
    lazy = trajectories.load(path)
    assert lazy.on_disk
    found, account = of_some_frames(solver, lazy, FailurePolicy())
    assert found is not None and account.steps == SIMULATIONS * FRAMES
    chosen = np.linspace(0, 5, SIMULATIONS).astype(int)
    expected = np.stack([solver.step(np.asarray(whole.frames[chosen, time])) for time in found.times], axis=1)
    difference = np.abs(expected - whole.frames[chosen[:, None], found.times + 1]).mean(axis=(0, 2, 3))
    spread = np.asarray(whole.frames[chosen[:, None], found.times + 1]).std()
    np.testing.assert_allclose(found.errors, difference / spread)
    said: list[str] = []
    settings = train_settings(tmp_path / "run", path, method="NON")
    progress = train(settings, note=said.append)
    assert cost(settings.run).solver_steps == progress.solver_steps + SIMULATIONS * FRAMES
    assert "one step of the solver alone misses the next frame by" in said[0]


def test_a_training_says_it_once_and_never_when_it_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    settings = train_settings(tmp_path / "run", line_data(tmp_path / "line.h5"), method="NON")
    train(settings, note=said.append)
    assert sum("one step of the solver alone" in one for one in said) == 1
    said.clear()
    train(replace(settings, updates=6), note=said.append)
    assert not said
