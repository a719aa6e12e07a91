"""Trajectories of any layout, opened by their path or with what has to be said of them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from problems import Burgers, initial_states

import deepzero_sim as dz
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.foreign import write_well
from deepzero_sim.datasets.opening import layout_of, metadata_of, open_trajectories
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DataError, DeepZeroError

FINE = dz.SolverSpec(
    name="fine",
    state_shape=(1, 32),
    dt=0.05,
    dtype="float64",
    channels=("u",),
    channel_units=("m/s",),
    parameters=("nu",),
    axes=("x",),
    spacing=(1 / 32,),
    offsets=((0.5,),),
)
COARSE = dz.SolverSpec(
    **{**vars(FINE), "name": "coarse", "state_shape": (1, 8), "dt": 0.1, "spacing": (1 / 8,), "dtype": "float32"}
)
RESTRICTED = {"restrict": "block_mean"}


@pytest.fixture
def fine() -> Trajectories:
    frames = np.random.default_rng(0).normal(size=(2, 7, 1, 32))
    return Trajectories(frames, np.array([[0.1], [0.2]]), times=1 + 0.05 * np.arange(7))


def means(data: Trajectories) -> np.ndarray:
    return data.frames[:, ::2].reshape(2, 4, 1, 8, 4).mean(axis=4)


def test_a_file_in_the_well_s_layout_is_opened_for_a_coarser_solver(fine: Trajectories, tmp_path: Path) -> None:
    path = tmp_path / "well.h5"
    write_well(path, fine, FINE)
    data = open_trajectories(DataSource(path, **RESTRICTED), COARSE)
    np.testing.assert_allclose(data.frames, means(fine), atol=1e-6)
    np.testing.assert_allclose(data.params, fine.params, rtol=1e-6)
    np.testing.assert_allclose(data.times, fine.times[::2], rtol=1e-6)


def test_a_foreign_file_that_fits_is_opened_by_its_path_alone(fine: Trajectories, tmp_path: Path) -> None:
    path = tmp_path / "well.h5"
    write_well(path, fine, FINE)
    data = open_trajectories(str(path), FINE)
    np.testing.assert_array_equal(data.frames, fine.frames.astype(np.float32).astype(np.float64))


def test_named_arrays_are_opened_with_the_roles_of_their_axes(fine: Trajectories, tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    x = (np.arange(32) + 0.5) / 32
    np.savez(path, u=fine.frames[:, :, 0], x=x, t=fine.times, params=fine.params, parameter_names=np.array(["nu"]))
    source = DataSource(path, axes=["simulation", "time", "x"], **RESTRICTED)
    data = open_trajectories(source, COARSE)
    np.testing.assert_allclose(data.frames, means(fine), atol=1e-6)
    assert metadata_of(source, COARSE).dt == pytest.approx(0.1)
    renamed = DataSource(path, axes=["simulation", "time", "x"], channels={"u": "w"}, **RESTRICTED)
    with pytest.raises(DataError, match=r"channels \(w\), but solver 'coarse' takes \(u\)"):
        open_trajectories(renamed, COARSE)


def test_files_of_this_package_may_be_restricted_too(fine: Trajectories, tmp_path: Path) -> None:
    path = tmp_path / "own.h5"
    trajectories.save(path, fine, FINE)
    assert layout_of(DataSource(path)) == "deepzero-sim"
    np.testing.assert_allclose(open_trajectories(DataSource(path, **RESTRICTED), COARSE).frames, means(fine), atol=1e-6)
    np.testing.assert_array_equal(open_trajectories(path, FINE).frames, fine.frames)


def test_staggered_files_of_this_package_are_restricted_face_by_face(tmp_path: Path) -> None:
    spec, coarse = dz.solvers.WakeFlow(16).spec, dz.solvers.WakeFlow(8).spec
    frames = np.random.default_rng(1).normal(size=(1, 2, *spec.state_shape)).astype(np.float32) * spec.active()
    own = Trajectories(frames, np.array([[100.0]], dtype=np.float32), spec.active())
    trajectories.save(tmp_path / "wake.h5", own, spec)
    data = open_trajectories(DataSource(tmp_path / "wake.h5", restrict="face_mean"), coarse)
    np.testing.assert_allclose(data.frames[0], dz.solvers.wake.downsample(frames[0].astype(float), 2), atol=1e-6)


def test_trajectories_are_held_to_the_solver(fine: Trajectories) -> None:
    assert open_trajectories(fine, FINE) is fine
    with pytest.raises(DataError, match="holds states of shape"):
        open_trajectories(fine, COARSE)


def test_a_function_of_the_user_s_is_called_for_frames_of_a_file(fine: Trajectories, tmp_path: Path) -> None:
    write_well(tmp_path / "well.h5", fine, FINE)
    (tmp_path / "mine.py").write_text("def restrict(states, spec):\n    return states[:, :, 1::4] * 2\n")
    data = open_trajectories(DataSource(tmp_path / "well.h5", restrict=f"{tmp_path}/mine.py:restrict"), COARSE)
    np.testing.assert_allclose(data.frames, 2 * fine.frames[:, ::2, :, 1::4], rtol=1e-6)


def cut(path: Path) -> Path:
    """Cut a file short."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def test_a_file_that_was_cut_short_is_refused_in_a_sentence(fine: Trajectories, tmp_path: Path) -> None:
    write_well(tmp_path / "well.h5", fine, FINE)
    np.savez(tmp_path / "arrays.npz", u=fine.frames)
    for name in ("well.h5", "arrays.npz"):
        with pytest.raises(DataError, match="cannot be read") as refused:
            open_trajectories(cut(tmp_path / name), FINE)
        assert "\n" not in str(refused.value)


def test_another_layout_than_claimed_is_refused_in_a_sentence(fine: Trajectories, tmp_path: Path) -> None:
    write_well(tmp_path / "well.h5", fine, FINE)
    for layout in ("pdebench", "npz", "matlab", "npy", "solver-in-the-loop"):
        with pytest.raises(DeepZeroError) as refused:
            open_trajectories(DataSource(tmp_path / "well.h5", format=layout), FINE)
        assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match="did you mean 'well'"):
        open_trajectories(DataSource(tmp_path / "well.h5", format="wel"), FINE)


def test_an_unknown_file_is_told_what_is_known_and_how_to_get_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("some notes")
    with pytest.raises(DataError, match=r"expected well, pdebench, .*deepzero-sim generate.*deepzero-sim convert"):
        open_trajectories(tmp_path / "notes.txt", FINE)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"folder without data .*deepzero-sim convert"):
        open_trajectories(tmp_path / "folder", FINE)
    with pytest.raises(DataError, match="there is none: run 'deepzero-sim generate' or check the path"):
        open_trajectories(tmp_path / "nothing.h5", FINE)


def test_frames_that_were_never_written_are_refused(fine: Trajectories, tmp_path: Path) -> None:
    write_well(tmp_path / "well.h5", fine, FINE)
    with h5py.File(tmp_path / "well.h5", "r+") as file:
        kept = dict(file["t0_fields/u"].attrs)
        del file["t0_fields/u"]
        file["t0_fields"].create_dataset("u", (2, 7, 32), "f4", chunks=(1, 1, 32))
        file["t0_fields/u"].attrs.update(kept)
    with pytest.raises(DataError, match="never written"):
        open_trajectories(tmp_path / "well.h5", FINE)


def test_frames_from_a_solver_and_from_its_foreign_file_train_alike(tmp_path: Path) -> None:
    """A batch is the same, bit for bit, whatever file it comes from."""
    solver = Burgers()
    states = initial_states(2)
    frames = [states]
    for _ in range(4):
        frames.append(solver.step(frames[-1]))
    data = Trajectories(np.stack(frames, axis=1))
    trajectories.save(tmp_path / "own.h5", data, solver.spec)
    np.save(tmp_path / "foreign.npy", data.frames)
    roles = ["simulation", "time", "channel", *(f"axis_{i}" for i in range(data.frames.ndim - 3))]
    foreign = open_trajectories(DataSource(tmp_path / "foreign.npy", axes=roles, dt=solver.spec.dt), solver.spec)
    assert foreign.digest() == open_trajectories(tmp_path / "own.h5", solver.spec).digest()
