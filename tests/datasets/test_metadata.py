"""Metadata of a file of trajectories are compared with the solver's, by every way in; what is meant can be accepted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from problems import Burgers, DifferentiableBurgers, initial_states
from training_cases import line_data, train_settings

from deepzero_sim.cli.check_gradient import CheckSettings, check_gradients
from deepzero_sim.cli.check_solver import CheckSolverSettings, check_named_solver
from deepzero_sim.cli.main import main
from deepzero_sim.cli.reports.rollouts import publish
from deepzero_sim.cli.serve import models_of_run
from deepzero_sim.common.components import Component
from deepzero_sim.datasets import Trajectories, advance_frames, metadata, trajectories
from deepzero_sim.errors import ConfigError, DataError, DeepZeroError
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solvers import PhiFlowWake, WakeFlow
from deepzero_sim.training.runs.comparison import compare
from deepzero_sim.training.runs.training import train

SPEC = SolverSpec(
    name="flow",
    state_shape=(2, 4, 3),
    dt=0.1,
    channels=("u", "v"),
    channel_units=("m/s", "m/s"),
    parameters=("nu", "speed"),
    parameter_units=("m^2/s", "m/s"),
    axes=("y", "x"),
    spacing=(0.1, 2 * np.pi / 3),
    offsets=((0.0, 0.5), (0.5, 0.0)),
    mask=np.arange(24).reshape(2, 4, 3) < 22,
)


def save_file(path: Path, spec: SolverSpec = SPEC) -> Path:
    frames = np.ones((2, 5, *spec.state_shape)) * spec.active()
    trajectories.save(path, Trajectories(frames, np.ones((2, len(spec.parameters))), spec.active()), spec)
    return path


def say(path: Path, key: str, value: Any) -> Path:
    """Let a file say something else of itself."""
    with h5py.File(path, "a") as file:
        file.attrs[key] = value
    return path


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"name": "other"}, "it was made for solver 'flow', not 'other'"),
    "dt": ({"dt": 0.11}, "its dt is 0.1, not 0.11"),
    "channels": ({"channels": ("v", "u")}, r"its channels are \(u, v\), not \(v, u\)"),
    "channel_units": ({"channel_units": ("m/s", "km/h")}, r"its channel_units are \(m/s, m/s\), not \(m/s, km/h\)"),
    "parameters": ({"parameters": ("speed", "nu")}, r"its parameters are \(nu, speed\), not \(speed, nu\)"),
    "parameter_units": ({"parameter_units": ("m^2/s", "cm/s")}, r".*, not \(m\^2/s, cm/s\)"),
    "axes": ({"axes": ("x", "y")}, r"its axes are \(y, x\), not \(x, y\)"),
    "spacing": ({"spacing": (0.1, 2.0)}, r"its spacing is \(0.1, 2.0943951\d*\), not \(0.1, 2\)"),
    "offsets": ({"offsets": ((0.0, 0.5), (0.0, 0.0))}, r"its offsets is \(0, 0.5, 0.5, 0\), not \(0, 0.5, 0, 0\)"),
    "mask": ({"mask": None}, "its mask has values at 22 of 24 points, not at the same 24"),
}


@pytest.mark.parametrize("key", OTHER)
def test_a_statement_that_differs_is_refused_with_both_values_unless_it_is_accepted(tmp_path: Path, key: str) -> None:
    path, (changes, says) = save_file(tmp_path / "a.h5"), OTHER[key]
    spec = replace(SPEC, **changes)
    with pytest.raises(DataError, match=rf"a\.h5 does not fit solver '.*': {says}: .* data_may_differ to \[{key}\]") as error:
        trajectories.load(path, spec)
    assert str(error.value).count("\n") == 0
    assert trajectories.load(path, spec, [key]).frames.shape == (2, 5, 2, 4, 3)
    assert trajectories.load(path).frames.shape == (2, 5, 2, 4, 3)


def test_all_that_differs_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"its dt .*; its channels .* to \[name, dt, channels\]"):
        trajectories.load(save_file(tmp_path / "a.h5"), replace(SPEC, name="b", dt=3.0, channels=("a", "b")), ["name"])


@pytest.mark.parametrize(
    ("dt", "says"),
    [
        (0.4, r"dt is 0.1, not 0.4 \(4 of its steps\)"),
        (0.025, r"not 0.025 \(4 steps of that\)"),
        (0.13, "dt is 0.1, not 0.13: "),
    ],
)
def test_a_multiple_of_the_time_step_is_recognised(tmp_path: Path, dt: float, says: str) -> None:
    with pytest.raises(DataError, match=says):
        trajectories.load(save_file(tmp_path / "a.h5"), replace(SPEC, dt=dt))


def test_rounding_to_float32_is_no_difference(tmp_path: Path) -> None:
    path = save_file(tmp_path / "a.h5")
    say(path, "dt", np.float32(0.1))
    say(path, "spacing", np.array(SPEC.spacing, np.float32))
    say(path, "offsets", np.array(SPEC.offsets, np.float32))
    with h5py.File(path, "a") as file:
        positions = file["axes/u/x"][()]
        del file["axes/u/x"]
        file["axes/u/x"] = positions.astype(np.float32)
    assert trajectories.load(path, SPEC).frames.shape[0] == 2


@pytest.mark.parametrize("silent", ["channels", "channel_units", "parameter_units", "axes", "spacing", "offsets"])
@pytest.mark.parametrize("side", ["file", "solver"])
def test_what_is_empty_says_nothing(tmp_path: Path, silent: str, side: str) -> None:
    quiet = replace(SPEC, **{silent: ()})
    path = save_file(tmp_path / "a.h5", quiet if side == "file" else SPEC)
    assert trajectories.load(path, SPEC if side == "file" else quiet).mask.sum() == 22


def test_older_files_without_some_attributes_are_read_and_their_positions_compared(tmp_path: Path) -> None:
    path = save_file(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        for key in ("axes", "spacing", "offsets", "name", "dt", "channels", "channel_units", "parameters", "parameter_units"):
            del file.attrs[key]
    assert trajectories.load(path, SPEC).frames.shape[0] == 2
    with pytest.raises(DataError, match=r"its points of channel 0 along axis 1 are at .*, not 1, 3 \.\.\."):
        trajectories.load(path, replace(SPEC, spacing=(0.1, 2.0)))
    with pytest.raises(DataError, match="its points of channel 1 along axis 0 are at"):
        trajectories.load(path, replace(SPEC, offsets=((0.0, 0.5), (0.0, 0.0))))


def test_places_that_a_solver_without_spacing_wrote_are_no_positions(tmp_path: Path) -> None:
    path = save_file(tmp_path / "a.h5", replace(SPEC, spacing=(), offsets=()))
    assert trajectories.load(path, SPEC).frames.shape[0] == 2
    path = save_file(tmp_path / "b.h5", replace(SPEC, spacing=(1.0, 1.0), offsets=()))
    with pytest.raises(DataError, match=r"its spacing is \(1, 1\), not"):
        trajectories.load(path, SPEC)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("dt", "0.1", "its dt must be a positive number, not '0.1'"),
        ("dt", float("nan"), "its dt must be a positive number"),
        ("dt", -1.0, "its dt must be a positive number"),
        ("dt", [0.1, 0.2], "its dt must be a positive number"),
        ("dt", h5py.Empty("f8"), "its dt must be a positive number"),
        ("name", 3, "its name must be text, not"),
        ("channels", [1, 2], r"its channels must be a list of names, not array\(\[1, 2\]\)"),
        ("channels", '["u"]', "its channels must have 2 entries, not 1"),
        ("channel_units", '["m", "m", "m"]', "its channel_units must have 2 entries, not 3"),
        ("parameters", "nu", "its parameters must have 2 entries, not 1"),
        ("spacing", "wide", "its spacing must be a list of numbers, not 'wide'"),
        ("offsets", "[[0, 1], [2]]", "its offsets must be a list of numbers"),
    ],
)
def test_a_statement_that_is_none_is_said(tmp_path: Path, key: str, value: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        trajectories.load(say(save_file(tmp_path / "a.h5"), key, value), SPEC)


@pytest.mark.parametrize("given", ["name", ["shape"], [3]])
def test_only_statements_can_be_accepted(tmp_path: Path, given: Any) -> None:
    with pytest.raises(ConfigError, match="data_may_differ"):
        trajectories.load(save_file(tmp_path / "a.h5"), SPEC, given)


def test_data_that_were_loaded_are_saved_for_another_solver_under_its_name(tmp_path: Path) -> None:
    path = save_file(tmp_path / "a.h5")
    say(path, "note", json.dumps({"by": "me"}))
    other = replace(SPEC, name="other", dt=0.2)
    trajectories.save(tmp_path / "b.h5", trajectories.load(path, SPEC), other)
    again = trajectories.load(tmp_path / "b.h5", other)
    assert again.attributes["note"] == '{"by": "me"}' and again.attributes["dt"] == 0.2
    with pytest.raises(DataError, match="made for solver 'other', not 'flow'"):
        trajectories.load(tmp_path / "b.h5", SPEC)


def test_data_loaded_without_a_solver_are_compared_when_it_steps_them(tmp_path: Path) -> None:
    data = trajectories.load(say(line_data(tmp_path / "a.h5"), "dt", 7.0))
    with pytest.raises(DataError, match=r"the data does not fit solver 'burgers': its dt is 7, not 0\.01"):
        advance_frames(Burgers(), data)


def test_a_solver_and_its_differentiable_twin_differ_in_name_only() -> None:
    fast, exact = (metadata.metadata_of_solver(solver.spec) for solver in (WakeFlow(8), PhiFlowWake(8)))
    assert list(metadata.differences(fast, exact)) == ["name"]


class SlowTwin(DifferentiableBurgers):
    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, name="twin", dt=0.02)


class Twin(DifferentiableBurgers):
    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, name="twin")


def component(kind: type) -> Component:
    return Component(f"{Path(__file__).resolve()}:{kind.__name__}")


def train_run(folder: Path, **changes: Any) -> Path:
    """Train a run on honest data."""
    settings = train_settings(folder / "run", line_data(folder / "honest.h5"), updates=1, **changes)
    train(settings)
    return settings.run


WAYS: dict[str, Callable[[Path, Path], object]] = {
    "train": lambda folder, data: train(train_settings(folder / "new", data, updates=1)),
    "train FO-SOL": lambda folder, data: train(
        train_settings(folder / "new", data, updates=1, method="FO-SOL", differentiable_solver=component(Twin))
    ),
    "compare": lambda folder, data: compare({"NON": train_run(folder, method="NON")}, data, 2),
    "serve": lambda folder, data: models_of_run(train_run(folder, method="NON"), data),
    "check-gradient": lambda folder, data: check_gradients(
        CheckSettings(folder / "out", data, Component("problems.Burgers"), network=Component("small", {"width": 3}))
    ),
    "check": lambda folder, data: check_named_solver(CheckSolverSettings("problems.Burgers", data=data, seconds=1)),
}


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.slow if way == "check" else ()) for way in WAYS])
def test_data_of_another_time_step_are_refused_wherever_they_meet_a_solver(tmp_path: Path, way: str) -> None:
    data = say(line_data(tmp_path / "wrong.h5"), "dt", 7.0)
    with pytest.raises(DataError, match=r"wrong\.h5 does not fit .*its dt is 7, not 0\.01"):
        WAYS[way](tmp_path, data)


def test_the_command_line_says_it_in_a_sentence_and_takes_what_is_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, data = train_run(tmp_path, method="NON"), say(line_data(tmp_path / "wrong.h5"), "name", "other")
    arguments = ["evaluate", "--run", str(run), "--data", str(data), "--steps", "2"]
    assert main(arguments) == 2
    assert "made for solver 'other', not 'burgers'" in capsys.readouterr().err
    assert main([*arguments, "--data_may_differ", "[name]"]) == 0
    assert main([*arguments, "--data_may_differ", "[nme]"]) == 2


def test_what_a_run_accepts_holds_for_whoever_uses_it(tmp_path: Path) -> None:
    data = say(line_data(tmp_path / "named.h5"), "name", "other")
    settings = train_settings(tmp_path / "run", data, updates=1, method="NON", data_may_differ=["name"])
    train(settings)
    assert train(settings).step == 1
    assert "NON" in compare({"NON": settings.run}, data, 2).methods
    assert "loss" in models_of_run(settings.run)[0]


def test_what_the_solver_does_not_say_is_compared_with_the_data_of_training(tmp_path: Path) -> None:
    run, data = train_run(tmp_path, method="NON"), line_data(tmp_path / "test.h5")
    with h5py.File(tmp_path / "honest.h5", "a") as file:
        file.attrs["channel_units"] = '["m/s"]'
    say(data, "channel_units", '["km/h"]')
    with pytest.raises(DataError, match=r"fit .*honest\.h5, which .* was trained on: .*\(km/h\), not \(m/s\)"):
        compare({"NON": run}, data, 2)
    assert compare({"NON": run}, data, 2, ["channel_units"]).methods


def test_a_twin_that_takes_another_step_is_refused(tmp_path: Path) -> None:
    data = line_data(tmp_path / "line.h5")
    settings = CheckSettings(tmp_path / "out", data, Component("problems.Burgers"), component(SlowTwin))
    with pytest.raises(
        ConfigError, match=r"'twin' must take the same step as solver 'burgers', but its dt is 0\.02, not 0\.01"
    ):
        check_gradients(settings)
    changes = {"sparsity": 0.5, "layer_ratios": Component("grasp"), "differentiable_solver": component(SlowTwin)}
    with pytest.raises(DeepZeroError, match="must take the same step"):
        train(train_settings(tmp_path / "run", data, updates=1, **changes))


@pytest.mark.slow
def test_the_demo_s_twin_trains_on_the_data_of_the_fast_solver(tmp_path: Path) -> None:
    solver = WakeFlow(8)
    frames = np.zeros((1, 6, *solver.spec.state_shape), np.float32)
    frames[:, :, 0, :, :-1] = 1.0
    data = Trajectories(frames, np.full((1, 1), 100.0, np.float32), solver.spec.active())
    trajectories.save(tmp_path / "wake.h5", data, solver.spec)
    twin = Component("deepzero_sim.solvers.PhiFlowWake", {"resolution": 8})
    wake = Component("deepzero_sim.solvers.WakeFlow", {"resolution": 8})
    changes = {"method": "FO-SOL", "solver": wake, "differentiable_solver": twin, "updates": 1}
    assert train(train_settings(tmp_path / "run", tmp_path / "wake.h5", **changes)).step == 1
    with pytest.raises(DataError, match="made for solver 'wake', not 'wake-phiflow'"):
        trajectories.load(tmp_path / "wake.h5", PhiFlowWake(8).spec)


def test_frames_are_torch_s_whatever_byte_order_they_were_written_in(tmp_path: Path) -> None:
    path = line_data(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        frames = file["frames"][()]
        del file["frames"]
        file["frames"] = frames.astype(">f8")
    found = trajectories.load(path).frames
    assert torch.equal(torch.from_numpy(found), torch.from_numpy(frames))


def test_numbers_too_large_for_the_solver_s_precision_are_refused(tmp_path: Path) -> None:
    spec = Burgers().spec
    frames = 1e300 * initial_states(2)[:, None]
    trajectories.save(tmp_path / "a.h5", Trajectories(frames, np.zeros((2, 0)), spec.active()), spec)
    assert trajectories.load(tmp_path / "a.h5", spec).frames.max() > 1e299
    with pytest.raises(DataError, match="holds numbers too large for float32"):
        trajectories.load(tmp_path / "a.h5", Burgers(dtype="float32").spec)


def test_a_report_says_where_the_data_come_from(tmp_path: Path) -> None:
    run, data = train_run(tmp_path, method="NON"), line_data(tmp_path / "test.h5")
    made = {"simulations": {"reference": {"name": "fine", "args": {"cells": 64}}, "restrict": "user.py:restrict"}}
    say(say(data, "settings", json.dumps(made)), "software", json.dumps({"numpy": "2"}))
    comparison = compare({"NON": run}, data, 2)
    assert comparison.data == {
        "name": "burgers",
        "dt": 0.01,
        "reference": {"name": "fine", "args": {"cells": 64}},
        "restrict": "user.py:restrict",
        "software": {"numpy": "2"},
    }
    publish(tmp_path / "out", "Title", comparison, {})
    assert "restrict: user.py:restrict" in (tmp_path / "out" / "report.md").read_text()
