"""MATLAB's files, old and new: the same arrays in both, and the layout of operator learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from recordings import cut_short, numbers, refuse
from scipy.io import savemat

from deepzero_sim.datasets.foreign import ReadingOptions, detect, read_recording


def save(path: Path, arrays: dict[str, Any], kind: str) -> Path:
    """Write as MATLAB does: its version 7.3 is HDF5 behind 512 bytes of text, with axes in the opposite order."""
    if kind == "5":
        savemat(path, arrays)
        return path
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            values = np.asarray(values)  # noqa: PLW2901
            file[name] = (values if values.ndim > 1 else np.atleast_2d(values)).T
            file[name].attrs["MATLAB_class"] = np.bytes_("single" if values.dtype == np.float32 else "double")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


@pytest.fixture(params=["5", "7.3"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_operator_learning_is_known(tmp_path: Path, kind: str) -> None:
    arrays = {"u": numbers(3, 4, 5, 6), "a": numbers(3, 4, 5), "t": np.arange(1, 7.0)[None]}
    path = save(tmp_path / "ns", arrays, kind)
    assert detect(path) == "matlab"
    recording = read_recording(path)
    assert recording.frames.shape == (3, 6, 1, 4, 5) and recording.axes == ("x", "y") and recording.channels == ("u",)
    assert np.array_equal(recording.frames[2, 3][0], numbers(3, 4, 5, 6)[2, :, :, 3])
    assert recording.times is not None and recording.times.tolist() == [1, 2, 3, 4, 5, 6]
    assert any("a was left out" in note for note in recording.notes)


def test_named_arrays_take_the_axes_that_the_user_names(tmp_path: Path, kind: str) -> None:
    arrays = {"input": numbers(3, 5), "output": numbers(3, 5, 6), "x": np.arange(5.0), "tspan": np.arange(3.0)}
    path = save(tmp_path / "kdv.mat", arrays, kind)
    refuse(path, r"cannot be told from their lengths \(3, 5, 6\)")
    recording = read_recording(path, ReadingOptions(axes=["simulation", "x", "time"], channels={"output": "u"}))
    assert recording.frames.shape == (3, 6, 1, 5) and recording.channels == ("u",)
    assert np.array_equal(recording.frames[1, 4][0], numbers(3, 5, 6)[1, :, 4])
    assert recording.coordinates[0] is not None and recording.coordinates[0].tolist() == [0, 1, 2, 3, 4]
    both = read_recording(path, ReadingOptions(axes=["simulation", "x", "time"], channels=["output", "input"]))
    assert np.array_equal(both.frames[2, 5][1], numbers(3, 5)[2])


def test_rows_and_columns_are_lists(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / "a.mat", {"uu": numbers(5, 6), "x": np.arange(5.0)[:, None], "t": np.arange(6.0)[None]}, kind)
    recording = read_recording(path)
    assert recording.axes == ("x",) and recording.frames.shape == (1, 6, 1, 5)
    assert np.array_equal(recording.frames[0, 2][0], numbers(5, 6)[:, 2])


def test_whole_numbers_and_truth_values_are_numbers(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.mat", {"u": np.arange(30, dtype=np.int16).reshape(5, 6), "x": np.arange(5), "t": np.arange(6)}, "5"
    )
    assert read_recording(path).frames[0, 3][0].tolist() == [3, 9, 15, 21, 27]


PLAIN = {"u": numbers(50, 60), "x": np.arange(50), "t": np.arange(60)}

FAULTS: dict[str, tuple[Any, str]] = {
    "text": (lambda p, k: savemat(p, {"u": "abc"}), "holds no array of numbers, only u \\(char\\)"),
    "a cell": (lambda p, k: savemat(p, {"u": np.array([[1, "a"]], dtype=object)}), "only u \\(cell\\)"),
    "a struct": (lambda p, k: savemat(p, {"u": {"a": 1.0}}), "only u \\(struct\\)"),
    "cut short": (lambda p, k: (save(p, PLAIN, k), cut_short(p)), "cannot be read as"),
    "its last byte is gone": (lambda p, k: (save(p, PLAIN, "5"), cut_short(p, 0.9999)), "cannot be read as .* was cut short"),
    "cut in its header": (lambda p, k: (save(p, {"u": numbers(5, 6)}, "5"), cut_short(p, 0.3)), "cannot be read as"),
    "complex numbers": (
        lambda p, k: savemat(p, {"u": np.ones((5, 6)) * 1j, "x": np.arange(5), "t": np.arange(6)}),
        "must hold real numbers",
    ),
    "missing times": (lambda p, k: save(p, {"u": numbers(5, 6), "x": np.arange(5)}, k), "cannot be told from their lengths"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_of_another_kind_is_refused_in_a_sentence(tmp_path: Path, fault: str, kind: str) -> None:
    path = tmp_path / "a.mat"
    FAULTS[fault][0](path, kind)
    refuse(path, FAULTS[fault][1], frame=(0, 1))
