"""Recordings fitted to a solver: names, units, times, grids, masks and values that are missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepzero_sim as dz
from deepzero_sim.datasets import frames as frames_module
from deepzero_sim.datasets.fitting.fit import fit, metadata_of_fit
from deepzero_sim.datasets.frames import LazyFrames, MappedFrames
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DataError

SPEC = dz.SolverSpec(
    name="coarse",
    state_shape=(2, 4, 6),
    dt=0.2,
    channels=("u", "h"),
    channel_units=("m/s", "m"),
    parameters=("nu",),
    parameter_units=("m2/s",),
    axes=("y", "x"),
    spacing=(0.25, 0.5),
    offsets=((0.5, 0.5), (0.5, 0.5)),
)


def recording(**changes: Any) -> Recording:
    """Three simulations of nine frames, 0.1 apart, on cells twice as fine along both axes."""
    frames = np.random.default_rng(0).normal(size=(3, 9, 2, 8, 12))
    known: dict[str, Any] = {
        "frames": frames,
        "name": "flow.nc",
        "channels": ("u", "h"),
        "channel_units": ("m s-1", "metres"),
        "times": 5.0 + 0.1 * np.arange(9),
        "axes": ("y", "x"),
        "coordinates": ((np.arange(8) + 0.5) / 8, (np.arange(12) + 0.5) / 4),
        "periodic": (False, True),
        "params": np.array([[0.1, 7.0], [0.2, 8.0], [0.3, 9.0]]),
        "parameters": ("nu", "amplitude"),
        "parameter_units": ("m^2 s^-1", ""),
    }
    return Recording(**{**known, **changes})


def means(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(*frames.shape[:3], 4, 2, 6, 2).mean(axis=(4, 6))


def fitted(given: Recording, may_differ: tuple[str, ...] = (), spec: dz.SolverSpec = SPEC, **keys: Any) -> Trajectories:
    return fit(given, spec, DataSource(Path("flow.nc"), **{"restrict": "block_mean", **keys}), may_differ)


def test_a_finer_recording_becomes_states_of_the_solver() -> None:
    given = recording()
    data = fitted(given)
    assert data.frames.dtype == np.float32
    np.testing.assert_allclose(data.frames, means(given.frames[:, ::2]), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(data.params, [[0.1], [0.2], [0.3]])
    np.testing.assert_allclose(data.times, [5.0, 5.2, 5.4, 5.6, 5.8])
    data.require_fit(SPEC)
    notes = " ".join(data.attributes["notes"])
    assert "one frame in 2 is taken" in notes
    assert "amplitude" in notes
    assert "which differ between simulations" in notes


def test_frames_of_large_files_are_the_same_bit_for_bit_read_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    given = recording()
    small = fitted(given)
    monkeypatch.setattr(frames_module, "IN_MEMORY", 0)
    lazy = fitted(dataclasses.replace(given, frames=MappedFrames(given.frames, lambda states: states, (2, 8, 12), "f8")))
    assert isinstance(lazy.frames, LazyFrames)
    np.testing.assert_array_equal(lazy.frames[:], small.frames)
    np.testing.assert_array_equal(lazy.frames[[0, 2], [4, 1]], small.frames[[0, 2], [4, 1]])
    assert lazy.digest() == small.digest()


def test_channels_and_axes_are_found_by_name_in_any_order() -> None:
    given = recording()
    turned = recording(
        frames=given.frames.transpose(0, 1, 2, 4, 3)[:, :, ::-1],
        channels=("h", "u"),
        channel_units=("m", "m/s"),
        axes=("lon", "y"),
        coordinates=given.coordinates[::-1],
        periodic=(True, False),
    )
    np.testing.assert_array_equal(fitted(turned, axes={"lon": "x"}).frames, fitted(given).frames)


def test_channels_that_the_solver_lacks_are_left_out_and_said() -> None:
    given = recording()
    more = recording(frames=np.insert(given.frames, 1, np.nan, axis=2), channels=("u", "T", "h"), channel_units=("", "K", ""))
    data = fitted(more)  # missing values of a channel that is not used are none
    np.testing.assert_array_equal(data.frames, fitted(given).frames)
    assert any("left out: T" in note for note in data.attributes["notes"])


def test_falling_positions_are_turned_around() -> None:
    given = recording()
    turned = recording(frames=given.frames[:, :, :, ::-1], coordinates=(given.coordinates[0][::-1], given.coordinates[1]))
    np.testing.assert_allclose(fitted(turned).frames, fitted(given).frames, atol=1e-7)
    same = dz.SolverSpec(**{**vars(SPEC), "state_shape": (2, 8, 12), "spacing": (0.125, 0.25)})
    np.testing.assert_array_equal(fitted(turned, spec=same, restrict=None).frames, given.frames[:, ::2].astype(np.float32))


def test_means_over_cells_whose_places_the_solver_does_not_say_are_said() -> None:
    unsaid = dataclasses.replace(SPEC, offsets=())
    said = [note for note in fitted(recording(), spec=unsaid).attributes["notes"] if "offsets" in note]
    assert len(said) == 1 and "give it offsets of [0.5, 0.5] for each channel, or positions are half a cell off" in said[0]
    assert not any("offsets" in note for note in fitted(recording()).attributes["notes"])
    assert not any("offsets" in note for note in fitted(recording(), ("offsets",), unsaid).attributes["notes"])
    assert not any(
        "half a cell" in note for note in fitted(recording(), spec=dataclasses.replace(unsaid, spacing=())).attributes["notes"]
    )


def test_frames_on_the_solver_s_grid_need_no_restriction() -> None:
    same = dz.SolverSpec(**{**vars(SPEC), "state_shape": (2, 8, 12), "spacing": (0.125, 0.25), "dtype": "float64"})
    data = fitted(recording(), spec=same, restrict=None)
    np.testing.assert_array_equal(data.frames, recording().frames[:, ::2])


def test_scale_converts_units() -> None:
    data = fitted(recording(channel_units=("cm/s", "m")), scale={"u": 0.01})
    np.testing.assert_allclose(data.frames, fitted(recording()).frames * np.array([0.01, 1])[:, None, None], rtol=1e-6)


def test_parameters_are_given_where_the_file_lacks_them() -> None:
    without = recording(params=np.zeros((3, 0)), parameters=(), parameter_units=())
    np.testing.assert_allclose(fitted(without, parameters={"nu": 0.01}).params, [[0.01]] * 3)
    np.testing.assert_allclose(fitted(without, parameters={"nu": [1, 2, 3]}).params, [[1], [2], [3]])
    np.testing.assert_allclose(fitted(recording(), parameters={"nu": "amplitude"}).params, [[7], [8], [9]])


def test_simulations_are_chosen_by_number() -> None:
    data = fitted(recording(), simulations=[2, 0])
    np.testing.assert_array_equal(data.frames, fitted(recording()).frames[[2, 0]])
    np.testing.assert_allclose(data.params, [[0.3], [0.1]])


def test_files_without_times_are_taken_as_they_are_said_to_be() -> None:
    timeless = recording(times=None)
    assumed = fitted(timeless)
    assert assumed.frames.shape[1] == 9
    assert any("no times" in note for note in assumed.attributes["notes"])
    assert assumed.times is None
    np.testing.assert_array_equal(fitted(timeless, dt=0.1).frames, fitted(recording()).frames)
    np.testing.assert_array_equal(fitted(timeless, every=2).frames, fitted(recording()).frames)


def test_times_rounded_to_float32_are_even() -> None:
    times = (1000 + 0.1 * np.arange(9)).astype(np.float32).astype(np.float64)
    assert fitted(recording(times=times)).frames.shape[1] == 5


def test_a_time_step_may_differ_if_that_is_meant() -> None:
    data = fitted(recording(times=np.arange(9.0)), may_differ=("dt",))
    assert data.frames.shape[1] == 9
    assert data.attributes["dt"] == 1.0
    data.require_fit(SPEC)


def with_missing(where: Any) -> Recording:
    given = recording()
    frames = given.frames.copy()
    frames[where] = np.nan
    return dataclasses.replace(given, frames=frames)


def test_simulations_with_missing_values_are_dropped_if_that_is_asked() -> None:
    given = with_missing((1, 4, 0, 3, 3))
    data = fitted(given, missing="drop")
    np.testing.assert_array_equal(data.frames, fitted(recording()).frames[[0, 2]])
    np.testing.assert_allclose(data.params, [[0.1], [0.3]])
    assert any("1 of 3 simulations" in note and note.endswith("out: 1.") for note in data.attributes["notes"])
    assert len(fitted(with_missing((1, 3, 0, 3, 3)), missing="refuse").frames) == 3  # in a frame that is not taken


def test_points_that_are_never_there_are_masked() -> None:
    mask = SPEC.active()
    mask[0, 0, 0] = False
    masked = dz.SolverSpec(**{**vars(SPEC), "mask": mask})
    data = fitted(with_missing((slice(None), slice(None), 0, 1, 1)), spec=masked, missing="mask")
    assert (data.frames[:, :, 0, 0, 0] == 0).all()
    np.testing.assert_array_equal(data.frames[:, :, mask], fitted(recording()).frames[:, :, mask])


def test_padding_of_staggered_fields_is_no_part_of_their_grid() -> None:
    """As in the wake: both velocities lie in one padded array."""
    coarse, fine = dz.solvers.WakeFlow(8).spec, dz.solvers.WakeFlow(16).spec
    states = np.random.default_rng(1).normal(size=(1, 3, *fine.state_shape)) * fine.active()
    given = Recording(
        frames=states,
        name="wake.h5",
        channels=fine.channels,
        axes=("y", "x"),
        times=np.arange(3.0),
        coordinates=(np.arange(33) * fine.spacing[0], np.arange(17) * fine.spacing[1]),
        offsets=fine.offsets,
        mask=fine.active(),
        parameters=("reynolds",),
        params=np.array([[100.0]]),
    )
    data = fitted(given, spec=coarse, restrict="face_mean")
    expected = dz.solvers.wake.downsample(states[0], 2)
    np.testing.assert_allclose(data.frames[0], expected, atol=1e-6)
    without = dataclasses.replace(given, coordinates=(None, None), offsets=())
    np.testing.assert_array_equal(fitted(without, spec=coarse, restrict="face_mean").frames, data.frames)


FUNCTIONS = """
import numpy as np

def restrict(states, spec):
    density, momentum = states[:, 0], states[:, 1]
    both = np.stack([momentum / density, density], axis=1)
    return both.reshape(len(states), 2, 4, 2, 6, 2).mean(axis=(3, 5))

def wrong_shape(states, spec):
    return states

def wrong_type(states, spec):
    return states.tolist()

def nothing(states, spec):
    return restrict(states, spec) * np.nan

def broken(states, spec):
    raise KeyError("momentum")
"""


def test_a_function_of_the_user_s_makes_the_solver_s_channels(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FUNCTIONS)
    given = recording(channels=("rho", "rho u"), channel_units=("kg/m3", "kg/m2/s"), frames=2 + abs(recording().frames))
    data = fitted(given, restrict=f"{file}:restrict")
    velocity = given.frames[:, ::2, 1] / given.frames[:, ::2, 0]
    np.testing.assert_allclose(data.frames, means(np.stack([velocity, given.frames[:, ::2, 0]], axis=2)), rtol=1e-6, atol=1e-7)
    data.require_fit(SPEC)
    for name, words in {
        "wrong_shape": r"must return states of .*, an array of shape \(1, 2, 4, 6\), not an array of shape \(1, 2, 8",
        "wrong_type": "not list",
        "nothing": "finite numbers, but 48 of 48 are not",
    }.items():
        with pytest.raises(DataError, match=words):
            fitted(given, restrict=f"{file}:{name}")
    with pytest.raises(ConfigError, match="raised KeyError"):
        fitted(given, restrict=f"{file}:broken")


def test_metadata_of_a_fit_calls_no_function_of_the_user_s(tmp_path: Path) -> None:
    settings = DataSource(Path("flow.nc"), restrict=f"{tmp_path}/not_there.py:restrict")
    assert metadata_of_fit(recording(), SPEC, settings).channels == SPEC.channels


@pytest.mark.parametrize(
    ("changes", "keys", "words"),
    [
        ({"channels": ("v", "h")}, {}, r"channels \(v, h\), but solver 'coarse' takes \(u, h\).* such as \{v: u\}"),
        ({"channel_units": ("cm/s", "m")}, {}, r"u in cm/s, but solver 'coarse' takes u in m/s: .* \{u: 0.01\}.*channel_units"),
        ({"parameter_units": ("cm2/s", "")}, {}, r"nu in cm2/s, .*, those of the file times 0.0001, by parameters.*_units"),
        ({"parameters": ("nue", "a")}, {}, r"has no parameter nu, only \(nue, a\) \(did you mean 'nue'\?\), .*\{nu: 0.01\}"),
        ({"axes": ("lat", "lon")}, {}, r"axes \(lat, lon\), but solver 'coarse' has \(y, x\).*\{lat: y, lon: x\}"),
        ({"times": 0.3 * np.arange(9)}, {}, "0.3 apart in time, but .* steps of 0.2, which never meet .*dt of 0.3"),
        ({"times": 0.6 * np.arange(9)}, {}, "steps of 0.2, 3 from one frame to the next: let each step .* take 3 .*dt 0.6"),
        ({"times": 0.15 * np.arange(9)}, {}, "which is no whole multiple of that: give the solver a dt of 0.15 or a multiple"),
        ({"times": np.array([0, 1, 2, 3, 4, 5, 7, 8, 9]) * 0.1}, {}, r"most lie 0.1 apart and frames 5 and 6 0.2 \(at"),
        ({"times": 0.01 * np.arange(9)}, {}, "9 frames 0.01 apart, but one step .* takes 20 of them: use a longer"),
        ({}, {"every": 3}, "2 of them make a step .*not the 3 that every says"),
        ({}, {"dt": 0.3}, "says that its frames lie 0.1.* apart, not 0.3"),
        ({}, {"restrict": None}, "along y, u has 8 points, not 4: set restrict to what suits .block_mean, .*interpol"),
        ({}, {"restrict": "spectral"}, "by spectral: along y, u does not wrap around: set restrict to .*block_mean, "),
        ({"coordinates": (None, np.arange(12) / 4)}, {}, "along x, u would give values at 0.125, 0.625 ... 2.625, but"),
        ({"coordinates": (np.arange(8) / 4, None)}, {}, "along y, u would give values"),
        ({}, {"simulations": [1, 5]}, "has 3 simulations, numbered from 0, and none of number"),
        ({"params": np.array([[np.nan, 0]] * 3)}, {}, "parameters that are NaN"),
        ({"mask": np.arange(192).reshape(2, 8, 12) > 0}, {}, "has no values at 1 of the 48 points where solver 'coarse'"),
        ({"frames": np.full((3, 9, 2, 8, 12), 1e39)}, {}, "too large for float32"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(changes: dict[str, Any], keys: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as refused:
        fitted(recording(**changes), **keys)
    assert "flow.nc" in str(refused.value)
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize(
    ("where", "missing", "words"),
    [
        ((1, 4, 0, 3, 3), "refuse", "has 1 values .* in 1 of 3 .* simulation 1, frame 4, u, point .3, 3.: missing: drop"),
        ((slice(None), slice(None), 1, 0, 0), "refuse", "has 15 values .*: missing: mask takes these points for masked"),
        ((slice(None), 4, 1, 0, 0), "refuse", "every simulation has some, so fill them in the file"),
        ((1, 4, 0, 3, 3), "mask", "not at the same points in every frame, so that no mask has them: missing: drop"),
        ((slice(None), 4, 1, 0, 0), "drop", "none is left if those are dropped"),
        ((slice(None), slice(None), 1, 0, 0), "mask", "no values at 1 of the 48 points where solver 'coarse' has some"),
    ],
)  # fmt: skip
def test_missing_values_are_refused_with_their_number_and_place(where: Any, missing: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        fitted(with_missing(where), missing=missing)


def test_infinite_values_are_refused() -> None:
    frames = recording().frames.copy()
    frames[2, 4, 1, 0, 5] = np.inf
    with pytest.raises(DataError, match=r"infinite values, the first at simulation 2, frame 4, h, point \(0, 5\)"):
        fitted(recording(frames=frames))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"restrict": "block_men"}, "restrict may have block_mean, .* not 'block_men' .did you mean 'block_mean'"),
        ({"scale": {"w": 2.0}}, "scale for solver 'coarse' may have u, h, time, not 'w'"),
        ({"parameters": {"mu": 2.0}}, "may have nu, not 'mu'"),
        ({"parameters": {"nu": [1.0, 2.0]}}, "nu has 2 values, but flow.nc has 3 simulations"),
        ({"axes": {"z": "y"}}, "may have y, x, not 'z'; axes go from the file's names to the solver's.$"),
        ({"axes": {"a": "y", "x": "x"}}, "axes go from the file's names to the solver's.$"),  # the solver has no a, either
        ({"parameters": {"amplitude": "nu"}}, "not 'amplitude'; parameters go from the .*: write {nu: amplitude}.$"),
        ({"parameters": {"viscosity": "nu"}}, "parameters go from the solver's names to values, or to the file's names.$"),
    ],
)
def test_settings_that_name_what_is_not_there_are_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fitted(recording(), **keys)


def test_what_a_solver_does_not_say_is_not_compared_and_said() -> None:
    bare = dz.SolverSpec(name="bare", state_shape=(2, 4, 6), dt=0.2)
    data = fitted(recording(), spec=bare)
    assert any("does not name its channels" in note for note in data.attributes["notes"])
    assert data.params.shape == (3, 0)
    data.require_fit(bare)
    assert data.metadata is not None
    assert data.metadata.channel_units == ("m s-1", "metres")


def test_axes_the_wrong_way_round_are_written_the_right_way() -> None:
    file = recording(axes=("lat", "lon"))
    with pytest.raises(ConfigError, match=r"may have lat, lon, not 'y'; .*: write \{lat: y, lon: x\}\.$"):
        fitted(file, axes={"y": "lat", "x": "lon"})
    assert fitted(file, axes={"lat": "y", "lon": "x"}).frames.shape == (3, 5, 2, 4, 6)
