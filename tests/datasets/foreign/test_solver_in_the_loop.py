"""Folders of Solver-in-the-Loop, as PhiFlow 1.5 writes them: components x, y over axes (y, x), staggered with padding."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import cut_short, refuse

from deepzero_sim.datasets.foreign import ReadingOptions, detect, read_recording, solver_in_the_loop


def write_zipped_array(path: Path, array: np.ndarray) -> None:
    """Write as PhiFlow 1.5.1 does: no batch axis, components in the order x, y, z."""
    np.savez_compressed(path, array[0][..., ::-1] if array.shape[-1] > 1 else array[0])


def velocity(simulation: int, frame: int) -> dict[str, np.ndarray]:
    """Make components on their own faces: y on (5, 3), x on (4, 4)."""
    base = 1000 * simulation + 100 * frame
    return {
        "y": base + np.arange(15.0, dtype=np.float32).reshape(5, 3),
        "x": -base - np.arange(16.0, dtype=np.float32).reshape(4, 4),
    }


def scenes(folder: Path, simulations: int = 2, first: int = 3, frames: int = 4, settings: bool = True) -> Path:
    for simulation in range(simulations):
        scene = folder / f"sim_{simulation:06d}"
        scene.mkdir(parents=True)
        for frame in range(first, first + frames):
            parts = velocity(simulation, frame)
            staggered = np.zeros((1, 5, 4, 2), np.float32)  # components y, x, as they are in memory
            staggered[0, :, :3, 0], staggered[0, :4, :, 1] = parts["y"], parts["x"]
            write_zipped_array(scene / f"velo_{frame:06d}.npz", staggered)
            density = np.full((1, 4, 3, 1), 10 * simulation + frame, np.float32)
            write_zipped_array(scene / f"dens_{frame:06d}.npz", density)
        if settings:
            described = {"re": 1e5 * (simulation + 1), "res": 3, "len": 6, "dt": 0.5, "output": "x", "thumb": True}
            (scene / "params.json").write_text(json.dumps(described))
    return folder


def test_staggered_components_lie_where_they_were(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "set")
    recording = read_recording(folder)
    assert detect(folder) == "solver-in-the-loop" and recording.axes == ("y", "x")
    assert recording.channels == ("velocity_x", "velocity_y", "density") and recording.frames.shape == (2, 4, 3, 5, 4)
    frame = recording.frames[1, 2]
    assert np.array_equal(frame[0, :4, :], velocity(1, 5)["x"]) and (frame[0, 4] == 0).all()
    assert np.array_equal(frame[1, :, :3], velocity(1, 5)["y"]) and (frame[1, :, 3] == 0).all()
    assert (frame[2, :4, :3] == 15).all() and recording.mask is not None
    assert recording.mask.sum(axis=(1, 2)).tolist() == [16, 15, 12]
    assert recording.offsets == ((0.5, 0.0), (0.0, 0.5), (0.5, 0.5))


def test_times_positions_and_parameters_come_from_the_settings(tmp_path: Path) -> None:
    recording = read_recording(scenes(tmp_path / "set"))
    assert recording.times is not None and np.allclose(recording.times, [1.5, 2.0, 2.5, 3.0])
    assert recording.parameters == ("re", "res", "len") and recording.params[:, 0].tolist() == [1e5, 2e5]
    along_x = recording.positions(1, 1)
    assert along_x is not None and np.allclose(along_x, [1, 3, 5, 7])


def test_without_settings_the_time_step_has_to_be_named(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "set", settings=False)
    recording = read_recording(folder)
    assert recording.times is None and any("states no time step: name dt" in note for note in recording.notes)
    timed = read_recording(folder, ReadingOptions(dt=2.0))
    assert timed.times is not None and timed.times.tolist() == [6, 8, 10, 12]


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    folder = scenes(tmp_path / "set")
    (folder / "sim_000000" / "params.pickle").write_bytes(pickle.dumps(Trap()))
    recording = read_recording(folder)
    assert any("params.pickle was not opened" in note for note in recording.notes) and not (tmp_path / "sprung").exists()


def test_velocity_alone_is_staggered(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "set")
    for path in folder.glob("*/dens_*.npz"):
        path.unlink()
    recording = read_recording(folder, ReadingOptions(channels=["velocity_y", "velocity_x"]))
    assert recording.channels == ("velocity_y", "velocity_x") and recording.offsets == ((0.0, 0.5), (0.5, 0.0))
    assert np.array_equal(recording.frames[1, 0][0, :, :3], velocity(1, 3)["y"])


def test_one_simulation_can_be_named_itself(tmp_path: Path) -> None:
    recording = read_recording(scenes(tmp_path / "set") / "sim_000001")
    assert recording.frames.shape[0] == 1 and recording.params[0, 0] == 2e5


def test_only_the_frames_that_are_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = read_recording(scenes(tmp_path / "set"))
    read: list[str] = []
    load = solver_in_the_loop.load_scene_array
    monkeypatch.setattr(solver_in_the_loop, "load_scene_array", lambda path: read.append(path.name) or load(path))
    recording.frames[0, 1:3]
    assert sorted(read) == ["dens_000004.npz", "dens_000005.npz", "velo_000004.npz", "velo_000005.npz"]


def _frame(folder: Path, name: str = "velo_000004.npz") -> Path:
    return folder / "sim_000001" / name


FAULTS: dict[str, tuple[Any, str]] = {
    "a frame is missing": (lambda f: _frame(f).unlink(), "has 3 frames of velo, expected those of"),
    "a frame is missing everywhere": (
        lambda f: [p.unlink() for p in f.glob("*/*_000004.npz")],
        "has frames 3, 5, 6: some between are missing",
    ),
    "a field is missing": (lambda f: [p.unlink() for p in f.glob("sim_000001/dens*")], "must have the same fields"),
    "settings that are no JSON": (lambda f: (f / "sim_000001/params.json").write_text("{"), "cannot be read as JSON"),
    "settings that are a list": (lambda f: (f / "sim_000001/params.json").write_text("[1]"), "must hold an object, not list"),
    "the first frame is cut short": (lambda f: cut_short(_frame(f / "../set", "../sim_000000/velo_000003.npz")), "as a frame"),
    "another release of PhiFlow": (
        lambda f: np.savez(f / "sim_000000/velo_000003.npz", field_type="StaggeredGrid", data=np.zeros((5, 4, 2))),
        "was written by PhiFlow 2 or later",
    ),
    "text": (lambda f: np.savez(f / "sim_000000/velo_000003.npz", np.full((5, 4, 2), "a")), "expected real numbers"),
    "another number of components": (
        lambda f: np.savez(f / "sim_000000/velo_000003.npz", np.zeros((5, 4, 5))),
        "one component or one an axis",
    ),
    "grids that do not belong together": (
        lambda f: np.savez(f / "sim_000000/dens_000003.npz", np.zeros((9, 9, 1))),
        "staggered vectors have one point more",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_not_whole_is_refused_in_a_sentence(tmp_path: Path, fault: str) -> None:
    folder = scenes(tmp_path / "set")
    FAULTS[fault][0](folder)
    refuse(folder, FAULTS[fault][1])


LATER: dict[str, tuple[Any, str]] = {
    "cut short": (cut_short, "cannot be read as a frame of a simulation"),
    "of another shape": (lambda p: np.savez(p, np.zeros((6, 4, 2), np.float32)), "all frames must be alike"),
    "pickled": (lambda p: np.savez(p, np.array([{}], dtype=object)), "cannot be read as a frame"),
    "taken away": (lambda p: p.unlink(), "cannot be read as a frame"),
}


@pytest.mark.parametrize("fault", LATER)
def test_damage_that_is_met_when_a_frame_is_read_is_one_sentence(tmp_path: Path, fault: str) -> None:
    folder = scenes(tmp_path / "set")
    recording = read_recording(folder)
    LATER[fault][0](_frame(folder))
    assert recording.frames[1, 0].shape == (3, 5, 4)
    with pytest.raises(Exception, match=LATER[fault][1]) as error:
        recording.frames[1, 1]
    assert type(error.value).__name__ == "DataError" and "velo_000004" in str(error.value)
