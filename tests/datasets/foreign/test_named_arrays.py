"""Arrays that have names but no axes, in every format that has such: parameters, coordinates, and the axis of simulations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from recordings import numbers, refuse
from scipy.io import savemat

import deepzero_sim as dz
from deepzero_sim.datasets.conversion import convert
from deepzero_sim.datasets.foreign import ReadingOptions, read_recording
from deepzero_sim.datasets.opening import open_trajectories
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.errors import ConfigError, DataError

#: Function that writes named arrays to a file.
Save = Callable[[Path, dict[str, Any]], None]

X, T = (np.arange(8) + 0.5) / 8, 0.5 * np.arange(6)

SPEC = dz.SolverSpec(
    name="channel", state_shape=(2, 8), dt=0.5, channels=("h", "q"), parameters=("Cd",), axes=("x",), spacing=(1 / 8,)
)


def save_hdf5(path: Path, arrays: dict[str, Any]) -> None:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


SAVE: dict[str, Save] = {"npz": lambda path, arrays: np.savez(path, **arrays), "mat": savemat, "h5": save_hdf5}


@pytest.fixture(params=SAVE)
def ending(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def one(**more: Any) -> dict[str, Any]:
    """One simulation, as people of MATLAB have it: x by t."""
    return {"h": numbers(8, 6), "q": -numbers(8, 6), "x": X, "t": T, **more}


def many(**more: Any) -> dict[str, Any]:
    return {"h": numbers(5, 6, 8), "q": -numbers(5, 6, 8), "x": X, "t": T, **more}


def folder(path: Path, ending: str, runs: list[dict[str, Any]]) -> Path:
    path.mkdir()
    for number, arrays in enumerate(runs, start=9):
        SAVE[ending](path / f"run{number}.{ending}", arrays)
    return path


def test_a_number_in_each_file_is_a_parameter(tmp_path: Path, ending: str) -> None:
    path = folder(tmp_path / "runs", ending, [one(Cd=0.3, nx=8), one(Cd=0.2, nx=8), one(Cd=0.1, nx=8)])
    data = open_trajectories(path, SPEC)
    assert np.allclose(data.params[:, 0], [0.3, 0.2, 0.1]) and np.array_equal(data.frames[1, 4, 1], -numbers(8, 6)[:, 4])
    assert any("does not take are left out: nx" in note for note in data.notes)
    drag = SPEC.__class__(**{**vars(SPEC), "parameters": ("drag",)})
    assert np.allclose(open_trajectories(DataSource(path, parameters={"drag": "Cd"}), drag).params[:, 0], [0.3, 0.2, 0.1])


def test_one_number_for_each_simulation_is_a_parameter(tmp_path: Path, ending: str) -> None:
    values = [0.3, 0.1, 0.2, 0.5, 0.4]
    SAVE[ending](path := tmp_path / f"all.{ending}", many(Cd=np.array(values), level=2.0))
    data = open_trajectories(path, SPEC)
    assert np.allclose(data.params[:, 0], values) and np.array_equal(data.frames[3, 2, 0], numbers(5, 6, 8)[3, 2])
    assert any("axis of length 5 is taken for that of simulations" in note for note in data.notes)
    assert read_recording(path).params[:, read_recording(path).parameters.index("level")].tolist() == [2.0] * 5


def test_numbers_that_not_all_files_have_in_one_shape_are_no_parameters(tmp_path: Path, ending: str) -> None:
    path = folder(tmp_path / "runs", ending, [one(Cd=0.3, nu=1.0), one(Cd=[0.2, 0.1, 0.4], nu=2.0)])
    with pytest.raises(DataError, match=r"no parameter Cd, only \(nu\), .* \(Cd was left out, as .*run10.* has no Cd of one n"):
        open_trajectories(path, SPEC)
    assert read_recording(path).params.tolist() == [[1.0], [2.0]]
    given = open_trajectories(DataSource(path, parameters={"Cd": [0.3, 0.2]}), SPEC)
    assert np.allclose(given.params[:, 0], [0.3, 0.2])


def test_a_number_that_is_not_finite_is_said_where_it_is_needed(tmp_path: Path, ending: str) -> None:
    SAVE[ending](path := tmp_path / f"a.{ending}", one(Cd=np.nan))
    assert read_recording(path).parameters == ()
    with pytest.raises(DataError, match=r"has no parameter Cd, .* \(Cd is not finite and was left out\)"):
        open_trajectories(path, SPEC)


def test_a_list_as_long_as_another_axis_is_not_guessed(tmp_path: Path, ending: str) -> None:
    arrays = {"h": numbers(6, 6, 8), "q": -numbers(6, 6, 8), "x": X, "t": T, "Cd": np.linspace(0.1, 0.6, 6)}
    SAVE[ending](path := tmp_path / f"a.{ending}", arrays)
    refuse(path, "cannot be told from their lengths")
    with pytest.raises(DataError, match=r"\(Cd was left out, as there are as many simulations as points along time: give par"):
        open_trajectories(DataSource(path, axes=["simulation", "time", "x"]), SPEC)


def test_a_name_of_no_parameter_is_refused(tmp_path: Path, ending: str) -> None:
    SAVE[ending](path := tmp_path / f"a.{ending}", one(Cd=0.3))
    with pytest.raises(DataError, match=r"no parameter cd, only \(Cd\).*, which parameters.Cd names: a parameter of a file"):
        open_trajectories(DataSource(path, parameters={"Cd": "cd"}), SPEC)
    with pytest.raises(
        ConfigError, match="has no parameter cd, which parameters names: it has Cd: a parameter of a file is one number"
    ):
        convert(DataSource(path, parameters={"drag": "cd"}), tmp_path / "made.h5")
    assert convert(DataSource(path, parameters={"drag": "Cd"}), tmp_path / "made.h5").spec.parameters == ("drag",)


def test_numbers_and_lists_are_no_fields(tmp_path: Path, ending: str) -> None:
    SAVE[ending](path := tmp_path / f"a.{ending}", one(Cd=[[0.3]], bed=np.zeros((8, 1)), author="me"))
    recording = read_recording(path)
    assert recording.channels == ("h", "q") and recording.parameters == ("Cd",) and recording.frames.shape == (1, 6, 2, 8)
    assert "bed" in " ".join(recording.notes)
    SAVE[ending](other := tmp_path / f"b.{ending}", {**one(), "w": numbers(4, 3)})
    refuse(other, r"several fields of different shapes, h \(8, 6\), q \(8, 6\), w \(4, 3\): choose by channels")


NOT_SIMULATIONS = {
    "one field without a list": {"h": numbers(5, 6, 8), "x": X, "t": T},
    "as few as components": {"h": numbers(3, 6, 8), "q": numbers(3, 6, 8), "x": X, "t": T},
    "between the others": {"h": numbers(6, 5, 8), "q": numbers(6, 5, 8), "x": X, "t": T},
    "as long as positions": {"h": numbers(5, 6, 8), "q": numbers(5, 6, 8), "x": X, "t": T, "lat": np.arange(5.0)},
    "two axes are left": {"h": numbers(5, 6, 8), "q": numbers(5, 6, 8), "t": T},
    "another number of simulations": many(params=np.ones((4, 1))),
    "x and t are as long": {"h": numbers(5, 6, 6), "q": numbers(5, 6, 6), "x": np.arange(6.0), "t": T},
}


@pytest.mark.parametrize("case", NOT_SIMULATIONS)
def test_an_axis_that_may_be_another_is_not_taken_for_simulations(tmp_path: Path, case: str) -> None:
    np.savez(tmp_path / "a.npz", **NOT_SIMULATIONS[case])
    refuse(tmp_path / "a.npz", "cannot be told from their lengths")


def test_simulations_may_be_last(tmp_path: Path, ending: str) -> None:
    SAVE[ending](path := tmp_path / f"a.{ending}", {"h": numbers(8, 6, 5), "Cd": np.arange(5.0), "x": X, "t": T})
    recording = read_recording(path)
    assert recording.params.tolist() == [[0], [1], [2], [3], [4]]
    assert np.array_equal(recording.frames[3, 2][0], numbers(8, 6, 5)[:, 2, 3])


def test_axes_that_do_not_fit_are_corrected_by_an_example(tmp_path: Path, ending: str) -> None:
    SAVE[ending](path := tmp_path / f"a.{ending}", one())
    refuse(path, r"8 frames, but 6 times: x is as long .* \[time, x\], such as \[x, time\]", ReadingOptions(axes=["time", "x"]))
    named = ReadingOptions(axes=["simulation", "time", "x"], channels=["h", "q"])
    refuse(path, r"names 3 axes, but h of .* has 2, .*: name each of them, as in \[time, x\] if a file is one", named)
