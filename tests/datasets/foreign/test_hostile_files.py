"""Foreign files that are damaged on purpose, contradict themselves, or are no files at all."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from deepzero_sim.coupling.evaluation import evaluate
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.datasets.conversion import convert
from deepzero_sim.datasets.foreign import FORMATS, ReadingOptions, read_recording
from deepzero_sim.datasets.opening import open_trajectories
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DataError, InvalidStateError
from deepzero_sim.models.corrector import NoCorrection
from deepzero_sim.solver.contract import as_solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.validation import check_states

AXES = ["simulation", "time", "x"]
VALUES: NDArray[Any] = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
SPEC = SolverSpec(name="line", state_shape=(1, 6), dt=0.5, dtype="float32", channels=("u",))


def save(path: Path, **over: Any) -> Path:
    np.savez(path, **{"u": VALUES, "t": 0.5 * np.arange(4), "x": np.arange(6.0), **over})
    return path


def read(path: Path, **words: Any) -> NDArray[Any]:
    return np.asarray(open_trajectories(DataSource(path, axes=AXES, **words), SPEC).frames[:])


@pytest.mark.parametrize("layout", [*FORMATS, None])
def test_a_pipe_is_never_opened_whatever_format_is_named(tmp_path: Path, layout: str | None) -> None:
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"pipe|No group found"):
        read_recording(tmp_path / "a.npz", ReadingOptions(format=layout))


def test_a_pipe_among_the_files_of_a_folder_is_never_opened(tmp_path: Path) -> None:
    save(tmp_path / "run_1.npz")
    os.mkfifo(tmp_path / "run_2.npz")
    with pytest.raises(DataError, match=r"run_2.npz cannot be read .* named pipe"):
        read(tmp_path)


@pytest.mark.parametrize("path", [Path("x" * 5000), Path("/proc/self/mem")])
def test_paths_that_the_system_refuses_are_one_sentence(path: Path) -> None:
    with pytest.raises(DataError):
        read(path)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"x": np.arange(6) * 1e-9}, {"x": np.arange(6) * 2e-9}),
        ({"t": np.arange(4) * 1e-9}, {"t": np.arange(4) * 2e-9}),
        ({"t": 1e7 + np.arange(4.0)}, {"t": 1e7 + 2 * np.arange(4.0)}),
    ],
)
def test_files_of_a_set_differ_however_small_or_late_their_positions_are(tmp_path: Path, one: Any, two: Any) -> None:
    save(tmp_path / "run_1.npz", **one)
    save(tmp_path / "run_2.npz", **two)
    with pytest.raises(DataError, match="are to be simulations of one set"):
        read(tmp_path)


def test_files_of_a_set_may_differ_by_the_rounding_of_float32(tmp_path: Path) -> None:
    late = 1e3 + 0.5 * np.arange(4)
    save(tmp_path / "run_1.npz", t=late)
    save(tmp_path / "run_2.npz", t=late.astype(np.float32))
    assert read(tmp_path).shape == (4, 4, 1, 6)


@pytest.mark.parametrize("missing", [1e20, float("nan"), -999.0, 300.5])
def test_a_number_for_missing_values_that_the_type_does_not_have_marks_none(tmp_path: Path, missing: float) -> None:
    whole = np.arange(48, dtype=np.int16).reshape(2, 4, 6) + 290
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["u"], file["t"] = whole, 0.5 * np.arange(4)
        file["u"].attrs["_FillValue"] = missing
    np.testing.assert_array_equal(read(tmp_path / "a.h5")[:, :, 0], whole)


def test_a_dt_beside_times_that_say_otherwise_is_said(tmp_path: Path) -> None:
    recording = read_recording(save(tmp_path / "a.npz", dt=7.0), ReadingOptions(axes=AXES))
    assert any("dt of" in note and "7.0" in note for note in recording.notes)
    recording = read_recording(save(tmp_path / "a.npz", dt=0.5), ReadingOptions(axes=AXES))
    assert not recording.notes


def test_a_missing_value_is_placed_by_the_numbers_of_the_file(tmp_path: Path) -> None:
    values = np.repeat(VALUES, 2, axis=0)
    values[3, 2, 5] = np.nan
    path = save(tmp_path / "a.npz", u=values, t=0.25 * np.arange(4))
    with pytest.raises(DataError, match=r"simulation 3, frame 2, u, point \(5\)"):
        read(path, simulations=[0, 3])


@pytest.mark.parametrize(
    "words",
    [
        {"simulations": 2},
        {"every": "2"},
        {"every": 1.5},
        {"dt": "x"},
        {"missing": "keep"},
        {"parameters": {"nu": 10**400}},
        {"scale": {"u": 10**400}},
    ],
)
def test_words_on_data_of_a_wrong_type_are_refused_from_python_too(words: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(words))):
        DataSource(Path("a.npz"), **words)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_bytes_behind_an_array_are_refused(tmp_path: Path, compression: int) -> None:
    buffer = io.BytesIO()
    np.save(buffer, VALUES)
    np.save(buffer, VALUES)
    with zipfile.ZipFile(save(tmp_path / "a.npz", u=VALUES[0]), "w", compression) as archive:
        archive.writestr("u.npy", buffer.getvalue())
    (tmp_path / "a.npy").write_bytes(buffer.getvalue())
    for name in ("a.npz", "a.npy"):
        with pytest.raises(DataError, match="bytes lie behind the array"):
            read_recording(tmp_path / name, ReadingOptions(axes=AXES))


def test_an_array_that_is_overwritten_in_its_shape_is_not_read_on(tmp_path: Path) -> None:
    np.save(tmp_path / "u.npy", VALUES)
    frames = read_recording(tmp_path / "u.npy", ReadingOptions(axes=AXES)).frames
    np.save(tmp_path / "u.npy", VALUES + 1)
    os.utime(tmp_path / "u.npy", ns=(1, 1))
    with pytest.raises(DataError, match="was changed or taken away"):
        frames[0, 0]


def test_numbered_archives_are_simulations_however_many_there_are(tmp_path: Path) -> None:
    for number in range(999, 1002):
        save(tmp_path / f"run_{number}.npz")
    assert read(tmp_path).shape == (6, 4, 1, 6)


@pytest.mark.parametrize("break_it", [lambda group: group.move("0001", "0003")])
def test_groups_of_pdebench_that_are_not_there_are_said(tmp_path: Path, break_it: Callable[[h5py.File], None]) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("0000", "0001", "0002"):
            file[f"{name}/data"] = VALUES[0][..., None]
            file[f"{name}/grid/x"], file[f"{name}/grid/t"] = np.arange(6.0), 0.5 * np.arange(4)
        break_it(file)
    assert any("none of number 1" in note for note in read_recording(tmp_path / "a.h5").notes)


FUNCTIONS = """
import numpy as np
calls = []
def masked(states, spec): return np.ma.masked_array(states, states > 0)
def large(states, spec): return states.astype("float64") * 1e300
def random(states, spec):
    calls.append(0)
    return states + len(calls)
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [("masked", "not MaskedArray"), ("large", "must return numbers that float32 has"), ("random", "two calls gave different")],
)
def test_functions_that_restrict_to_what_is_no_state_are_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "restrict.py").write_text(FUNCTIONS)
    with pytest.raises(DataError, match=words):
        read(save(tmp_path / "a.npz"), restrict=f"{tmp_path / 'restrict.py'}:{name}")


def test_axes_that_are_renamed_to_one_name_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["tensor"] = np.zeros((1, 2, 3, 4))
        file["x-coordinate"], file["y-coordinate"] = np.arange(3.0), np.arange(4.0)
    spec = SolverSpec(name="plane", state_shape=(1, 3, 4), dt=1.0, axes=("y", "x"))
    with pytest.raises(DataError, match=r"\['y'\] twice"):
        open_trajectories(DataSource(tmp_path / "a.h5", axes={"x": "y"}), spec)


def netcdf(path: Path, times: NDArray[Any], **attributes: Any) -> Path:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    whole = np.arange(48, dtype=np.int16).reshape(2, 4, 6)
    fields = {"u": (("simulation", "time", "x"), whole, attributes)}
    xarray.Dataset(fields, coords={"time": times}).to_netcdf(path, engine="netcdf4")
    return path


def test_times_that_are_text_are_no_missing_times(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"times of .* must be a list of numbers"):
        read_recording(netcdf(tmp_path / "a.nc", np.array(list("abcd"))))


def test_whole_numbers_outside_of_their_valid_range_or_never_written_are_missing(tmp_path: Path) -> None:
    frames = read_recording(netcdf(tmp_path / "a.nc", np.arange(4.0), valid_max=np.int16(40))).frames
    assert np.isnan(frames[:]).sum() == 7
    library = pytest.importorskip("netCDF4")
    with library.Dataset(tmp_path / "b.nc", "w") as file:
        file.createDimension("time", 4)
        file.createDimension("x", 6)
        file.createVariable("time", "f8", ("time",))[:] = np.arange(4.0)
        file.createVariable("u", "i4", ("time", "x"))[:3] = 1
    assert np.isnan(read_recording(tmp_path / "b.nc").frames[:]).sum() == 6


def scenes(folder: Path, steps: dict[str, float]) -> Path:
    for name, dt in steps.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "params.json").write_text(f'{{"dt": {dt}}}')
        for frame in range(2):
            np.savez(folder / name / f"dens_{frame:06d}.npz", np.zeros((1, 3, 4, 1)))
    return folder


@pytest.mark.parametrize(
    ("steps", "words"),
    [({"sim_000000": 0.1, "sim_000001": 0.2}, "different time steps"), ({"sim_000000": 1, "sim_00000": 1}, "two folders of")],
)
def test_scenes_that_contradict_each_other_are_refused(tmp_path: Path, steps: dict[str, float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_recording(scenes(tmp_path / "set", steps))


def test_scenes_that_are_not_there_are_said(tmp_path: Path) -> None:
    notes = read_recording(scenes(tmp_path / "set", {"sim_000000": 1, "sim_000002": 1})).notes
    assert any("has no simulation 1" in note for note in notes)


def test_offsets_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="offsets of channels that are not finite"):
        Recording(frames=np.zeros((1, 2, 1, 3)), channels=("u",), name="a", offsets=((float("nan"),),))


def test_masked_arrays_are_no_numbers_but_may_mask_nothing() -> None:
    masked = np.ma.masked_greater(VALUES[:, :, None], 1.0)
    with pytest.raises(DataError, match="not a masked array"):
        Trajectories(masked)
    with pytest.raises(DataError, match="not a masked array"):
        evaluate(SolverLoop(as_solver(lambda states: states, SPEC), NoCorrection()), masked)
    assert type(Trajectories(np.ma.masked_array(VALUES[:, :, None])).frames) is np.ndarray
    with pytest.raises(InvalidStateError, match="not a masked array"):
        check_states(SPEC, masked[0], "what solver 'line' returned", "look into it")


@pytest.mark.parametrize(
    ("name", "words"), [("a\0b", "can be no path"), ("x" * 300, "out of reach"), ("a.npz", "there already")]
)
def test_an_output_that_nothing_can_be_written_to_is_said_as_it_is(tmp_path: Path, name: str, words: str) -> None:
    source = DataSource(save(tmp_path / "a.npz"), axes=AXES)
    with pytest.raises(DataError, match=words):
        convert(source, tmp_path / name)
