"""`deepzero-sim convert`, and foreign files where commands take trajectories."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from problems import Burgers
from training_cases import line_data, train_settings

from deepzero_sim.cli.main import main
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.foreign import read_recording
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.errors import RunError
from deepzero_sim.training.runs.trained_run import parts_without_trust, run_settings
from deepzero_sim.training.runs.training import train

POINTS = 32
X = (np.arange(POINTS) + 0.5) / POINTS
AXES = ["--axes", "[simulation, time, x]"]

SOLVER = """
import numpy as np
import deepzero_sim as dz

class Decay(dz.Solver):
    def __init__(self, points=8):
        self.spec = dz.SolverSpec(
            name="decay", state_shape=(1, points), dt=0.2, channels=("u",), channel_units=("m/s",), axes=("x",),
            spacing=(1 / points,), offsets=((0.5,),),
        )

    def step(self, states, params=None):
        return states * np.float32(0.9)

def shifted(states, spec):
    return states.reshape(len(states), 1, 8, 4).mean(axis=3) + 1

def wrong(states, spec):
    return states
"""
NAMED = "{name: 'decay.py:Decay'}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "decay.py").write_text(SOLVER)
    frames = np.random.default_rng(0).normal(size=(3, 9, POINTS)) * 0.95 ** np.arange(9)[:, None]
    np.savez("data.npz", u=frames, x=X, t=0.1 * np.arange(9))
    return tmp_path


def frames_of(path: str) -> np.ndarray:
    with np.load(path) as file:
        return file["u"]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must be refused in one sentence; returns it."""
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("deepzero-sim: ")
    assert error.count("\n") == 1
    return error


def test_data_are_converted_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "data.npz", *AXES, "--output", "made.h5"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("npz", "x: 32 points", "0.1 apart", "u -", "made.h5 made"):
        assert words in shown
    data = trajectories.load(Path("made.h5"))
    np.testing.assert_array_equal(data.frames[:, :, 0], frames_of("data.npz"))
    np.testing.assert_allclose(data.times, 0.1 * np.arange(9), atol=1e-12)
    with h5py.File("made.h5") as file:
        assert "name" not in file.attrs  # they are of no solver of ours
        np.testing.assert_allclose(file["axes/u/x"], X)
        assert json.loads(file.attrs["converted_from"])["layout"] == "npz"


def test_data_are_fitted_to_a_solver(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitting = ["--solver", NAMED, "--restrict", "block_mean"]
    assert main(["convert", "data.npz", *AXES, "--output", "made.h5", *fitting]) == 0
    assert "one frame in 2 is taken" in capsys.readouterr().out
    data = trajectories.load(Path("made.h5"))
    expected = frames_of("data.npz")[:, ::2].reshape(3, 5, 1, 8, 4).mean(axis=4)
    np.testing.assert_allclose(data.frames, expected, atol=1e-6)
    assert data.metadata is not None
    assert (data.metadata.name, data.metadata.dt) == ("decay", pytest.approx(0.2))
    assert main(["check", "decay.py:Decay", "--data", "made.h5", "--seconds", "1"]) == 0


def test_uneven_positions_are_kept(folder: Path) -> None:
    uneven = np.linspace(0, 1, POINTS) ** 1.5
    np.savez("uneven.npz", u=np.broadcast_to(3 * uneven - 1, (2, 9, POINTS)), x=uneven, t=0.1 * np.arange(9))
    assert main(["convert", "uneven.npz", *AXES, "--output", "made.h5"]) == 0
    data = trajectories.load(Path("made.h5"))
    assert data.metadata is not None
    np.testing.assert_allclose(data.metadata.positions[0, 0], uneven)
    assert main(["convert", "made.h5", "--output", "fitted.h5", "--solver", NAMED, "--restrict", "interpolation"]) == 0
    expected = 3 * (np.arange(8) + 0.5) / 8 - 1
    np.testing.assert_allclose(trajectories.load(Path("fitted.h5")).frames[1, 2, 0], expected, atol=1e-6)


def test_there_and_back_through_the_well_s_layout(folder: Path) -> None:
    assert main(["convert", "data.npz", *AXES, "--output", "well.h5", "--to", "well"]) == 0
    recording = read_recording("well.h5")
    np.testing.assert_array_equal(recording.frames[:][:, :, 0], frames_of("data.npz").astype(np.float32))
    assert main(["convert", "well.h5", "--output", "back.h5"]) == 0
    np.testing.assert_allclose(trajectories.load(Path("back.h5")).frames[:, :, 0], frames_of("data.npz"), rtol=1e-6)


def test_nothing_is_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.h5").write_text("my notes")
    assert "is there already" in refused(capsys, "convert", "data.npz", *AXES, "--output", "mine.h5")
    assert (folder / "mine.h5").read_text() == "my notes"
    assert "is there already" in refused(capsys, "convert", "data.npz", *AXES, "--output", "data.npz")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "not on the grid of solver 'decay': along x, u has 32 points, not 8: set restrict to what suits (block_mean"),
        (("--restrict", "face_mean", "--every", "3"), "2 of them make a step"),
        (("--restrict", "decay.py:wrong"), "decay.py:wrong must return states of solver 'decay', an array of shape (1, 1, 8)"),
        (("--restrict", "decay.py:missing"), "has no 'missing'"),
        (("--restrict", "blockmean"), "did you mean 'block_mean'"),
        (("--restrict", "injection"), "by injection: along x, u would give values at"),
        (("--restrict", "block_mean", "--solver.args.points", "5"), "32 points, no whole multiple of 5"),
        (("--channels", "{u: v}", "--restrict", "block_mean"), "channels (v), but solver 'decay' takes (u)"),
    ],
)  # fmt: skip
def test_a_conversion_that_cannot_be_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    assert sentence in refused(capsys, "convert", "data.npz", *AXES, "--output", "made.h5", "--solver", NAMED, *words)
    after = sorted(path.name for path in folder.iterdir())
    assert [name for name in after if name != "__pycache__"] == before


def test_a_file_that_turns_out_damaged_half_way_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "data.npz", *AXES, "--output", "made.h5"]) == 0
    content = bytearray((folder / "made.h5").read_bytes())
    place = bytes(content).index(frames_of("data.npz")[2, 8].tobytes())
    content[place] ^= 1
    (folder / "damaged.h5").write_bytes(content)
    refused(capsys, "convert", "damaged.h5", "--output", "again.h5")
    assert not list(folder.glob("*again*")) + list(folder.glob(".*again*"))


def test_restrictions_without_a_solver_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, "convert", "data.npz", *AXES, "--output", "made.h5", "--restrict", "block_mean")
    assert "needs the grid of a solver: name one by solver" in error
    np.savez("timeless.npz", u=frames_of("data.npz"))
    assert "give the distance of its frames in time by dt" in refused(
        capsys, "convert", "timeless.npz", *AXES, "--output", "made.h5"
    )
    assert main(["convert", "timeless.npz", *AXES, "--output", "made.h5", "--dt", "0.5"]) == 0
    assert trajectories.load(Path("made.h5")).metadata.dt == 0.5


def test_commands_take_foreign_files_with_what_has_to_be_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = ["--data", "data.npz", "--data.axes", "[simulation, time, x]", "--data.restrict", "block_mean"]
    assert main(["check", "decay.py:Decay", *said, "--seconds", "1"]) == 0
    assert "what the axes of u of data.npz are" in refused(capsys, "check", "decay.py:Decay", "--data", "data.npz")


def burgers_npz(path: Path) -> DataSource:
    """Frames of Burgers' equation in a foreign file, and what has to be said of them."""
    data = trajectories.load(line_data(path.with_suffix(".h5")), Burgers().spec)
    np.savez(path, u=data.frames)
    roles = ["simulation", "time", "channel", *(f"axis_{i}" for i in range(data.frames.ndim - 3))]
    return DataSource(path, axes=roles)


def test_a_run_trains_on_a_foreign_file_and_goes_on_with_it(folder: Path) -> None:
    source = burgers_npz(folder / "line.npz")
    ours = train(train_settings(folder / "ours", folder / "line.h5", method="NON", updates=2))
    settings = train_settings(folder / "run", source, method="NON", updates=2)
    said: list[str] = []
    theirs = train(settings, note=said.append)
    assert sum("says no times" in sentence for sentence in said) == 1
    assert theirs.loss == ours.loss
    assert yaml.safe_load((folder / "run" / "config.yaml").read_text())["train_data"]["path"] == str(source.path)
    assert train(settings).step == 2
    with pytest.raises(RunError, match=r"holds a run with other settings .train_data"):
        train(
            train_settings(
                folder / "run",
                replace(source, simulations=[0, 1]),
                method="NON",
                updates=2,
            )
        )
    words = [
        "evaluate",
        "--run",
        str(folder / "run"),
        "--data",
        yaml.safe_dump({"path": str(source.path), "axes": source.axes}),
    ]
    assert main(words) == 0


def test_a_run_refuses_a_foreign_file_that_was_changed(folder: Path) -> None:
    source = burgers_npz(folder / "line.npz")
    train(train_settings(folder / "run", source, method="NON", updates=2))
    with np.load(folder / "line.npz") as file:
        frames = file["u"]
    np.savez(folder / "line.npz", u=frames[:, ::-1])
    with pytest.raises(RunError, match="train_data that held something else"):
        train(train_settings(folder / "run", source, method="NON", updates=2))


def test_a_function_that_restricts_training_data_of_others_is_not_imported_without_trust(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = burgers_npz(folder / "line.npz")
    (folder / "mine.py").write_text("def restrict(states, spec):\n    return states\n")
    monkeypatch.setattr("deepzero_sim.training.runs.trust._trusted", set())
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    settings = train_settings(folder / "run", replace(source, restrict="mine.py:restrict"), method="NON", updates=1)
    train(settings)
    assert not parts_without_trust(folder / "run")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert run_settings(folder / "run").train_data.function == f"{folder}/mine.py:restrict"
    assert not parts_without_trust(folder / "run")
    monkeypatch.setattr("deepzero_sim.training.runs.trust._trusted", set())
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "others"))
    assert parts_without_trust(folder / "run")["restrict"].name == f"{folder}/mine.py:restrict"
