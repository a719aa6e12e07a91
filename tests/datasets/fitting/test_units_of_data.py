"""Units of time and of channels: converted where both sides name them, refused with the setting that helps otherwise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepzero_sim as dz
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.conversion import convert
from deepzero_sim.datasets.fitting.fit import fit
from deepzero_sim.datasets.metadata import Metadata, differences
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DataError


def recording(**changes: Any) -> Recording:
    """Frames an hour apart, in degrees Celsius."""
    facts: dict[str, Any] = {
        "frames": np.arange(48.0).reshape(2, 6, 1, 4),
        "channels": ("T",),
        "channel_units": ("degC",),
        "name": "air.nc",
        "axes": ("x",),
        "times": np.arange(6.0),
        "time_unit": "hours",
        "coordinates": (np.arange(4.0),),
    }
    return Recording(**{**facts, **changes})


def spec(**changes: Any) -> dz.SolverSpec:
    facts: dict[str, Any] = {
        "name": "air", "state_shape": (1, 4), "dt": 7200.0, "time_unit": "s", "dtype": "float64", "channels": ("T",),
        "channel_units": ("degC",), "axes": ("x",), "spacing": (1.0,), "offsets": ((0.0,),),
    }  # fmt: skip
    return dz.SolverSpec(**{**facts, **changes})


def fitted(
    given: Recording | None = None, solver: dz.SolverSpec | None = None, may_differ: Any = (), **words: Any
) -> Trajectories:
    return fit(given or recording(), solver or spec(), DataSource(Path("air.nc"), **words), may_differ)


def test_times_are_converted_where_both_sides_name_their_unit() -> None:
    data = fitted()
    np.testing.assert_array_equal(data.times, [0.0, 7200.0, 14400.0])
    assert data.time_unit == "s"
    np.testing.assert_array_equal(data.frames, recording().frames[:, ::2])
    assert "times are multiplied by 3600, from hours to s" in " ".join(data.notes)
    data.require_fit(spec())
    minutes = fitted(solver=spec(dt=120.0, time_unit="min"))
    np.testing.assert_array_equal(minutes.times, [0.0, 120.0, 240.0])


def test_a_factor_of_times_is_taken_where_a_side_names_no_unit() -> None:
    for given, solver in ((recording(time_unit=""), spec()), (recording(), spec(time_unit=""))):
        np.testing.assert_array_equal(fitted(given, solver, scale={"time": 3600}).times, [0.0, 7200.0, 14400.0])
    timeless = recording(times=None, time_unit="")
    np.testing.assert_array_equal(fitted(timeless, dt=1.0, scale={"time": 3600}).times, [0.0, 7200.0, 14400.0])


def test_a_unit_of_time_that_is_assumed_is_said() -> None:
    data = fitted(solver=spec(dt=2.0, time_unit=""))
    assert data.time_unit == "hours"
    assert "its unit of time (hours) is taken for that of solver 'air', which names none" in " ".join(data.notes)
    assert not fitted(recording(time_unit="seconds"), spec(dt=1.0, time_unit="")).notes


@pytest.mark.parametrize(
    ("given", "solver", "words", "says"),
    [
        ({}, {"time_unit": "", "dt": 3600.0 * 6}, {}, "6 frames 1 hours apart, .*dt 21600. takes 21600 of them: units of time seem to differ: if the solver's dt is not in hours, the unit of time of the file, say so by time_unit in its spec, or give the factor by scale, as in {time: 3600}; if they do not, use a longer file"),  # noqa: E501
        ({}, {"time_unit": "", "dt": 0.5}, {}, "1 hours apart in time, .*if the solver's dt is not in hours"),
        ({"times": np.arange(6) * 24.0}, {"dt": 2.0}, {}, "86400 s apart in time, .* steps of 2, 43200 from one frame to the next: units of time seem to differ: check that dt is in s, as time_unit .* or give .*scale.*; if they do not, let each step"),  # noqa: E501
        ({}, {"dt": 1.0}, {}, "3600 from one frame to the next: units of time seem to differ: check that dt is in s"),
        ({}, {"dt": 900.0}, {}, "steps of 900, 4 from one frame to the next: let each step of the solver take 4 of its own at once and say dt 3600 in its spec.$"),  # noqa: E501
        ({"time_unit": ""}, {"dt": 86400.0}, {}, "takes 86400 of them: units of time seem to differ: check that dt is in s"),
        ({"time_unit": "m"}, {}, {}, "counts time in m, but solver 'air' in s: give the factor by scale, as in {time: 3600}"),
        ({"time_unit": "1"}, {}, {}, "counts time in no unit, but solver 'air' in s"),
        ({}, {}, {"scale": {"time": 60}}, "in hours, but solver 'air' in s, which is a factor of 3600, not the 60.* of scale"),
    ],
)  # fmt: skip
def test_times_of_other_units_are_refused(given: Any, solver: Any, words: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        fitted(recording(**given), spec(**solver), **words)


def test_a_factor_of_times_must_be_positive() -> None:
    with pytest.raises(ConfigError, match=r"scale.time must be a positive factor"):
        fitted(scale={"time": -1.0})


def test_the_unit_of_time_is_kept_by_our_files_and_compared(tmp_path: Path) -> None:
    data = fitted()
    trajectories.save(tmp_path / "a.h5", data, spec())
    loaded = trajectories.load(tmp_path / "a.h5", spec())
    assert loaded.time_unit == "s"
    hours = spec(dt=2.0, time_unit="hours")
    trajectories.load(tmp_path / "a.h5", hours)  # the same step
    with pytest.raises(DataError, match=r"its dt is 7200 s, not 1 hours .2 steps of that."):
        trajectories.load(tmp_path / "a.h5", spec(dt=1.0, time_unit="hours"))
    assert "dt" in differences(Metadata(dt=1.0, time_unit="s"), Metadata(dt=1.0, time_unit="m"))
    again = dz.datasets.open_trajectories(DataSource(tmp_path / "a.h5", simulations=[1]), spec(dt=4.0, time_unit="hours"))
    np.testing.assert_allclose(again.times, [0.0, 4.0])


def test_a_conversion_without_a_solver_keeps_the_unit_of_time(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", u=np.zeros((2, 3, 4)) + np.arange(4), t=np.arange(3.0))
    source = DataSource(tmp_path / "a.npz", axes=["simulation", "time", "x"], scale={"time": 60.0})
    data = convert(source, tmp_path / "a.h5").data
    np.testing.assert_array_equal(data.times, [0.0, 60.0, 120.0])
    assert dz.datasets.load(tmp_path / "a.h5").metadata.dt == 60.0


def test_temperatures_are_shifted_by_a_setting_never_in_silence() -> None:
    kelvin = spec(channel_units=("K",))
    with pytest.raises(DataError, match=r"T in degC, but solver 'air' takes T in K: convert it by shift, as in .T: 273.15."):
        fitted(solver=kelvin)
    np.testing.assert_allclose(fitted(solver=kelvin, shift={"T": 273.15}).frames, recording().frames[:, ::2] + 273.15)
    fahrenheit = fitted(recording(channel_units=("degF",)), kelvin, scale={"T": 5 / 9}, shift={"T": 255.372})
    np.testing.assert_allclose(fahrenheit.frames[0, 0, 0, 0], 255.372)
    for words in ({"shift": {"T": 273.15}, "scale": {"T": 2.0}}, {"scale": {"T": 1.01}}, {"shift": {"T": -273.15}}):
        with pytest.raises(DataError, match=r"which is converted by shift, as in .T: 273.15., not by a factor of"):
            fitted(solver=kelvin, **words)
    np.testing.assert_allclose(
        fitted(solver=kelvin, scale={"T": 2.0}, may_differ=["channel_units"]).frames[0, 1], 16 + 2 * np.arange(4)[None]
    )


@pytest.mark.parametrize(
    ("theirs", "ours", "says"),
    [
        ("km", "m", "scale, as in {T: 1000}"),
        ("hPa", "Pa", "scale, as in {T: 100}"),
        ("degF", "degC", "scale, as in {T: 0.555555555556}, and shift, as in {T: -17.7777777778}"),
        ("1", "K", "T without a unit, but solver 'air' takes T in K"),
        ("K", "dimensionless", "T in K, but solver 'air' takes T without a unit"),
    ],
)
def test_the_advice_has_the_right_factor(theirs: str, ours: str, says: str) -> None:
    with pytest.raises(DataError, match=re.escape(says)):
        fitted(recording(channel_units=(theirs,)), spec(channel_units=(ours,)))


def test_masked_points_stay_zero_where_a_shift_is_added() -> None:
    mask = np.array([[True, True, False, True]])
    data = fitted(recording(mask=mask), spec(channel_units=("K",), mask=mask), shift={"T": 273.15})
    assert (data.frames[:, :, ~mask] == 0).all()


def test_numbers_that_a_shift_makes_too_large_are_refused() -> None:
    with pytest.raises(DataError, match="too large for float32"):
        fitted(solver=spec(dtype="float32"), shift={"T": 1e39}, may_differ=["channel_units"])


def test_positions_that_differ_by_a_shift_name_the_setting() -> None:
    shifted = recording(coordinates=(np.arange(4.0) + 100,))
    with pytest.raises(DataError, match=r"values at 100, 101 ... 103, but .*: set data_may_differ to \[offsets\] if a shift"):
        fitted(shifted)
    fitted(shifted, may_differ=["offsets"])
    stretched = recording(coordinates=(np.arange(4.0) * 2,))
    with pytest.raises(DataError) as refused:
        fitted(stretched)
    assert "offsets" not in str(refused.value)


@pytest.mark.parametrize(
    ("channels", "units", "titles", "ours", "our_units", "example"),
    [
        (("vorticity",), ("K m2 kg-1 s-1",), ((),), ("u",), ("m/s",), "{vorticity: ...}, with u for the dots"),
        (("PV",), ("",), ((),), ("u",), (), "{PV: ...}, with u for the dots"),
        (("ua",), ("m s-1",), (("eastward_wind", "u"),), ("u",), ("m/s",), "{ua: u}"),
        (("temp",), ("degC",), ((),), ("temperature",), ("K",), "{temp: temperature}"),
        (("Density",), ("",), ((),), ("density",), (), "{Density: density}"),
        (("q",), ("m/s",), ((),), ("u",), ("m s-1",), "{q: u}"),
        (("q", "w"), ("m/s", "m/s"), ((), ()), ("u", "v"), ("m/s", "m/s"), "{q: ..., w: ...}, with u or v for the dots"),
        (("y_velocity",), ("",), ((),), ("x_velocity",), (), "{y_velocity: ...}, with x_velocity for the dots"),
        (("temp", "s"), ("", ""), ((), ()), ("temperature", "salinity"), (), "{temp: temperature, s: ...}, with salinity for"),
    ],
)  # fmt: skip
def test_examples_of_names_are_no_guesses(
    channels: Any, units: Any, titles: Any, ours: Any, our_units: Any, example: str
) -> None:
    count = len(channels)
    given = recording(frames=np.zeros((2, 6, count, 4)), channels=channels, channel_units=units, channel_titles=titles)
    solver = spec(state_shape=(count, 4), channels=ours, channel_units=our_units, offsets=((0.0,),) * count)
    with pytest.raises(DataError, match=re.escape(f"such as {example}")):
        fitted(given, solver)


@pytest.mark.parametrize(
    ("theirs", "ours", "example"),
    [
        (("latitude", "lon"), ("y", "x"), "{latitude: y, lon: x}"),
        (("a", "b"), ("y", "x"), "{a: ..., b: ...}, with y or x for the dots"),
        (("a", "x"), ("y", "x"), "{a: y}"),
    ],
)
def test_examples_of_axes_are_no_guesses(theirs: Any, ours: Any, example: str) -> None:
    given = recording(frames=np.zeros((2, 6, 1, 4, 4)), axes=theirs, coordinates=(None, None))
    solver = spec(state_shape=(1, 4, 4), axes=ours, spacing=(1.0, 1.0), offsets=((0.0, 0.0),))
    with pytest.raises(DataError, match=re.escape(f"such as {example}")):
        fitted(given, solver)
