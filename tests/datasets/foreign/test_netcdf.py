"""netCDF and Zarr by the CF conventions: what dimensions are, units, packed and missing numbers, ensembles."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from recordings import cut_short, numbers, refuse

from deepzero_sim.datasets.foreign import ReadingOptions, detect, read_recording, xarray_store
from deepzero_sim.errors import MissingExtraError

xarray = pytest.importorskip("xarray")
pytest.importorskip("netCDF4")


def ocean(land: bool = True, steps: int = 6) -> Any:
    """Two members of an ocean: temperature and currents at (time, member, lat, lon), depth, bounds, a viscosity a member."""
    shape = (steps, 2, 4, 5)
    temperature, u = numbers(*shape) * 0.5, numbers(*shape, start=2000)
    if land:
        temperature[..., 0, 0] = u[..., 0, 0] = np.nan
    dims = ("time", "member", "lat", "lon")
    return xarray.Dataset(
        {
            "temperature": (dims, temperature, {"units": "degC"}),
            "u": (dims, u, {"units": "m s-1", "standard_name": "sea_water_x_velocity"}),
            "depth": (("lat", "lon"), numbers(4, 5), {"units": "m"}),
            "time_bnds": (("time", "bnds"), np.zeros((steps, 2))),
            "index": (("time",), np.arange(float(steps))),
            "viscosity": (("member",), np.array([0.1, 0.2]), {"units": "m2 s-1"}),
            "gravity": ((), 9.81, {"units": "m s-2"}),
        },
        coords={
            "time": ("time", 3600.0 * np.arange(steps), {"units": "seconds since 2001-01-01", "bounds": "time_bnds"}),
            "lat": ("lat", np.linspace(-30, 30, 4), {"units": "degrees_north"}),
            "lon": ("lon", np.arange(5) * 72.0, {"units": "degrees_east"}),
        },
        attrs={"title": "made", "Conventions": "CF-1.8"},
    )


@pytest.fixture(params=["netcdf4", "netcdf3", "zarr2", "zarr3"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def write(dataset: Any, folder: Path, kind: str = "netcdf4", **encoding: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"ocean_{kind}"
    for name in dataset.variables:
        encoding.setdefault(name, {})
    if kind.startswith("zarr"):
        pytest.importorskip("zarr")
        dataset.to_zarr(path, zarr_format=int(kind[-1]), consolidated=False, encoding=encoding)
    elif kind == "netcdf3":
        dataset.to_netcdf(path, engine="netcdf4", format="NETCDF3_64BIT", encoding=encoding)
    else:
        dataset.to_netcdf(path, engine="netcdf4", encoding=encoding)
    return path


def test_dimensions_are_told_by_the_conventions(tmp_path: Path, kind: str) -> None:
    path = write(ocean(), tmp_path, kind)
    assert detect(path) == ("zarr" if kind.startswith("zarr") else "netcdf")
    recording = read_recording(path)
    assert recording.channels == ("temperature", "u") and recording.channel_units == ("degC", "m s-1")
    assert recording.channel_titles == ((), ("sea_water_x_velocity",))
    assert recording.axes == ("lat", "lon") and recording.axis_units == ("degrees_north", "degrees_east")
    assert recording.frames.shape == (2, 6, 2, 4, 5) and recording.periodic == (None, True)
    assert recording.times is not None and np.allclose(recording.times, 3600.0 * np.arange(6))
    assert recording.time_unit == "seconds"
    assert recording.coordinates[0] is not None and np.allclose(recording.coordinates[0], np.linspace(-30, 30, 4))
    assert np.array_equal(recording.frames[1, 3][1, 1:], numbers(6, 2, 4, 5, start=2000)[3, 1, 1:])
    assert dict(zip(recording.parameters, recording.params.T.tolist(), strict=True)) == {
        "viscosity": [0.1, 0.2],
        "gravity": [9.81, 9.81],
    }
    assert set(zip(recording.parameters, recording.parameter_units, strict=True)) == {
        ("viscosity", "m2 s-1"),
        ("gravity", "m s-2"),
    }


def test_land_is_masked_and_what_is_left_out_is_said(tmp_path: Path, kind: str) -> None:
    recording = read_recording(write(ocean(), tmp_path, kind))
    assert recording.mask is not None and (~recording.mask).sum(axis=(1, 2)).tolist() == [1, 1]
    assert not recording.mask[0, 0, 0] and (recording.frames[:][:, :, :, 0, 0] == 0).all()
    notes = " ".join(recording.notes)
    assert "2 of 40 values of a frame are missing" in notes and "depth does not change in time" in notes
    assert "time_bnds" in notes and "index" in notes
    with_depth = read_recording(write(ocean(), tmp_path / "b", kind), ReadingOptions(channels=["u", "depth"]))
    assert np.array_equal(with_depth.frames[1, 5][1], numbers(4, 5))


def test_packed_numbers_are_unpacked_and_missing_ones_are_nan(tmp_path: Path, kind: str) -> None:
    if kind == "netcdf3":
        pytest.skip("the same code as netCDF-4")
    dataset = ocean(land=False)[["temperature"]]
    dataset["temperature"][3, 1, 2, 2] = np.nan
    packed = {"dtype": "int16", "scale_factor": 0.5, "add_offset": 10.0, "_FillValue": -32768}
    recording = read_recording(write(dataset, tmp_path, kind, temperature=packed))
    frame = recording.frames[1, 3]
    assert recording.mask is None and np.isnan(frame[0, 2, 2]) and np.isnan(frame).sum() == 1
    assert np.allclose(frame[0, 1], dataset["temperature"].values[3, 1, 1])


def test_what_was_never_written_is_missing(tmp_path: Path) -> None:
    import netCDF4  # noqa: PLC0415

    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        for name, size in {"time": 4, "x": 5}.items():
            file.createDimension(name, size)
            file.createVariable(name, "f8", (name,))[:] = np.arange(size)
        file.createVariable("u", "f4", ("time", "x"))[:2] = 1.0
    frames = read_recording(tmp_path / "a.nc").frames
    assert (frames[0, 1] == 1).all() and np.isnan(frames[0, 3]).all()


def test_values_outside_of_the_valid_range_are_missing(tmp_path: Path) -> None:
    dataset = ocean(land=False)[["u"]]
    dataset["u"].attrs["valid_max"] = 2030.0
    frames = read_recording(write(dataset, tmp_path)).frames
    assert np.isnan(frames[0, 5]).all() and not np.isnan(frames[0, 0]).any()


def test_land_that_moves_is_refused_when_it_is_met(tmp_path: Path) -> None:
    dataset = ocean()
    dataset["u"][2, 1, 0, 0] = 1.0
    path = write(dataset, tmp_path)
    refuse(path, "has values in frame 2 of simulation 1 at points that are NaN in its first frame", frame=(1, 2))


def test_only_the_frames_that_are_asked_for_are_read(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = read_recording(write(ocean(land=False), tmp_path, kind))
    asked: list[tuple[int, ...]] = []
    read = xarray_store.StoredVariable.read
    monkeypatch.setattr(xarray_store.StoredVariable, "read", lambda s, i: asked.append((v := read(s, i)).shape) or v)
    assert recording.frames[1, 4].shape == (2, 4, 5) and asked == [(1, 4, 5)] * 2


def test_recordings_go_to_workers(tmp_path: Path, kind: str) -> None:
    recording = read_recording(write(ocean(), tmp_path, kind))
    expected = recording.frames[1, 2]
    assert np.array_equal(pickle.loads(pickle.dumps(recording.frames))[1, 2], expected)  # noqa: S301


def test_names_tell_what_attributes_do_not(tmp_path: Path) -> None:
    values = numbers(2, 3, 6, 2, 5)
    dataset = xarray.Dataset({"state": (("run", "t", "x", "component", "y"), values.transpose(0, 2, 1, 3, 4)[:, :3].copy())})
    recording = read_recording(write(dataset, tmp_path))
    assert recording.axes == ("x", "y") and recording.frames.shape == (2, 3, 2, 3, 5)
    assert recording.channels == ("state_0", "state_1") and recording.times is None


def test_dimensions_without_a_name_that_tells_are_named_by_the_user(tmp_path: Path) -> None:
    dataset = xarray.Dataset({"u": (("a", "b", "c"), numbers(3, 6, 5))})
    path = write(dataset, tmp_path)
    refuse(path, r"no field along a dimension of time: it holds u \(a, b, c\): name its dimensions in order by axes")
    recording = read_recording(path, ReadingOptions(axes=["time", "x", "simulation"]))
    assert recording.frames.shape == (5, 3, 1, 6) and np.array_equal(recording.frames[4, 2][0], numbers(3, 6, 5)[2, :, 4])
    refuse(path, "has no variable with 2 dimensions", ReadingOptions(axes=["time", "x"]))


def test_fields_on_several_grids_have_to_be_chosen(tmp_path: Path) -> None:
    dataset = ocean()
    dataset["v"] = (("time", "lat_v", "lon"), numbers(6, 5, 5))
    path = write(dataset, tmp_path)
    refuse(path, "has fields on several grids, such as .* choose some by channels")
    assert read_recording(path, ReadingOptions(channels=["v"])).frames.shape == (1, 6, 1, 5, 5)


def test_times_that_do_not_rise_are_refused(tmp_path: Path) -> None:
    dataset = ocean()
    dataset["time"] = ("time", np.array([0.0, 1, 2, 2, 4, 5]), {"units": "seconds since 2001-01-01"})
    refuse(write(dataset, tmp_path), "times of .* must be finite and rise")


def test_text_is_no_field(tmp_path: Path) -> None:
    dataset = xarray.Dataset({"u": (("time", "x"), np.full((3, 4), "a"))})
    refuse(write(dataset, tmp_path), "no field along a dimension of time")


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_cut_short_is_refused_in_a_sentence(tmp_path: Path, share: float) -> None:
    path = write(ocean(steps=50), tmp_path)
    cut_short(path, share)
    refuse(path, "cannot be read")


def test_a_netcdf_3_file_cut_short_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = write(ocean(steps=50), tmp_path, "netcdf3")
    cut_short(path, 0.7)
    refuse(path, "cut short|cannot be read", frame=(1, 49))


def test_damage_that_is_met_when_a_frame_is_read_is_one_sentence(tmp_path: Path) -> None:
    dataset = ocean(land=False)[["u"]]
    path = write(dataset, tmp_path, u={"chunksizes": (1, 1, 4, 5), "fletcher32": True})
    content, needle = bytearray(path.read_bytes()), numbers(6, 2, 4, 5, start=2000)[3, 1].tobytes()
    content[content.index(needle) + 6] ^= 1
    path.write_bytes(content)
    assert read_recording(path).frames[1, 2].shape == (1, 4, 5)
    refuse(path, "cannot be read as netCDF", frame=(1, 3))


def test_a_zarr_chunk_that_is_damaged_or_gone(tmp_path: Path) -> None:
    path = write(ocean(land=False)[["u"]], tmp_path, "zarr3", u={"chunks": (1, 2, 4, 5)})
    chunk = path / "u" / "c" / "3" / "0" / "0" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    refuse(path, "cannot be read as a Zarr store", frame=(0, 3))
    chunk.unlink()
    recording = read_recording(path)
    assert any("1 of 6 chunks of u are not there and read as" in note for note in recording.notes)
    assert np.isnan(recording.frames[0, 3]).all()


def test_a_zarr_store_whose_metadata_are_damaged_is_refused(tmp_path: Path) -> None:
    path = write(ocean(), tmp_path, "zarr3")
    (path / "u" / "zarr.json").write_text("{")
    refuse(path, "cannot be read as a Zarr store")


def test_plain_zarr_arrays_are_named_by_the_user(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "plain", mode="w")
    group.create_array("u", data=numbers(2, 6, 5, 5))
    group.create_array("times", data=np.arange(6.0))
    refuse(tmp_path / "plain", "cannot be told from their lengths")
    recording = read_recording(tmp_path / "plain", ReadingOptions(axes=["simulation", "time", "y", "x"]))
    assert recording.frames.shape == (2, 6, 1, 5, 5) and np.array_equal(recording.frames[1, 4][0], numbers(2, 6, 5, 5)[1, 4])
    assert recording.times is not None and len(recording.times) == 6
    zarr.create_array(tmp_path / "alone", data=numbers(2, 6, 5))
    alone = read_recording(tmp_path / "alone", ReadingOptions(axes=["simulation", "time", "x"]))
    assert alone.channels == ("alone",) and np.array_equal(alone.frames[1, 2][0], numbers(2, 6, 5)[1, 2])


def test_groups_are_said_and_values_of_other_files_refused(tmp_path: Path) -> None:
    path = write(ocean(), tmp_path)
    ocean().to_netcdf(path, mode="a", group="more", engine="netcdf4")
    assert any("Its groups more were left out." in note for note in read_recording(path).notes)
    (tmp_path / "secret").write_bytes(bytes(240))
    outside = write(ocean()[["u"]], tmp_path / "b")
    with h5py.File(outside, "a") as file:
        del file["u"]
        file.create_dataset("u", (6, 5), "f4", external=[(str(tmp_path / "secret"), 0, 120)])
    refuse(outside, "u has its values in other files, which are not read")
    with h5py.File(outside, "a") as file:
        del file["u"]
        file["u"] = h5py.ExternalLink(str(path), "/u")
    refuse(outside, "u is a link to another file")


def test_a_folder_of_files_is_one_set(tmp_path: Path) -> None:
    for member in range(2):
        write(ocean(land=False).isel(member=member), tmp_path, "netcdf4").rename(tmp_path / f"run_{member}.nc")
    recording = read_recording(tmp_path)
    assert recording.frames.shape == (2, 6, 2, 4, 5) and recording.parameters == ("viscosity", "gravity")
    assert np.array_equal(recording.frames[1, 3][1], numbers(6, 2, 4, 5, start=2000)[3, 1])


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(ocean(), tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "xarray", None)
    with pytest.raises(MissingExtraError, match=r"reading netCDF needs the package 'xarray'.*deepzero-sim\[xarray\]"):
        read_recording(path)


def test_hdf5_of_other_programs_is_not_taken_for_netcdf(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file["u"] = numbers(2, 6, 5)
    assert detect(tmp_path / "a.nc") == "hdf5"
    shutil.copy(tmp_path / "a.nc", tmp_path / "b")
    refuse(tmp_path / "b", "cannot be told from their lengths")
