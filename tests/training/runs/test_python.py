"""The way in from Python: one call trains, what it returns is saved and loaded, and what cannot be used is a sentence."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from problems import Burgers, initial_states
from torch import nn

import deepzero_sim as dz
from deepzero_sim.common import components
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import Trajectories, trajectories
from deepzero_sim.training.runs import python
from deepzero_sim.training.runs.comparison import cost
from deepzero_sim.training.runs.trained_run import run_settings

SPEC = dz.SolverSpec(name="decay", state_shape=(1, 8), dt=0.1, parameters="rate", stencil=0)  # type: ignore[arg-type]

#: A few cheap updates, without processes; each test that needs other ones says so.
FEW: dict[str, Any] = {"updates": 4, "unroll": 2, "workers": {"backend": "serial"}, "held_back": 0, "progress": False}


def decay(states: Array, params: Array) -> Array:
    """Take an explicit step of `ds/dt = -rate s`, too coarse by its square."""
    return states * (1 - 0.1 * params[:, :, None]).astype(states.dtype)


def arrays(simulations: int = 4, frames: int = 6) -> tuple[Array, Array]:
    """Return exact solutions and their rates."""
    rates = np.linspace(1, 3, simulations, dtype=np.float32)[:, None]
    times = 0.1 * np.arange(frames)
    starts = np.random.default_rng(0).normal(1, 0.3, size=(simulations, 1, 1, 8))
    return (starts * np.exp(-rates[:, :, None, None] * times[None, :, None, None])).astype(np.float32), rates


def solver() -> dz.Solver:
    return dz.as_solver(decay, SPEC)


def same(one: dz.SolverLoop, other: dz.SolverLoop) -> bool:
    frames, rates = arrays()
    return torch.equal(one.rollout(frames[:, 0], rates, 3), other.rollout(frames[:, 0], rates, 3))


def improves(loop: dz.SolverLoop) -> bool:
    frames, rates = arrays()
    alone = dz.SolverLoop(solver(), dz.models.NoCorrection())
    return dz.evaluate(loop, frames, rates).mae < 0.7 * dz.evaluate(alone, frames, rates).mae


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where temporary folders lie."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


# ---- one call


def test_one_call_trains_by_non_and_then_through_the_solver(temporary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = dz.train(solver(), arrays(), updates=60, unroll=2, batch_size=8, held_back=0, workers={"backend": "serial"})
    said = capsys.readouterr().out
    assert "SolverLayer begins with the network of NON, in two stages" in said
    assert "training NON: 60 of 60" in said and "training SolverLayer: 60 of 60" in said
    assert improves(loop) and "unroll=2, trained by SolverLayer with Auto, 60 updates)" in repr(loop)
    assert "Detached" not in repr(loop)
    assert not list(temporary.glob("deepzero-sim-*"))


def test_built_in_networks_have_the_scales_of_the_data() -> None:
    data = Trajectories(*arrays())
    loop = dz.train(solver(), data, "NON", **FEW)
    torch.testing.assert_close(loop.corrector.state_scale.flatten(), torch.from_numpy(data.scales()[0]).float())


def test_in_silence_nothing_is_printed_and_what_got_worse_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    absurd = {"name": "torch.optim.Adam", "args": {"lr": 0.2}}
    with pytest.warns(dz.TrainingWarning, match="training made the network worse"):
        dz.train(solver(), arrays(), "NON", **{**FEW, "held_back": 1}, optimiser=absurd, scheduler=None)
    dz.train(solver(), arrays(), "NON", **FEW)
    assert capsys.readouterr().out == ""


def test_threads_and_draws_of_the_caller_are_left_alone() -> None:
    torch.set_num_threads(2)
    before = torch.random.get_rng_state()
    dz.train(solver(), arrays(), "NON", **FEW)
    assert torch.get_num_threads() == 2 and torch.equal(torch.random.get_rng_state(), before)


# ---- what solvers, networks and data may be


def file_solver(folder: Path) -> str:
    """Write a file with the solver, and name it."""
    (folder / "coarse.py").write_text(
        "import numpy as np\nimport deepzero_sim as dz\n\n\nclass Decay(dz.Solver):\n    def __init__(self, name='decay'):\n"
        "        self.spec = dz.SolverSpec(name=name, state_shape=(1, 8), dt=0.1, parameters='rate', stencil=0)\n\n"
        "    def step(self, states, params=None):\n"
        "        return states * (1 - 0.1 * params[:, :, None]).astype(states.dtype)\n"
    )
    return f"{folder / 'coarse.py'}:Decay"


def test_a_solver_is_an_object_a_class_or_a_name(tmp_path: Path) -> None:
    class Decay(dz.Solver):
        def __init__(self) -> None:
            self.spec = SPEC

        def step(self, states: Array, params: Array | None = None) -> Array:
            assert params is not None
            return decay(states, params)

    name = file_solver(tmp_path)
    expected = dz.train(solver(), arrays(), "NON", **FEW)
    for given in (Decay(), Decay, name, {"name": name, "args": {"name": "decay"}}):
        assert same(dz.train(given, arrays(), "NON", **FEW), expected)


class Own(nn.Module):
    """A network of a user's, which knows no scales."""

    def __init__(self, spec: dz.SolverSpec) -> None:
        super().__init__()
        self.layer = nn.Conv1d(2, 1, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, states: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.cat([states, params[:, :, None].expand(-1, -1, 8)], dim=1))


def test_a_network_is_a_module_a_function_or_a_name_with_arguments() -> None:
    def make(spec: dz.SolverSpec) -> nn.Module:
        return Own(spec)

    module = Own(SPEC)
    loops = [dz.train(solver(), arrays(), "NON", network, **FEW) for network in (module, Own, make)]
    assert same(loops[0], loops[1]) and same(loops[1], loops[2])
    assert not any(parameter.any() for parameter in module.parameters())  # a copy was trained
    assert any(parameter.any() for parameter in loops[0].corrector.parameters())
    wide = dz.train(solver(), arrays(), "NON", {"name": "small", "args": {"width": 3}}, **FEW)
    assert wide.corrector.network[0].out_channels == 3


def test_data_are_arrays_tensors_trajectories_or_a_path(tmp_path: Path) -> None:
    frames, rates = arrays()
    trajectories.save(tmp_path / "data.h5", Trajectories(frames, rates), SPEC)
    given = [
        (frames, rates),
        (torch.from_numpy(frames), torch.from_numpy(rates)),
        (frames.astype("float64"), rates.astype("float64")),
        Trajectories(frames, rates),
        tmp_path / "data.h5",
        str(tmp_path / "data.h5"),
        dz.datasets.DataSource(tmp_path / "data.h5"),
    ]
    loops = [dz.train(solver(), data, "NON", **FEW) for data in given]
    assert all(same(loop, loops[0]) for loop in loops)


def test_frames_alone_are_enough_for_a_solver_without_parameters() -> None:
    frames = np.stack([initial_states(3)] * 4, axis=1)
    loop = dz.train(Burgers(), frames, "NON", **FEW)
    assert loop.solver.spec.name == "burgers"


# ---- run folders


def test_a_run_folder_is_one_of_the_command_line(tmp_path: Path) -> None:
    loop = dz.train(file_solver(tmp_path), arrays(), run=tmp_path / "run", tensorboard=False, **FEW)
    assert {folder.name for folder in (tmp_path / "run").iterdir()} == {
        "1-NON",
        "2-SolverLayer",
        "stages.json",
        "train_data.h5",
    }
    assert same(dz.load_run(tmp_path / "run"), loop) and same(dz.load_run(str(tmp_path / "run" / "2-SolverLayer")), loop)


def test_a_run_is_loaded_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file_solver(tmp_path)
    monkeypatch.chdir(tmp_path)
    loop = dz.train("coarse.py:Decay", arrays(), "NON", run="run", tensorboard=False, **FEW)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert same(dz.load_run("../run"), loop)


def train_slowly(folder: Path, updates: int) -> None:
    def slow(states: Array, params: Array) -> Array:
        time.sleep(0.02)
        return decay(states, params)

    dz.train(dz.as_solver(slow, SPEC), arrays(), "DETACHED", run=folder, tensorboard=False, stages=[], checkpoint_every=1,
             **{**FEW, "updates": updates})  # fmt: skip


def test_a_run_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=train_slowly, args=(tmp_path / "killed", 40))
    process.start()
    checkpoint, until = tmp_path / "killed" / "checkpoint.safetensors", time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    train_slowly(tmp_path / "killed", 40)
    train_slowly(tmp_path / "undisturbed", 40)
    files = [(tmp_path / name / "checkpoint.safetensors") for name in ("killed", "undisturbed")]
    one, other = (python.load_checkpoint(file.parent).tensors for file in files)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_of_an_object_wants_that_object_again(tmp_path: Path) -> None:
    loop = dz.train(solver(), arrays(), "NON", Own(SPEC), run=tmp_path / "run", tensorboard=False, **FEW)
    recorded = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert recorded["solver"]["name"].startswith("handed-over-solver-")
    assert same(dz.load_run(tmp_path / "run", solver=solver(), network=Own(SPEC)), loop)
    with pytest.raises(
        dz.ConfigError, match=r"the solver of this run, .*, was an object in Python.*dz.load_run\(path, solver="
    ):
        dz.load_run(tmp_path / "run")
    with pytest.raises(dz.ConfigError, match=r"the network of this run, .*, was an object in Python"):
        dz.load_run(tmp_path / "run", solver=solver())
    with pytest.raises(dz.RunError, match="trained with a solver of another class and spec than the one that was handed over"):
        dz.load_run(tmp_path / "run", solver=Burgers(), network=Own)
    with pytest.raises(dz.RunError, match="with a network of another class and sizes of weights"):
        dz.load_run(tmp_path / "run", solver=solver(), network=nn.Identity())


def test_a_solver_that_is_given_takes_the_place_of_the_one_that_a_run_names(tmp_path: Path) -> None:
    """It is held to the spec that was saved, else to the data; where there is neither, that is said."""
    loop = dz.train(file_solver(tmp_path), arrays(), "NON", run=tmp_path / "run", tensorboard=False, **FEW)
    loop.save(tmp_path / "saved")
    (tmp_path / "coarse.py").unlink()
    alike = dz.as_solver(decay, loop.solver.spec)
    other = dz.as_solver(decay, replace(loop.solver.spec, dt=0.2))
    for name in ("run", "saved"):
        with pytest.raises(dz.ConfigError, match=r"there is no file .*coarse\.py"):
            dz.load_run(tmp_path / name)
        assert same(dz.load_run(tmp_path / name, solver=alike), loop)
    with pytest.raises(dz.RunError, match=r"trained with a solver of dt 0\.1, and the one that was handed over has 0\.2"):
        dz.load_run(tmp_path / "saved", solver=other)
    with pytest.raises(dz.DataError, match="dt"):
        dz.load_run(tmp_path / "run", solver=other)
    (tmp_path / "run" / "train_data.h5").unlink()
    with pytest.warns(dz.TrainingWarning, match="nothing says what the solver of .*run was like"):
        assert same(dz.load_run(tmp_path / "run", solver=alike), loop)


def test_a_loop_that_was_saved_is_loaded_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative names of code and data are found where its training began, also when it is saved again from elsewhere."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    file_solver(home)
    monkeypatch.chdir(home)
    dz.datasets.save("data.h5", Trajectories(*arrays()), SPEC)
    loop = dz.train("coarse.py:Decay", "data.h5", "NON", **FEW)
    loop.save("saved")
    monkeypatch.chdir(elsewhere)
    found = dz.load_run(home / "saved")
    assert same(found, loop) and cost(home / "saved").solver_steps > 0
    found.save("again")
    monkeypatch.chdir(tmp_path)
    assert same(dz.load_run("elsewhere/again"), loop)
    assert run_settings(Path("elsewhere/again")).train_data == home / "data.h5"
    (home / "coarse.py").write_text((home / "coarse.py").read_text() + "\n")
    with pytest.warns(dz.TrainingWarning, match=r"coarse\.py is not what it was"):
        dz.load_run("elsewhere/again")


def test_a_run_of_others_needs_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = dz.train(file_solver(tmp_path), arrays(), "NON", run=tmp_path / "run", tensorboard=False, **FEW)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    monkeypatch.setattr("deepzero_sim.training.runs.trust._trusted", set())
    with pytest.raises(dz.RunError, match=r"was not made by you on this machine.*dz.load_run\(path, trust=True\)"):
        dz.load_run(tmp_path / "run")
    assert same(dz.load_run(tmp_path / "run", trust=True), loop)


def test_other_data_never_replace_those_of_a_run(tmp_path: Path) -> None:
    frames, rates = arrays()
    for _ in range(2):  # the second one finds that all is done
        dz.train(solver(), (frames, rates), "NON", run=tmp_path / "run", tensorboard=False, **FEW)
    with pytest.raises(dz.RunError, match=r"holds a run with other data \(train_data.h5\): hand over those, or name another"):
        dz.train(solver(), (frames * 2, rates), "NON", run=tmp_path / "run", tensorboard=False, **FEW)
    np.testing.assert_array_equal(trajectories.load(tmp_path / "run" / "train_data.h5").frames, frames)


def test_a_loop_that_was_saved_is_a_start(tmp_path: Path) -> None:
    loop = dz.train(solver(), arrays(), "NON", **FEW)
    loop.save(tmp_path / "saved")
    further = dz.train(solver(), arrays(), "DETACHED", start=tmp_path / "saved", **FEW)
    assert not same(further, loop)


# ---- saving


def test_a_loop_is_saved_as_it_is_now_and_loaded(tmp_path: Path) -> None:
    loop = dz.train(file_solver(tmp_path), arrays(), run=tmp_path / "run", tensorboard=False, **FEW)
    with torch.no_grad():
        for parameter in loop.corrector.parameters():
            parameter.add_(0.01)
    loop.save(str(tmp_path / "saved"))
    assert same(dz.load_run(tmp_path / "saved"), loop) and not same(dz.load_run(tmp_path / "run"), loop)
    found, expected = cost(tmp_path / "saved"), cost(tmp_path / "run" / "2-SolverLayer")
    assert (found.solver_steps, found.seconds, found.failures) == (expected.solver_steps, expected.seconds, expected.failures)
    again = dz.load_run(tmp_path / "saved")
    again.save(tmp_path / "saved")
    assert cost(tmp_path / "saved") == found and same(dz.load_run(tmp_path / "saved"), loop)


def test_saving_replaces_nothing_else(tmp_path: Path) -> None:
    loop = dz.train(solver(), arrays(), "NON", run=tmp_path / "run", tensorboard=False, **FEW)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    for name in ("run", "file", "folder"):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(dz.RunError, match="holds something else than a loop that was saved: name another folder"):
            loop.save(tmp_path / name)
        assert sorted(tmp_path.rglob("*")) == before


def test_saving_takes_nothing_away_that_somebody_put_beside_a_loop(tmp_path: Path) -> None:
    loop = dz.train(solver(), arrays(), "NON", **FEW)
    loop.save(tmp_path / "saved")
    (tmp_path / "saved" / "notes.txt").write_text("mine")
    with pytest.raises(dz.RunError, match=r"holds notes.txt besides a loop that was saved"):
        loop.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "notes.txt").read_text() == "mine"
    (tmp_path / "saved" / "notes.txt").unlink()
    (tmp_path / "link").symlink_to("saved")
    loop.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and same(dz.load_run(tmp_path / "saved", solver=solver()), loop)


def test_a_full_disk_leaves_what_was_saved_before(tiny_disk: Path) -> None:
    loop = dz.train(solver(), arrays(), "NON", **FEW)
    loop.save(tiny_disk / "saved")
    before = loop.rollout(arrays()[0][:, 0], arrays()[1], 2)
    (tiny_disk / "filler").write_bytes(bytes(240 * 1024 - sum(f.stat().st_size for f in (tiny_disk / "saved").iterdir())))
    with torch.no_grad():
        next(iter(loop.corrector.parameters())).add_(1.0)
    with pytest.raises(OSError, match="space"):
        loop.save(tiny_disk / "saved")
    assert torch.equal(dz.load_run(tiny_disk / "saved", solver=solver()).rollout(arrays()[0][:, 0], arrays()[1], 2), before)
    assert {one.name for one in tiny_disk.iterdir()} == {"saved", "filler"}


# ---- what cannot be used


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"updatse": 3}, dz.ConfigError, r"dz.train may have .*, not 'updatse' \(did you mean 'updates'\?\)"),
        ({"updates": 0}, dz.ConfigError, "updates must be a positive number"),
        ({"method": "BEST"}, dz.ConfigError, "method must be one of"),
        ({"solver": 3}, dz.ConfigError, r"solver must be a dz.Solver .*, not int"),
        ({"solver": {"nam": "x"}}, dz.ConfigError, "not keys nam"),
        ({"solver": "nowhere.Solver"}, dz.ConfigError, "there is no module 'nowhere'"),
        ({"network": 3}, dz.ConfigError, "network must be a torch.nn.Module, a function .*, not int"),
        ({"network": "huge"}, dz.ConfigError, "huge"),
        ({"network": lambda spec: 3}, dz.ConfigError, "must make a torch.nn.Module, not int"),
        ({"data": 3}, dz.ConfigError, r"data must be a path, trajectories, or arrays: .*, not int"),
        ({"data": ([1], [2])}, dz.ConfigError, "not a tuple of"),
        ({"data": "nowhere.h5"}, dz.DataError, "nowhere.h5"),
        ({"data": (np.zeros((4, 6, 1, 9)), np.ones((4, 1)))}, dz.DataError, r"holds states of shape \(1, 9\)"),
        ({"data": np.zeros((4, 6, 1, 8))}, dz.DataError, "holds 0 parameters a simulation, but solver 'decay' takes 1"),
        ({"data": (np.full((4, 6, 1, 8), np.nan), np.ones((4, 1)))}, dz.DataError, "NaN or infinity"),
        ({"run": 3}, dz.ConfigError, "run must be the path of a folder, or None"),
    ],
)
def test_what_cannot_be_used_is_a_sentence_and_leaves_nothing(
    temporary: Path, given: dict[str, Any], error: type[Exception], words: str
) -> None:
    settings: dict[str, Any] = {"solver": solver(), "data": arrays(), "method": "NON", "network": "small", **FEW, **given}
    with pytest.raises(error, match=words) as caught:
        dz.train(**settings)
    assert "\n" not in str(caught.value)
    assert not list(temporary.glob("deepzero-sim-*"))


def test_a_solver_that_fails_leaves_nothing_of_a_run_that_nobody_named(temporary: Path) -> None:
    def fail(states: Array, params: Array) -> Array:
        raise RuntimeError("no")

    with pytest.raises(dz.SolverCrashError, match="raised RuntimeError: no"):
        dz.train(dz.as_solver(fail, SPEC), arrays(), "NON", **FEW)
    assert not list(temporary.glob("deepzero-sim-*"))


def test_a_random_solver_is_refused_before_anything_is_trained(temporary: Path) -> None:
    spec = dz.SolverSpec(name="decay", state_shape=(1, 8), dt=0.1, parameters=("rate",), deterministic=False)
    asked: list[int] = []

    def count(states: Array, params: Array) -> Array:
        asked.append(len(states))
        return decay(states, params)

    with pytest.raises(dz.ConfigError, match="is not deterministic, so that differences of its steps say nothing"):
        dz.train(dz.as_solver(count, spec), arrays(), vjp="deepzero_sim.vjp.ReferenceJacobian", **FEW)
    assert not asked and not list(temporary.glob("deepzero-sim-*"))


def test_by_default_no_gradient_passes_a_random_solver(capsys: pytest.CaptureFixture[str]) -> None:
    spec = dz.SolverSpec(name="decay", state_shape=(1, 8), dt=0.1, parameters=("rate",), deterministic=False)
    dz.train(dz.as_solver(decay, spec), arrays(), **{**FEW, "progress": True})
    said = " ".join(capsys.readouterr().out.split())
    assert "Auto of solver 'decay': Detached was chosen: the solver is not deterministic" in said


def test_the_solver_alone_is_loaded_but_not_saved(tmp_path: Path) -> None:
    loop = dz.train(file_solver(tmp_path), arrays(), "SRC", run=tmp_path / "run", **FEW)
    assert same(dz.load_run(tmp_path / "run"), dz.SolverLoop(solver(), dz.models.NoCorrection()))
    with pytest.raises(dz.ConfigError, match="nothing was trained: there is nothing to save"):
        loop.save(tmp_path / "saved")


def test_nothing_that_was_handed_over_is_kept() -> None:
    dz.train(solver(), arrays(), "NON", Own, **FEW)
    assert not components._handed
