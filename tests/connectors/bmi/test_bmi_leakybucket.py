"""A component that is not ours: eWaterCycle's leaky bucket, a lumped hydrological model driven by precipitation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray

from deepzero_sim.common.types import Array
from deepzero_sim.connectors.bmi.solver import BMISolver
from deepzero_sim.solver.stepping import checked_step

DAY, LEAKINESS = 86400.0, 0.1
RAIN = 2e-5 * (1 + np.arange(6))  # kg m-2 s-1, day after day


@pytest.fixture
def config(tmp_path: Path) -> Path:
    days = np.datetime64("2000-01-01", "ns") + np.arange(len(RAIN)) * np.timedelta64(1, "D")
    xarray.Dataset({"pr": ("time", RAIN)}, coords={"time": days}).to_netcdf(tmp_path / "rain.nc", engine="scipy")
    path = tmp_path / "bucket.json"
    path.write_text(json.dumps({"precipitation_file": str(tmp_path / "rain.nc"), "leakiness": LEAKINESS}))
    return path


def bucket(config: Path, reuse: bool = False) -> BMISolver:
    return BMISolver("leakybucket.leakybucket_bmi.LeakyBucketBmi", config, ["storage"], reuse=reuse)


def after(storage: Array, day: int) -> Array:
    return np.asarray((storage + RAIN[day] * DAY) * (1 - LEAKINESS))


def test_it_tells_what_it_is(config: Path) -> None:
    spec = bucket(config).spec
    assert (spec.name, spec.state_shape, spec.dt) == ("leakybucket", (1, 1, 1), DAY)
    assert (spec.channels, spec.channel_units) == (("storage",), ("m",))


def test_every_state_of_a_fresh_component_sees_the_first_day(config: Path) -> None:
    states = np.arange(8.0).reshape(8, 1, 1, 1)
    solver = bucket(config)
    for _ in range(2):
        np.testing.assert_allclose(checked_step(solver, states), after(states, 0))


def test_a_reused_components_clock_runs_on_and_is_set_back_at_its_end(config: Path) -> None:
    solver = bucket(config, reuse=True)
    states = np.arange(8.0).reshape(8, 1, 1, 1)
    days = [*range(len(RAIN) - 1), 0, 1, 2]  # its end time is that of the last entry
    expected = np.stack([after(state, day) for state, day in zip(states, days, strict=True)])
    np.testing.assert_allclose(checked_step(solver, states), expected)
    solver.close()
