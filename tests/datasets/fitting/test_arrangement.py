"""Axes that run either way, land, and levels: values, mask and positions of what is written belong together."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import deepzero_sim as dz
from deepzero_sim.datasets.conversion import convert
from deepzero_sim.datasets.fitting.arrangement import boxes, drop_single_points
from deepzero_sim.datasets.fitting.fit import fit
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.errors import DataError

LAT, LON = np.arange(6) * 10.0, np.arange(5) * 3.0

#: Places of land, as functions of latitude and longitude.
LANDS: dict[str, Any] = {
    "no land": lambda lat, lon: (lat < 0) | (lon < 0),
    "southern land": lambda lat, lon: (lat < 15) & (lon >= 0),
    "islands": lambda lat, lon: ((lat == 30) & (lon == 6)) | ((lat == 0) & (lon == 12)),
}


def value(lat: Any, lon: Any) -> Any:
    return 100 + lat + 0.1 * lon


def write(path: Path, falling: bool, land: str, level: bool, uneven: bool = False) -> Path:
    """Write a netCDF file (time, ensemble, [lev,] lat, lon) whose values tell where they are."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    lat = LAT + (LAT == 50) * uneven
    lat = lat[::-1] if falling else lat
    field = np.where(LANDS[land](lat[:, None], LON), np.nan, value(lat[:, None], LON))
    field = field + np.arange(3)[:, None, None, None] + 10 * np.arange(2)[:, None, None]
    dims, coords = ["time", "ensemble", "lat", "lon"], {"time": np.arange(3.0), "lat": lat, "lon": LON}
    if level:
        dims.insert(2, "lev")
        field, coords["lev"] = field[:, :, None], np.array([0.5])
    data = xarray.Dataset({"sst": (dims, field.astype("f4"))}, coords)
    data.to_netcdf(path, encoding={"sst": {"_FillValue": -1e30}})
    return path


def spec_of(land: str, way: int, axes: tuple[str, ...] = ("lat", "lon")) -> dz.SolverSpec:
    """Spec of a solver whose latitudes rise, or fall."""
    lat = LAT[::way]
    return dz.SolverSpec(
        name="ocean", state_shape=(1, 6, 5), dt=1.0, channels=("sst",), axes=axes, spacing=(10.0 * way, 3.0),
        offsets=((lat[0] / (10.0 * way), 0.0),), mask=~LANDS[land](lat[:, None], LON)[None],
    )  # fmt: skip


def positions_of(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    with h5py.File(path) as file:
        return file["axes/sst/lat"][:], file["axes/sst/lon"][:]


@pytest.mark.parametrize(
    ("falling", "land", "level", "solver"),
    list(itertools.product([False, True], LANDS, [False, True], ["none", "uneven", "rising", "falling"])),
)
def test_values_mask_and_positions_belong_together(tmp_path: Path, falling: bool, land: str, level: bool, solver: str) -> None:
    path = write(tmp_path / "a.nc", falling, land, level, uneven=solver == "uneven")
    spec = spec_of(land, 1 if solver == "rising" else -1) if solver in {"rising", "falling"} else None
    made = convert(DataSource(path), tmp_path / "made.h5", spec)
    data = dz.datasets.load(tmp_path / "made.h5", spec)
    lat, lon = positions_of(tmp_path / "made.h5")
    assert data.frames.shape == (2, 3, 1, 6, 5)
    there = ~LANDS[land](lat[:, None], lon)
    np.testing.assert_array_equal(data.mask[0], there)
    for simulation, time in np.ndindex(2, 3):
        expected = np.where(there, value(lat[:, None], lon) + time + 10 * simulation, 0)
        np.testing.assert_allclose(data.frames[simulation, time, 0], expected, rtol=1e-6)
    notes = " ".join(made.data.notes)
    assert ("axis lev has one point, at 0.5, and is left out" in notes) == level
    assert ("is turned around" in notes) == (spec is not None and falling != (solver == "falling"))


@pytest.mark.parametrize(("falling", "way"), list(itertools.product([False, True], [1, -1])))
def test_points_that_are_to_be_masked_are_turned_with_the_rest(tmp_path: Path, falling: bool, way: int) -> None:
    """With missing values in a simulation that no reader has looked into, so that `missing: mask` finds them."""
    lat = LAT[::-1] if falling else LAT
    land = LANDS["southern land"](lat[:, None], LON)
    frames = np.where(land, np.nan, value(lat[:, None], LON)) * np.ones((2, 3, 1, 1, 1))
    given = Recording(
        frames=frames, channels=("sst",), name="a.nc", times=np.arange(3.0), axes=("lat", "lon"), coordinates=(lat, LON)
    )
    spec = spec_of("southern land", way)
    data = fit(given, spec, DataSource(Path("a.nc"), missing="mask"))
    np.testing.assert_allclose(data.frames[1, 2, 0], np.where(spec.mask[0], value(LAT[::way, None], LON), 0), rtol=1e-6)


FUNCTIONS = """
import numpy as np

def mean(states, spec):
    assert np.isnan(states).any(), "land is NaN"
    blocks = states.reshape(len(states), 1, 3, 2, 5)
    return np.nanmean(blocks, axis=3)

def plain_mean(states, spec):
    return states.reshape(len(states), 1, 3, 2, 5).mean(axis=3)

def second_has_none(states, spec):
    return np.where(np.nanmax(states) > 158, np.nan, np.nan_to_num(plain_mean(states, spec)))
"""


def half_of(way: int, mask: Any = None) -> dz.SolverSpec:
    lat = (LAT.reshape(3, 2).mean(axis=1))[::way]
    return dz.SolverSpec(
        name="half", state_shape=(1, 3, 5), dt=1.0, channels=("sst",), axes=("lat", "lon"), spacing=(20.0 * way, 3.0),
        offsets=((lat[0] / (20.0 * way), 0.0),), mask=mask,
    )  # fmt: skip


@pytest.mark.parametrize(("falling", "way", "level"), list(itertools.product([False, True], [1, -1], [False, True])))
def test_a_function_gets_axes_that_run_as_the_solver_s_and_nan_for_land(
    tmp_path: Path, falling: bool, way: int, level: bool
) -> None:
    path = write(tmp_path / "a.nc", falling, "islands", level)
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    data = dz.datasets.open_trajectories(DataSource(path, restrict=f"{tmp_path}/mine.py:mean"), half_of(way))
    lat = LAT[::way, None]
    there = np.where(LANDS["islands"](lat, LON), np.nan, value(lat, LON))
    np.testing.assert_allclose(data.frames[0, 0, 0], np.nanmean(there.reshape(3, 2, 5), axis=1), rtol=1e-6)


def test_values_that_a_function_leaves_missing_are_missing(tmp_path: Path) -> None:
    path, mask = write(tmp_path / "a.nc", True, "southern land", False), np.ones((1, 3, 5), bool)
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    plain = DataSource(path, restrict=f"{tmp_path}/mine.py:plain_mean")
    with pytest.raises(DataError, match=r"must return finite numbers, but 5 of 15 are not: .*missing: drop"):
        dz.datasets.open_trajectories(plain, half_of(1))
    mask[0, 0] = False  # of the solver, where the function has none
    data = dz.datasets.open_trajectories(plain, half_of(1, mask))
    assert (data.frames[:, :, ~mask] == 0).all()
    np.testing.assert_allclose(data.frames[0, 0, 0, 1], value(25.0, LON), rtol=1e-6)
    some = DataSource(path, restrict=f"{tmp_path}/mine.py:second_has_none", missing="drop")
    data = dz.datasets.open_trajectories(some, half_of(1, mask))
    assert len(data.frames) == 1
    assert "1 of 2 simulations have values that are missing and are left out: 1." in " ".join(data.notes)
    every = DataSource(path, restrict=f"{tmp_path}/mine.py:plain_mean", missing="drop")
    with pytest.raises(DataError, match=r"has 30 values that are missing .*none is left"):
        dz.datasets.open_trajectories(every, half_of(1))


def test_a_solver_that_says_no_spacing_takes_axes_as_they_run_and_it_is_said() -> None:
    lat = LAT[::-1]
    frames = value(lat[:, None], LON) * np.ones((1, 3, 1, 1, 1))
    given = Recording(
        frames=frames, channels=("sst",), name="a.nc", times=np.arange(3.0), axes=("lat", "lon"), coordinates=(lat, LON)
    )
    bare = dz.SolverSpec(name="bare", state_shape=(1, 6, 5), dt=1.0, dtype="float64")
    data = fit(given, bare, DataSource(Path("a.nc")))
    np.testing.assert_array_equal(data.frames, frames)
    assert "lat falls (50 to 0) and is taken so, as solver 'bare' names no spacing" in " ".join(data.notes)


def test_padding_stays_behind_what_is_turned() -> None:
    """As in fields of different staggering, whose longest reach the ends of one array."""
    mask = np.ones((2, 5, 3), bool)
    mask[1, 4] = False
    assert boxes(mask) == ((5, 3), (4, 3))
    assert boxes(mask[1:]) == ((5, 3),)  # no channel reaches that end: these are places without values
    y = np.arange(5.0)[::-1]
    frames = np.zeros((1, 2, 2, 5, 3))
    frames[:, :, 0], frames[:, :, 1, :4] = y[:, None], (y[:4] - 0.5)[:, None]
    given = Recording(
        frames=frames, channels=("v", "p"), name="a", times=np.arange(2.0), axes=("y", "x"), coordinates=(y, np.arange(3.0)),
        offsets=((0.0, 0.0), (0.5, 0.0)), mask=mask,
    )  # fmt: skip
    spec = dz.SolverSpec(
        name="staggered", state_shape=(2, 5, 3), dt=1.0, channels=("v", "p"), axes=("y", "x"), spacing=(1.0, 1.0),
        offsets=((0.0, 0.0), (0.5, 0.0)), mask=mask,
    )  # fmt: skip
    data = fit(given, spec, DataSource(Path("a")))
    np.testing.assert_array_equal(data.frames[0, 0, :, :, 0], [[0, 1, 2, 3, 4], [0.5, 1.5, 2.5, 3.5, 0]])


@pytest.mark.parametrize(
    ("shape", "axes", "kept"),
    [
        ((1, 4), ("lev", "x"), ("x",)),
        ((1, 1), ("lev", "x"), ("x",)),
        ((1, 4, 1), ("lev", "y", "x"), ("y",)),
        ((4,), ("x",), ("x",)),
    ],
)
def test_without_a_solver_axes_of_one_point_are_left_out_but_the_last(
    shape: tuple[int, ...], axes: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    given = Recording(frames=np.zeros((1, 2, 1, *shape)), channels=("u",), name="a", axes=axes)
    made = drop_single_points(given, None, DataSource(Path("a")))
    assert made.axes == kept
    assert len(made.notes) == len(axes) - len(kept)


def test_an_axis_of_one_point_that_the_solver_has_or_the_user_names_is_kept() -> None:
    given = Recording(frames=np.zeros((1, 2, 1, 1, 4)), channels=("u",), name="a", axes=("lev", "x"))
    named = DataSource(Path("a"), axes={"lev": "z"})
    assert drop_single_points(given, None, named) is given
    both = dz.SolverSpec(name="both", state_shape=(1, 1, 4), dt=1.0)
    assert drop_single_points(given, both, DataSource(Path("a"))) is given
    line = dz.SolverSpec(name="line", state_shape=(1, 4), dt=1.0, axes=("x",))
    assert drop_single_points(given, line, DataSource(Path("a"))).axes == ("x",)


@pytest.mark.parametrize("restrict", [None, "block_mean"])
def test_axes_that_are_swapped_are_named(restrict: str | None) -> None:
    """Whether the settings swap them, or the solver's spec has them in another order than its points."""
    fine = 1 if restrict is None else 2
    lat, lon = (np.arange(6 * fine) + 0.5) * 10 / fine, (np.arange(5 * fine) + 0.5) * 3 / fine
    given = Recording(
        frames=np.zeros((1, 3, 1, 6 * fine, 5 * fine)), channels=("sst",), name="a.nc", times=np.arange(3.0),
        axes=("lat", "lon"), coordinates=(lat, lon),
    )  # fmt: skip
    facts: dict[str, Any] = {"name": "ocean", "state_shape": (1, 6, 5), "dt": 1.0, "channels": ("sst",)}
    grid = {"spacing": (10.0, 3.0), "offsets": ((0.5, 0.5),)}
    spec = dz.SolverSpec(**facts, **grid, axes=("y", "x"))
    ways = {"lat": "y", "lon": "x"}, {"lat": "x", "lon": "y"}
    right, wrong = (DataSource(Path("a.nc"), axes=axes, restrict=restrict) for axes in ways)
    assert fit(given, spec, right).frames.shape == (1, 3, 1, 6, 5)
    says = "its axes y and x look swapped, as positions along each fit the solver along another: say which is which by axes, or"
    with pytest.raises(DataError, match=says):
        fit(given, spec, wrong)
    with pytest.raises(DataError, match=says.replace("y and x", "lon and lat")):
        fit(given, dz.SolverSpec(**facts, **grid, axes=("lon", "lat")), DataSource(Path("a.nc"), restrict=restrict))
