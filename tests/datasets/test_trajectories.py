"""Files of trajectories: what is written is read, and what cannot be read is named in one sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from problems import Burgers, initial_states
from training_cases import line_data, unfinished

from deepzero_sim.common.files import digest
from deepzero_sim.datasets import Trajectories, trajectories
from deepzero_sim.datasets import frames as frames_module
from deepzero_sim.errors import DataError
from deepzero_sim.solvers import WakeFlow


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return line_data(tmp_path / "line.h5")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    spec, frames = Burgers().spec, initial_states(6).reshape(2, 3, 1, 16)
    trajectories.save(tmp_path / "a.h5", Trajectories(frames, np.zeros((2, 0)), spec.active(), {"note": {"a": 1}}), spec)
    loaded = trajectories.load(tmp_path / "a.h5", spec)
    assert np.array_equal(loaded.frames, frames) and loaded.frames.dtype == np.float64
    assert loaded.params.shape == (2, 0) and loaded.mask.all()
    assert loaded.attributes["format"] == "deepzero-sim trajectories" and loaded.attributes["note"] == '{"a": 1}'
    assert not unfinished(tmp_path)


def test_frames_come_in_the_solvers_dtype(path: Path) -> None:
    assert trajectories.load(path, Burgers(dtype="float32").spec).frames.dtype == np.float32
    assert trajectories.load(path).frames.dtype == np.float64


def test_scales_leave_out_padding_and_are_one_where_nothing_varies() -> None:
    frames = np.ones((2, 3, 2, 4), dtype=np.float32)
    frames[:, :, 0, :2] = np.array([1.0, 3.0])
    mask = np.array([[True, True, False, False], [True] * 4])
    states, params = Trajectories(frames, np.array([[1.0, 5.0], [3.0, 5.0]]), mask).scales()
    assert states.tolist() == [1.0, 1.0] and params.tolist() == [1.0, 1.0]
    frames[:, :, 0, :2] *= 2
    assert Trajectories(frames, np.ones((2, 1)), mask).scales()[0].tolist() == [2.0, 1.0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(key: str, value: Any = None) -> Any:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file[key]
            if value is not None:
                file[key] = value

    return change


def attribute(key: str, value: Any) -> Any:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            file.attrs[key] = value

    return change


def foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["temperature"] = [1.0]


NAN = np.full((3, 12, 1, 16), np.nan)
BROKEN = {
    "missing": (lambda path: path.unlink(), "there is none: run 'deepzero-sim generate'"),
    "not HDF5": (lambda path: path.write_text("frames: 3"), "cannot be read as HDF5"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as HDF5"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "but that is a folder"),
    "foreign HDF5": (foreign, "is HDF5, but not a file of"),
    "a later version": (attribute("version", 99), "version 99"),
    "truncated": (truncate, "cannot be read as HDF5"),
    "no mask": (edit("mask"), "cannot be read as HDF5"),
    "a group for frames": (
        lambda path: (edit("frames")(path), edit("axes")(path), edit("params", 1.0)(path)),
        "cannot be read",
    ),
    "too few axes": (edit("frames", np.zeros((3, 12, 16))), "must hold frames"),
    "words for frames": (edit("frames", np.full((3, 12, 1, 16), b"a")), "must hold floating-point"),
    "other params": (edit("params", np.zeros((2, 1))), "must hold frames"),
    "another mask": (edit("mask", np.ones((1, 15))), "must hold frames"),
    "NaN": (edit("frames", NAN), "holds NaN or infinity"),
    "NaN parameters": (edit("params", np.full((3, 1), np.inf)), "holds NaN or infinity"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_cannot_be_used_is_named_in_a_sentence(path: Path, case: str) -> None:
    break_it, says = BROKEN[case]
    break_it(path)
    with pytest.raises(DataError, match=says) as error:
        trajectories.load(path)
    assert str(path) in str(error.value) and str(error.value).endswith((".", ")"))


def test_states_must_fit_the_solver(path: Path) -> None:
    with pytest.raises(DataError, match=r"states of shape \(1, 16\), but solver 'burgers' takes \(1, 32\)"):
        trajectories.load(path, Burgers(points=32).spec)
    with pytest.raises(DataError, match=r"holds 0 parameters a simulation, but .* takes 1 \(viscosity\)"):
        trajectories.load(path, Burgers(parameters=("viscosity",)).spec)
    with pytest.raises(DataError, match="use the solver and resolution the data were made for"):
        trajectories.load(path, WakeFlow(8).spec)


def test_paths_may_be_text_and_parameters_and_mask_may_be_left_out(tmp_path: Path) -> None:
    spec, frames = Burgers().spec, np.stack([initial_states(3), initial_states(3)], axis=1)
    trajectories.save(str(tmp_path / "data.h5"), Trajectories(frames), spec)
    loaded = trajectories.load(str(tmp_path / "data.h5"), spec)
    np.testing.assert_array_equal(loaded.frames, frames)
    assert loaded.params.shape == (3, 0) and loaded.mask.shape == spec.state_shape and loaded.mask.all()


def test_tensors_are_taken_for_arrays() -> None:
    data = Trajectories(torch.zeros(2, 3, 1, 4), torch.ones(2, 1), torch.ones(1, 4, dtype=torch.bool))  # type: ignore[arg-type]
    assert all(isinstance(array, np.ndarray) for array in (data.frames, data.params, data.mask))


def test_a_mask_of_numbers_is_one_of_truth_values() -> None:
    data = Trajectories(np.zeros((2, 3, 1, 4)), mask=np.array([[1, 0, 1, 1]]))  # type: ignore[arg-type]
    assert data.mask.dtype == bool and data.mask.tolist() == [[True, False, True, True]]
    with pytest.raises(DataError, match="the mask of trajectories must be True where"):
        Trajectories(np.zeros((2, 3, 1, 4)), mask=np.array([[1, 0, 2, 1]]))  # type: ignore[arg-type]


def test_means_leave_out_padding() -> None:
    frames = np.zeros((2, 3, 2, 4))
    frames[:, :, 0, :2], frames[1, :, 1] = 8.0, 5.0
    mask = np.array([[True, True, False, False], [True] * 4])
    channels, params = Trajectories(frames, np.array([[1.0], [4.0]]), mask).means()
    assert channels.tolist() == [8.0, 2.5] and params.tolist() == [2.5]


def test_trajectories_say_what_they_are() -> None:
    data = Trajectories(np.zeros((2, 3, 1, 4), dtype=np.float32), np.zeros((2, 1)))
    assert repr(data) == "Trajectories(2 simulations of 3 frames: states (1, 4) of float32, 1 parameter(s) each)"


def times_of(path: Path, times: Any) -> Path:
    """Write times into a file, whose dt is taken out."""
    with h5py.File(path, "a") as file:
        del file.attrs["dt"]
        file["times"] = times
    return path


def test_a_file_keeps_its_own_times(tmp_path: Path, path: Path) -> None:
    spec, data = Burgers().spec, trajectories.load(path)
    assert data.times is None and spec.dt == 0.01
    times = 3 + 0.0025 * np.arange(12)
    trajectories.save(tmp_path / "a.h5", replace(data, times=times), spec)
    loaded = trajectories.load(tmp_path / "a.h5")
    assert loaded.times is not None and np.array_equal(loaded.times, times)
    assert loaded.attributes["dt"] == pytest.approx(0.0025)  # what the data say, not what the solver does
    with pytest.raises(DataError, match=r"its dt is 0\.0025, not 0\.01 \(4 of its steps\): take one frame in 4 .*every: 4"):
        trajectories.load(tmp_path / "a.h5", spec)
    assert trajectories.load(tmp_path / "a.h5", spec, ["dt"]).frames.shape == (3, 12, 1, 16)
    assert trajectories.summarise(tmp_path / "a.h5").metadata.dt == pytest.approx(0.0025)


@pytest.mark.parametrize("dtype", ["f8", "f4", ">f4"])
@pytest.mark.parametrize("first", [0.0, 7.3])
def test_times_that_fit_are_taken(path: Path, dtype: str, first: float) -> None:
    times_of(path, (first + 0.01 * np.arange(12)).astype(dtype))
    loaded = trajectories.load(path, Burgers().spec)
    assert loaded.times is not None and loaded.times.dtype == np.float64 and loaded.times.shape == (12,)


WRONG_TIMES = {
    "four times too close": (0.0025 * np.arange(12), r"its dt is 0\.0025, not 0\.01 .*every: 4 beside it"),
    "too far": (0.03 * np.arange(12), r"its dt is 0\.03, not 0\.01 \(3 steps of that\): use what belongs together"),
    "no multiple": (0.013 * np.arange(12), r"its dt is 0\.013, not 0\.01: use what"),
    "uneven": (0.01 * np.arange(12) ** 1.1, "its times must rise in even steps"),
    "one repeated": (0.01 * np.arange(12).clip(0, 10), "its times must rise in even steps"),
    "falling": (-0.01 * np.arange(12), "its times must rise in even steps"),
    "constant": (np.zeros(12), "its times must rise in even steps"),
    "NaN": (np.full(12, np.nan), "its times must rise in even steps"),
    "too few": (0.01 * np.arange(11), r"must hold a time of each of 12 frames, not times \(11,\)"),
    "words": (np.full(12, b"a"), "its times must be a row of numbers"),
    "a table": (np.zeros((12, 2)), "its times must be a row of numbers"),
}


@pytest.mark.parametrize("case", WRONG_TIMES)
def test_times_that_do_not_fit_are_refused(path: Path, case: str) -> None:
    times, says = WRONG_TIMES[case]
    with pytest.raises(DataError, match=says):
        trajectories.load(times_of(path, times), Burgers().spec)


def test_times_and_step_that_contradict_each_other_are_refused(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["times"] = 0.04 * np.arange(12)
    for read in (trajectories.load, trajectories.summarise):
        with pytest.raises(DataError, match=r"its times lie 0\.04 apart, but its dt is 0\.01"):
            read(path)


def test_times_to_be_saved_must_be_those_of_the_frames(tmp_path: Path, path: Path) -> None:
    data = trajectories.load(path)
    for times, says in ((np.arange(11.0), "a time of each of 12 frames"), (np.arange(12.0) ** 2, "rise in even steps")):
        with pytest.raises(DataError, match=says):
            trajectories.save(tmp_path / "a.h5", replace(data, times=times), Burgers().spec)
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize("frames", [2, 1000])
def test_scales_and_digest_are_the_same_wherever_frames_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int
) -> None:
    path = line_data(tmp_path / "a.h5", 3, frames)
    in_memory = trajectories.load(path, Burgers(dtype="float32").spec)
    monkeypatch.setattr(frames_module, "IN_MEMORY", 0)
    on_disk = trajectories.load(path, Burgers(dtype="float32").spec)
    assert on_disk.on_disk and not in_memory.on_disk
    for size in (frames_module.BLOCK, 700 * 64):
        monkeypatch.setattr(frames_module.blocks, "__defaults__", (size,))
        on_disk = replace(on_disk)  # nothing kept of the last size
        for ours, theirs in zip((*on_disk.scales(), *on_disk.means()), (*in_memory.scales(), *in_memory.means()), strict=True):
            assert np.array_equal(ours, theirs)
        assert on_disk.digest() == in_memory.digest() == digest([], [in_memory.frames[:], in_memory.params, in_memory.mask])
    assert in_memory.scales()[0][0] == pytest.approx(in_memory.frames[:].std(dtype=np.float64), rel=1e-12)


def test_frames_on_disk_are_saved_as_they_are(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Burgers().spec
    monkeypatch.setattr(frames_module, "IN_MEMORY", 0)
    monkeypatch.setattr(frames_module.blocks, "__defaults__", (300,))
    trajectories.save(tmp_path / "copy.h5", trajectories.load(path, spec), spec)
    with h5py.File(path) as before, h5py.File(tmp_path / "copy.h5") as after:
        assert np.array_equal(before["frames"], after["frames"]) and after["frames"].fletcher32
    with h5py.File(path, "a") as file:
        file["frames"][2, 7, 0, 3] = np.inf
    with pytest.raises(DataError, match=r"line\.h5 holds NaN or infinity"):
        trajectories.save(tmp_path / "other.h5", trajectories.load(path, spec), spec)
    assert not (tmp_path / "other.h5").exists() and not unfinished(tmp_path)


def test_values_marked_as_missing_are_refused_when_they_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "IN_MEMORY", 0)
    with h5py.File(path, "a") as file:
        file["frames"].attrs["_FillValue"] = -999.0
        file["frames"][1, 2, 0, 5] = -999.0
    data = trajectories.load(path, Burgers().spec)
    assert data.frames[0].shape == (12, 1, 16)
    with pytest.raises(DataError, match=r"frames has values that are missing \(_FillValue is -999\)"):
        data.scales()
