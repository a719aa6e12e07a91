"""The Well's layout: files of its own package are read, and what is written is read by its own package and checker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from recordings import change, cut_short, numbers, refuse, replace_dataset

from deepzero_sim.datasets.foreign import ReadingOptions, detect, read_recording, write_well
from deepzero_sim.datasets.foreign.variables import Hdf5Source
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DataError
from deepzero_sim.solver.spec import SolverSpec

SPEC = SolverSpec(
    name="flow",
    state_shape=(3, 4, 5),
    dt=0.5,
    channels=("rho", "v_x", "v_y"),
    channel_units=("kg/m^3", "m/s", "m/s"),
    parameters=("nu",),
    parameter_units=("m^2/s",),
    axes=("x", "y"),
    spacing=(0.25, 0.2),
    offsets=((0.5, 0.5),) * 3,
)


def well_file(path: Path) -> Path:
    """Two trajectories of 6 frames on 4 x 5 points: a scalar, a vector, a tensor, constant fields, scalars of all kinds."""
    with h5py.File(path, "w") as file:
        file.attrs.update(dataset_name="made", grid_type="cartesian", n_spatial_dims=2, n_trajectories=2, nu=0.25)
        file.attrs["simulation_parameters"] = ["nu"]
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = ["x", "y"]
        for name, values in {"time": np.arange(6) * 0.5, "x": np.linspace(0, 3, 4), "y": np.linspace(0, 1, 5)}.items():
            dimensions[name] = values.astype(np.float32)
            dimensions[name].attrs.update(sample_varying=False, time_varying=False)
        boundary = file.create_group("boundary_conditions/x_periodic")
        boundary.attrs.update(associated_dims=["x"], bc_type="PERIODIC", sample_varying=False, time_varying=False)
        boundary.attrs["associated_fields"] = np.array([], dtype=h5py.string_dtype())
        boundary["mask"] = np.array([True, False, False, True])
        wall = file.create_group("boundary_conditions/y_wall")
        wall.attrs.update(associated_dims=["y"], bc_type="WALL", sample_varying=False, time_varying=False)
        wall["mask"] = np.array([True, False, False, False, True])
        scalars = file.create_group("scalars")
        scalars.attrs["field_names"] = ["nu", "reynolds", "clock"]
        for name, (values, sample, time) in {
            "nu": (np.float32(0.25), False, False),
            "reynolds": (np.array([10.0, 20.0], np.float32), True, False),
            "clock": (np.arange(6.0), False, True),
        }.items():
            scalars[name] = values
            scalars[name].attrs.update(sample_varying=sample, time_varying=time)
        fields: dict[str, dict[str, tuple[Any, bool, bool, list[bool]]]] = {
            "t0_fields": {
                "rho": (numbers(2, 6, 4, 5), True, True, [True, True]),
                "height": (numbers(4), False, False, [True, False]),
                "column": (numbers(2, 6, 5, start=7), True, True, [False, True]),
            },
            "t1_fields": {"velocity": (numbers(2, 6, 4, 5, 2, start=1000), True, True, [True, True])},
            "t2_fields": {"stress": (numbers(2, 6, 4, 5, 2, 2, start=5000), True, True, [True, True])},
        }
        for group, own in fields.items():
            file.create_group(group).attrs["field_names"] = list(own)
            for name, (values, sample, time, dims) in own.items():
                file[group][name] = values
                file[group][name].attrs.update(sample_varying=sample, time_varying=time, dim_varying=dims)
        file["t0_fields/rho"].attrs["units"] = "kg/m^3"
    return path


def test_fields_become_channels_with_axes_times_and_parameters(tmp_path: Path) -> None:
    path = well_file(tmp_path / "a.data")
    recording = read_recording(path)
    assert detect(path) == "well"
    assert recording.channels == (
        *("rho", "column", "velocity_x", "velocity_y"),
        *("stress_xx", "stress_xy", "stress_yx", "stress_yy"),
    )
    assert recording.frames.shape == (2, 6, 8, 4, 5) and recording.axes == ("x", "y")
    with h5py.File(path) as file:
        assert np.array_equal(recording.frames[1, 2][0], file["t0_fields/rho"][1, 2])
        assert np.array_equal(recording.frames[1, 2][1], np.broadcast_to(file["t0_fields/column"][1, 2], (4, 5)))
        assert np.array_equal(recording.frames[1, 3][2:4], np.moveaxis(file["t1_fields/velocity"][1, 3], -1, 0))
        assert np.array_equal(recording.frames[0, 5][5], file["t2_fields/stress"][0, 5, :, :, 0, 1])
    assert np.allclose(recording.times, np.arange(6) * 0.5)
    assert recording.coordinates[0] is not None and np.allclose(recording.coordinates[0], [0, 1, 2, 3])
    assert recording.periodic == (True, False)
    assert recording.parameters == ("nu", "reynolds") and np.allclose(recording.params, [[0.25, 10], [0.25, 20]])
    assert recording.channel_units[:2] == ("kg/m^3", "")
    assert recording.attributes == {"dataset_name": "made", "grid_type": "cartesian"}


def test_what_is_left_out_is_said_and_can_be_asked_for(tmp_path: Path) -> None:
    path = well_file(tmp_path / "a.h5")
    notes = " ".join(read_recording(path).notes)
    assert (
        "The scalar clock changes in time and was left out." in notes
        and "height does not change in time and was left out" in notes
    )
    chosen = read_recording(path, ReadingOptions(channels={"velocity": "v", "height": "h", "stress_xy": "s"}))
    assert chosen.channels == ("v_x", "v_y", "h", "s")
    with h5py.File(path) as file:
        expected = np.repeat(file["t0_fields/height"][:][:, None], 5, axis=1)
        assert np.array_equal(chosen.frames[1, 4][2], expected)
        assert np.array_equal(chosen.frames[1, 4][1], file["t1_fields/velocity"][1, 4, :, :, 1])


def test_frames_are_read_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = well_file(tmp_path / "a.h5"), []
    read = Hdf5Source.read
    monkeypatch.setattr(Hdf5Source, "read", lambda self, index: asked.append(v := read(self, index)) or v)
    recording = read_recording(path, ReadingOptions(channels=["rho"]))
    asked.clear()
    frame = recording.frames[1, 4]
    assert frame.shape == (1, 4, 5) and [values.shape for values in asked] == [(1, 4, 5)]


FAULTS: dict[str, tuple[Any, str]] = {
    "a field is gone": (lambda f: f["t0_fields"].__delitem__("rho"), "there is no rho"),
    "another shape than it claims": (
        lambda f: f["t0_fields/rho"].attrs.__setitem__("time_varying", False),
        r"rho has shape \(2, 6, 4, 5\), but its attributes say",
    ),
    "another grid than its dimensions": (
        lambda f: replace_dataset(f, "dimensions/x", np.zeros(3, np.float32)),
        "but the file's dimensions say",
    ),
    "more trajectories than there are": (lambda f: f.attrs.__setitem__("n_trajectories", 3), "dimensions say"),
    "no number of trajectories": (lambda f: f.attrs.__delitem__("n_trajectories"), "n_trajectories must be a number"),
    "text for numbers": (lambda f: replace_dataset(f, "dimensions/time", np.bytes_(["a"] * 6)), "must be a list of numbers"),
    "times that fall": (lambda f: f["dimensions/time"].__setitem__(2, -1.0), "must be finite and rise"),
    "NaN among times": (lambda f: f["dimensions/time"].__setitem__(2, np.nan), "must be finite and rise"),
    "NaN among positions": (lambda f: f["dimensions/x"].__setitem__(2, np.nan), "positions along x .* must be finite"),
    "NaN among parameters": (lambda f: f["scalars/reynolds"].__setitem__(0, np.nan), "parameter reynolds .* not finite"),
    "other axes": (lambda f: f.attrs.__setitem__("n_spatial_dims", 3), "it says that it has 3.0 axes in space"),
    "an attribute is gone": (
        lambda f: f["t0_fields/rho"].attrs.__delitem__("sample_varying"),
        "has no attribute sample_varying",
    ),
    "fields of another file": (
        lambda f: (f["t0_fields"].__delitem__("rho"), f["t0_fields"].__setitem__("rho", h5py.ExternalLink("b.h5", "/rho"))),
        "link to another file",
    ),
    "periodic and not": (
        lambda f: (
            f["boundary_conditions"].copy("y_wall", "x_wall")
            or f["boundary_conditions/x_wall"].attrs.__setitem__("associated_dims", ["x"])
        ),
        "both that x is periodic and that it is not",
    ),
    "times that differ": (
        lambda f: replace_dataset(f, "dimensions/time", np.array([np.arange(6), np.arange(6) * 2.0])),
        "frames at different times",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_contradicts_itself_is_refused_in_a_sentence(tmp_path: Path, fault: str) -> None:
    path = well_file(tmp_path / "a.h5")
    with change(path) as file:
        FAULTS[fault][0](file)
    refuse(path, FAULTS[fault][1])


def test_a_file_cut_short_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = well_file(tmp_path / "a.h5")
    cut_short(path)
    refuse(path, "cannot be read as HDF5")


def test_a_field_that_was_never_written_is_refused(tmp_path: Path) -> None:
    path = well_file(tmp_path / "a.h5")
    with change(path) as file:
        attributes = dict(file["t0_fields/rho"].attrs)
        del file["t0_fields/rho"]
        file["t0_fields"].create_dataset("rho", (2, 6, 4, 5), "f4", chunks=(1, 1, 4, 5))[0] = 1.0
        file["t0_fields/rho"].attrs.update(attributes)
    refuse(path, "6 of 12 chunks of rho were never written")


def test_a_channel_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = well_file(tmp_path / "a.h5")
    refuse(path, r"holds no channel 'velocty_x' \(did you mean 'velocity_x'\?\)", ReadingOptions(channels=["velocty_x"]))
    refuse(path, "must name a field that changes in time", ReadingOptions(channels=["height"]))
    refuse(path, "holds no parameter 'Re'", ReadingOptions(parameters=["Re"]))


def trajectories(generator: np.random.Generator, spec: SolverSpec = SPEC) -> Trajectories:
    frames = generator.normal(size=(2, 7, *spec.state_shape)).astype(np.float32) * spec.active()
    return Trajectories(frames, np.array([[0.1], [0.2]]), spec.active())


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    data, path = trajectories(np.random.default_rng(0)), tmp_path / "b.hdf5"
    write_well(path, data, SPEC, {"x": True, "y": False})
    recording = read_recording(path)
    order = [recording.channels.index(channel) for channel in SPEC.channels]
    assert np.array_equal(recording.frames[:][:, :, order], data.frames)
    assert [recording.channel_units[place] for place in order] == list(SPEC.channel_units)
    assert recording.times is not None and np.allclose(recording.times, np.arange(7) * 0.5)
    for axis in range(2):
        found = recording.positions(0, axis)
        assert found is not None and np.allclose(found, SPEC.coordinates(0, axis))
    assert recording.periodic == (True, False) and recording.parameters == ("nu",)
    assert np.allclose(recording.params, data.params) and recording.parameter_units == ("m^2/s",)


def test_masks_and_staggered_channels_survive(tmp_path: Path) -> None:
    mask = np.ones((3, 4, 5), dtype=bool)
    mask[1, -1], mask[2, :, -1] = False, False
    spec = SolverSpec(
        name="staggered",
        state_shape=(3, 4, 5),
        dt=1.0,
        channels=("rho", "v_x", "v_y"),
        axes=("x", "y"),
        parameters=("nu",),
        spacing=(0.5, 0.25),
        offsets=((0.5, 0.5), (0.0, 0.5), (0.5, 0.0)),
        mask=mask,
    )
    data, path = trajectories(np.random.default_rng(0), spec), tmp_path / "b.hdf5"
    write_well(path, data, spec)
    recording = read_recording(path, ReadingOptions(channels=spec.channels))
    assert np.array_equal(recording.frames[:], data.frames)
    assert recording.mask is not None and np.array_equal(recording.mask, mask)
    for channel in range(3):
        for axis in range(2):
            found = recording.positions(channel, axis)
            assert found is not None and np.allclose(found, spec.coordinates(channel, axis))
    assert recording.periodic == (None, None)


def test_the_well_reads_what_is_written(tmp_path: Path) -> None:
    well = pytest.importorskip("the_well.data")
    data = trajectories(np.random.default_rng(0))
    write_well(tmp_path / "train" / "b.hdf5", data, SPEC, {"x": True, "y": False})
    dataset = well.WellDataset(
        path=str(tmp_path / "train"), n_steps_input=1, n_steps_output=1, use_normalization=False, return_grid=True
    )
    assert len(dataset) == 2 * 6 and dataset.metadata.field_names == {0: ["rho"], 1: ["v_x", "v_y"], 2: []}
    assert dataset.metadata.constant_scalar_names == ["nu"]
    sample = dataset[6 + 2]
    assert np.array_equal(np.moveaxis(sample["output_fields"][0].numpy(), -1, 0), data.frames[1, 3])
    assert np.allclose(sample["constant_scalars"].numpy(), [0.2])
    assert sample["boundary_conditions"].tolist() == [[2, 2], [0, 0]]  # periodic along x, walls along y
    assert np.allclose(sample["space_grid"][:, 0, 0].numpy(), SPEC.coordinates(0, 0))


def test_the_wells_own_dummy_file_is_read(tmp_path: Path) -> None:
    dummy = pytest.importorskip("the_well.utils.dummy_data")
    dummy.write_dummy_data(str(tmp_path / "dummy.hdf5"))
    recording = read_recording(tmp_path / "dummy.hdf5")
    assert recording.channels == ("field_x", "field_y") and recording.frames.shape == (2, 10, 2, 32, 32)
    assert recording.periodic == (True, True) and recording.parameters == ("a", "b")
    with h5py.File(tmp_path / "dummy.hdf5") as file:
        assert np.array_equal(recording.frames[1, 9], np.moveaxis(file["t1_fields/field"][1, 9], -1, 0))


@pytest.mark.skipif("THE_WELL_SCRIPTS" not in os.environ, reason="needs THE_WELL_SCRIPTS, the scripts of The Well's repository")
def test_the_wells_own_checkers_pass_what_is_written(tmp_path: Path) -> None:
    write_well(tmp_path / "b.hdf5", trajectories(np.random.default_rng(0)), SPEC, {"x": True, "y": False})
    scripts = Path(os.environ["THE_WELL_SCRIPTS"])
    command = [sys.executable, "-W", "error", str(scripts / "check_thewell_formatting.py"), str(tmp_path / "b.hdf5")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.count("passed!") == 6 and "Traceback" not in said
    program = f"import check_thewell_data as c; print(c.check_file({str(tmp_path / 'b.hdf5')!r}))"
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=scripts).stdout
    assert "has no detected issue" in said


def test_a_folder_of_files_is_one_set(tmp_path: Path) -> None:
    for number in (2, 10):
        write_well(tmp_path / f"run_{number}.hdf5", trajectories(np.random.default_rng(number)), SPEC)
    recording = read_recording(tmp_path)
    assert recording.frames.shape == (4, 7, 3, 4, 5) and recording.params.shape == (4, 1)
    second = read_recording(tmp_path / "run_10.hdf5")
    assert np.array_equal(recording.frames[[2, 3], 1], second.frames[:, 1])


def test_files_of_a_folder_that_differ_are_refused(tmp_path: Path) -> None:
    for number in (2, 10):
        write_well(tmp_path / f"run_{number}.hdf5", trajectories(np.random.default_rng(number)), SPEC)
    with change(tmp_path / "run_10.hdf5") as file:
        file["dimensions/x"][1] = 0.5
    with pytest.raises(DataError, match="are to be simulations of one set, but the first has positions along x those"):
        read_recording(tmp_path)


def test_what_cannot_be_written_leaves_no_file(tmp_path: Path, tiny_disk: Path) -> None:
    data = trajectories(np.random.default_rng(0))
    with pytest.raises(ConfigError, match="periodic may have x, y, not 'z'"):
        write_well(tmp_path / "b.h5", data, SPEC, {"z": True})
    data.frames[1, 2, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="holds NaN or infinity"):
        write_well(tmp_path / "b.h5", data, SPEC)
    big = Trajectories(np.zeros((2, 4000, 3, 4, 5), np.float32), np.zeros((2, 1)), SPEC.active())
    with pytest.raises(DataError, match="MiB free: make space"):
        write_well(tiny_disk / "b.h5", big, SPEC)
    assert [p.name for p in tmp_path.iterdir()] == ["disk"] and not list(tiny_disk.iterdir())
