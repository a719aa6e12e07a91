"""The command line: what is typed wins over the file, and what goes wrong ends in one sentence and exit status 2."""

from __future__ import annotations

import json
import os
import re
import signal
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from problems import wait_until
from training_cases import (
    assert_same_tensors,
    config_file,
    fill,
    line_data,
    lines,
    start,
    tensors,
    train_settings,
    unfinished,
    without_seconds,
)

from deepzero_sim.cli.main import main, plain_warnings
from deepzero_sim.common.components import Component
from deepzero_sim.datasets import trajectories
from deepzero_sim.training.checkpoints import CHECKPOINT, load_checkpoint, read_settings
from deepzero_sim.training.run_folder import read_metrics
from deepzero_sim.training.runs.settings import TrainSettings, Workers
from deepzero_sim.training.runs.training import train

USER = """
    import numpy as np
    import torch
    from problems import Burgers

    class NaN(Burgers):
        def step(self, states, params=None):
            return states * np.nan

    class Raises(Burgers):
        def step(self, states, params=None):
            raise ValueError("no such state")

    class Shape(Burgers):
        def step(self, states, params=None):
            return states[:, :, :-1]

    class Type(Burgers):
        def step(self, states, params=None):
            return states.astype(np.float32)

    class Nothing(Burgers):
        def step(self, states, params=None):
            return None

    class Exits(Burgers):
        def step(self, states, params=None):
            raise SystemExit(0)

    class Changes(Burgers):
        def step(self, states, params=None):
            states *= 0.9
            return states

    class Bare(Burgers):
        def __init__(self):
            pass

    class Unmade(Burgers):
        def __init__(self):
            raise RuntimeError("no licence")

    def narrow(spec):
        return torch.nn.Linear(3, 3)

    class Narrow(torch.nn.Module):
        def __init__(self, spec):
            super().__init__()
            self.layer = torch.nn.Conv1d(2, 1, 3)

        def forward(self, states, params=None):
            return self.layer(states)

    class Cut(torch.nn.Module):
        def __init__(self, spec):
            super().__init__()
            self.layer = torch.nn.Conv1d(1, 1, 3)

        def forward(self, states, params=None):
            return self.layer(states)

    class Empty(torch.nn.Module):
        def __init__(self, spec):
            super().__init__()

    class Lazy(Empty):
        def __init__(self, spec):
            super().__init__(spec)
            self.layer = torch.nn.LazyConv1d(1, 3, padding=1)

    class Dropout(Empty):
        def __init__(self, spec):
            super().__init__(spec)
            self.layers = torch.nn.Sequential(torch.nn.Conv1d(1, 1, 3, padding=1), torch.nn.Dropout(0.5))

        def forward(self, states, params=None):
            return self.layers(states)

    class Chance(Burgers):
        def step(self, states, params=None):
            return super().step(states, params) * (1 + 1e-6 * np.random.random())

    def not_a_solver():
        return 3

    def leave(*arguments):
        raise SystemExit(0)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data, a solver file and a configuration of a quick training; the current folder."""
    (tmp_path / "user.py").write_text(textwrap.dedent(USER))
    (tmp_path / "exits.py").write_text("raise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)
    line_data(tmp_path / "line.h5")
    config_file(tmp_path / "train.yaml", settings(tmp_path))
    return tmp_path


def settings(folder: Path, **changes: Any) -> TrainSettings:
    return train_settings(folder / "run", folder / "line.h5", **({"method": "NON"} | changes))


def call(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def assert_sentence(errors: str, says: str) -> None:
    assert "Traceback" not in errors and errors.startswith("deepzero-sim: ") and errors.endswith(".\n"), errors
    assert errors.count("\n") == 1 and re.search(says, errors), errors


def assert_fails(capsys: pytest.CaptureFixture[str], says: str, *arguments: Any) -> None:
    status, out, err = call(capsys, *arguments)
    assert status == 2 and "Traceback" not in out
    assert_sentence(err, says)


# ---- what goes well


def test_train_and_evaluate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    status, out, err = call(capsys, "train", "--config", "train.yaml")
    assert (status, err) == (0, "") and "training NON" in out and "trained:" in out
    assert load_checkpoint(folder / "run").state["progress"]["step"] == 4
    status, out, err = call(capsys, "evaluate", "--run", "run", "--data", "line.h5", "--steps", 6)
    assert (status, err) == (0, "") and "SRC" in out and "NON" in out and "report.md" in out
    said = json.loads((folder / "run" / "results.json").read_text())
    assert said["methods"].keys() == {"SRC", "NON"} and said["settings"]["steps"] == 6
    assert not unfinished(folder)


def test_several_runs_are_compared_on_unseen_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    for method, run in (("NON", "run"), ("DETACHED", "one"), ("DETACHED", "two")):
        status, _, err = call(capsys, "train", "--config", "train.yaml", "--method", method, "--run", run)
        assert (status, err) == (0, "")
    line_data(folder / "unseen.h5", simulations=2, frames=9)
    status, out, err = call(capsys, "compare", "run", "one", "two", "--data", "unseen.h5", "--steps", 5, "--output", "compared")
    assert (status, err) == (0, "") and "report: compared/report.md" in out
    said = json.loads((folder / "compared" / "results.json").read_text())
    assert list(said["methods"]) == ["SRC", "NON", "DETACHED, one", "DETACHED, two"] and said["settings"]["steps"] == 5
    page = (folder / "compared" / "report.md").read_text()
    assert re.search(r"over 5 steps to t = [0-9.]+ of 2 simulations", page)
    assert all(f"| {name} |" in page for name in said["methods"])
    assert (folder / "compared" / "error_over_time.png").stat().st_size > 5000
    one, two = (said["methods"][f"DETACHED, {name}"] for name in ("one", "two"))
    assert one["mae"] == two["mae"] != said["methods"]["NON"]["mae"]
    status, _, err = call(capsys, "compare", "run", "one")
    assert status == 2 and "give --data if they are runs of 'deepzero-sim train'" in err
    status, _, err = call(capsys, "compare", "run", "--steps", 5)
    assert status == 2 and "steps are those of rollouts, which need data" in err
    status, _, err = call(capsys, "compare", "run", "--data", "unseen.h5", "--output", "run")
    assert status == 2 and "output run is the folder of a run" in err
    status, _, err = call(capsys, "compare", "run", "nowhere", "--data", "unseen.h5")
    assert status == 2 and "nowhere" in err and err.count("\n") == 1


def test_options_win_over_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    optimiser = '{"lr": 0.5, "momentum": 0.25}'
    options = ["--updates", 3, "--optimiser.name", "torch.optim.SGD", "--optimiser.args", optimiser, "--workers.count", 1]
    status, _, err = call(capsys, "train", "--config", "train.yaml", "--solver.args", '{"points": 16}', "--seed", 7, *options)
    assert (status, err) == (0, "")
    said = read_settings(folder / "run")
    assert said["updates"] == 3 and said["seed"] == 7 and said["solver"] == {"name": "problems.Burgers", "args": {"points": 16}}
    assert said["optimiser"] == {"name": "torch.optim.SGD", "args": {"lr": 0.5, "momentum": 0.25}} and said["unroll"] == 3
    assert said["workers"]["count"] == 1
    assert load_checkpoint(folder / "run").state["optimiser"]["param_groups"][0]["momentum"] == 0.25


def test_a_file_may_leave_out_what_has_a_default(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = {"train_data": "line.h5", "method": "SRC", "solver": {"name": "problems.Burgers"}}
    (folder / "few.yaml").write_text(yaml.safe_dump(few))
    assert call(capsys, "train", "--config", "few.yaml", "--run", "few")[::2] == (0, "")
    assert (
        read_settings(folder / "few")["batch_size"] == TrainSettings(folder, folder, Component("problems.Burgers")).batch_size
    )


def test_nothing_in_a_file_is_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "train", "--config", "train.yaml", "--scheduler", "null", "--start", "null")
    assert (status, err) == (0, "") and read_settings(folder / "run")["scheduler"] is None


def test_a_solver_of_ones_own_in_worker_processes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.py").write_text("from problems import Burgers\n\nclass Mine(Burgers):\n    pass\n")
    config_file(folder / "zo.yaml", settings(folder, method="ZO-SOL", solver=Component("mine.py:Mine"), updates=1))
    assert call(capsys, "train", "--config", "zo.yaml", "--workers.backend", "process", "--workers.count", 2)[::2] == (0, "")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["demo", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0 and "deepzero-sim" in capsys.readouterr().out


WAKE = {
    "simulations": {
        "reference": {"name": "deepzero_sim.solvers.WakeFlow", "args": {"resolution": 16}},
        "source": {"name": "deepzero_sim.solvers.WakeFlow", "args": {"resolution": 8}},
        "initial": "deepzero_sim.solvers.wake.initial_state",
        "restrict": "deepzero_sim.solvers.wake.restrict",
        "steps": 30,
        "discard": 20,
    },
    "files": [{"output": "wake.h5", "params": [[100.0], [200.0]]}, {"output": "test.h5", "params": [[150.0]]}],
    "workers": {"backend": "serial", "count": 1},
}


def test_generate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "generate.yaml").write_text(yaml.safe_dump(WAKE))
    status, out, err = call(capsys, "generate", "--config", "generate.yaml", "--simulations.steps", 25)
    assert (status, err) == (0, "") and "wake.h5 made" in out and "test.h5 made" in out
    assert trajectories.load(folder / "wake.h5").frames.shape == (2, 6, 2, 17, 9)
    status, out, err = call(capsys, "generate", "--config", "generate.yaml", "--simulations.steps", 25)
    assert (status, err) == (0, "") and out.count("is there already") == 2
    assert_fails(capsys, "wake.h5 was made with other settings", "generate", "--config", "generate.yaml")


# ---- what was typed or written wrongly


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\nlearning_rate: 1\n", "learning_rate"),
        ("run: a\ntrain_data: b\nsolver:\n  nam: c\n", "nam"),
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\nworkers:\n  counts: 2\n", "counts"),
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\nupdates: many\n", "updates.*many"),
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\nupdates: 1.5\n", "updates.*1.5"),
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\nmethod: ZO\n", "method.*ZO"),
        ("run: a\ntrain_data: b\nsolver: [1]\n", "solver"),
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\nupdates: 0\n", "updates must be a positive number .*not 0"),
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\nseed: -1\n", "seed must be"),
        ("train_data: b\n", "run"),
        ("run: a\n", "train_data"),
        ("run: a\ntrain_data: b\n", "the following settings are required: solver"),
        ("", "config"),
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\nupdates: null\n", "updates must have a value, not null"),
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\nmethod: null\n", "method must have a value, not null"),
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\ntensorboard: null\n", "tensorboard must have a value, not null"),
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\nworkers: null\n", "workers must have a value, not null"),
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\nworkers: {count: null}\n", "workers.count must have a value, not null"),
        (
            "run: a\ntrain_data: b\nsolver: {name: c.D}\noptimiser: {name: torch.optim.SGD, args: null}\n",
            "optimiser.args must have a value",
        ),
        (
            "run: a\ntrain_data: b\nsolver: {name: c.D}\nscheduler: {name: x.Y, args: null}\n",
            "scheduler.args must have a value",
        ),
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\nworkers: 3\n", r"workers must hold keys \(backend, count\), not 3"),
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\nworkers: [3]\n", r"workers must hold keys \(backend, count\), not \[3\]"),
        ("run: a\ntrain_data: b\nsolver: problems.Burgers\n", "solver must hold keys with values, .*not problems.Burgers"),
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\nscheduler: 3\n", "scheduler must hold keys with values, .*not 3"),
        ("run: a\ntrain_data: b\nsolver: {name: x.Y, args: &a {b: *a}}\n", "contain themselves"),
        (f"run: a\ntrain_data: b\nsolver: {{name: c.D}}\nseed: {10**30}\n", "seed must be"),
        (f"run: a\ntrain_data: b\nsolver: {{name: c.D}}\nbatch_size: {10**30}\n", "batch_size must be"),
        ("run: a\ntrain_data: b\nsolver: {name: c.D}\nunroll: -1\nmethod: NON\n", "unroll must be a positive number"),
        (
            "run: a\ntrain_data: b\nsolver: {name: c.D}\non_failure: {signal: abort, timeout: retry(2), drop}\n",
            r'on_failure must be text, or text by keys, but drop stands alone: quote what has a comma, "retry\(2\), drop"',
        ),
        ("- 1\n- 2\n", "."),
        ("run: [a\n", "."),
        ("just words", "."),
    ],
)
def test_a_file_of_settings_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str], text: str, says: str) -> None:
    (folder / "bad.yaml").write_text(text)
    assert_fails(capsys, says, "train", "--config", "bad.yaml")
    assert not (folder / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "command"),
        (["trian"], "trian"),
        (["train", "--config", "none.yaml"], "none.yaml"),
        (["train", "--config", "."], "."),
        (["train", "--config", "line.h5"], "."),
        (["train"], "train.run|run, train"),
        (["train", "--config", "train.yaml", "--colour", "red"], "colour"),
        (["train", "--config", "train.yaml", "--updates"], "updates"),
        (["train", "--config", "train.yaml", "--updates", "few"], "updates"),
        (["train", "--config", "train.yaml", "--workers.backend", "gpu"], "backend.*gpu"),
        (["train", "--config", "train.yaml", "--workers.count", "0", "--method", "ZO-SOL"], "."),
        (["train", "--config", "train.yaml", "--solver.args", "[1]"], "args"),
        (["train", "--config", "train.yaml", "--run", "line.h5"], "line.h5"),
        (["train", "--config", "train.yaml", "--on_failure", "{signal: retry(2), drop}"], "quote what has a comma"),
        (["evaluate", "--run", "run"], "data"),
        (["evaluate", "--run", "run", "--data", "line.h5"], "expected a run folder at run, but there is no config.yaml"),
        (["evaluate", "--run", "nowhere", "--data", "line.h5"], "expected a run folder at nowhere"),
        (["generate"], "simulations|files"),
    ],
)
def test_options_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    (folder / "run").mkdir()
    assert_fails(capsys, says, *arguments)


BAD_PARTS = {
    "solver.name": {
        "problems.Burger": "problems has no 'Burger'",
        "problem.Burgers": "there is no module 'problem'",
        "missing.py:Burgers": "there is no file missing.py",
        "user.py:Missing": "user.py has no 'Missing'",
        "Burgers": "expected an import path",
        "user.py:not_a_solver": "must make a deepzero_sim.Solver, not int",
        "user.py:Unmade": "cannot be made with no arguments .RuntimeError: no licence.",
        "user.py:NaN": "what solver 'burgers' returned must be finite",
        "user.py:Raises": "solver 'burgers' raised ValueError: no such state",
        "user.py:Shape": r"returned must have shape .*not \(\d+, 1, 15\)",
        "user.py:Type": "returned must be float64, not float32",
        "user.py:Nothing": "returned must be a numpy array, not NoneType",
        "user.py:Exits": "solver 'burgers' raised SystemExit",
        "user.py:Changes": "raised ValueError: output array is read-only .*: a step must not change its input",
        "user.py:Bare": "must set self.spec to a deepzero_sim.SolverSpec",
        "exits.py:Solver": "importing exits.py raised SystemExit",
        "deepzero_sim.solvers.WakeFlow": r"holds states of shape \(1, 16\), but solver 'wake' takes \(2, 65, 33\)",
    },
    "network.name": {
        "tiny": "expected an import path .* not 'tiny'",
        "user.py:Tiny": "user.py has no 'Tiny'",
        "user.py:not_a_solver": "cannot be made with",
        "user.py:Narrow": "the corrector raised RuntimeError on states of shape",
        "user.py:Lazy": "has lazy layers without weights",
        "user.py:Empty": "has no parameters to train",
        "user.py:Cut": r"the corrector must return a correction of the states' shape .*, not",
    },
    "optimiser.args": {'{"lr": 0.1, "capturable": true}': "Adam or its scheduler raised AssertionError"},
    "scheduler.args": {'{"T_max": "update"}': "Adam or its scheduler raised TypeError"},
    "optimiser.name": {"torch.optim.Adan": "torch.optim has no 'Adan'", "torch.optim.LBFGS": "LBFGS"},
    "train_data": {
        "none.h5": "expected a file of trajectories at none.h5, but there is none",
        "user.py": "is of no format that is known",
    },
    "start": {"nowhere": "expected a trained run in nowhere"},
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD_PARTS.items() for value in values])
def test_parts_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str], key: str, value: str) -> None:
    plain = ["--network.args", "{}"] if key == "network.name" else []
    assert_fails(capsys, BAD_PARTS[key][value], "train", "--config", "train.yaml", f"--{key}", value, *plain)
    assert not (folder / "run" / CHECKPOINT).exists()


@pytest.mark.parametrize(("key", "name"), [("network", "Dropout"), ("solver", "Chance")])
def test_what_is_left_to_chance_is_not_differenced(
    folder: Path, capsys: pytest.CaptureFixture[str], key: str, name: str
) -> None:
    options = ["--method", "ZO-SOL", f"--{key}.name", f"user.py:{name}", f"--{key}.args", "{}"]
    assert_fails(capsys, "give the same for the same", "train", "--config", "train.yaml", *options)
    assert call(capsys, "train", "--config", "train.yaml", *options, "--method", "DETACHED")[::2] == (0, "")


@pytest.mark.parametrize("name", ["NaN", "Raises", "Shape"])
def test_a_solver_that_fails_during_training(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    code = (folder / "user.py").read_text()
    late = "    calls = 0\n\n    def step(self, states, params=None):\n        type(self).calls += 1\n"
    late += "        if self.calls < 5:\n            return super().step(states, params)\n"
    (folder / "late.py").write_text(code.replace("    def step(self, states, params=None):\n", late))
    (folder / "own.yaml").write_text((folder / "train.yaml").read_text().replace("problems.Burgers", f"late.py:{name}"))
    assert_fails(capsys, "solver 'burgers'", "train", "--config", "own.yaml", "--method", "DETACHED", "--checkpoint_every", 1)
    assert load_checkpoint(folder / "run").state["progress"]["step"] >= 1


def test_data_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File("foreign.h5", "w") as file:
        file["temperature"] = np.zeros(3)
    assert_fails(capsys, "holds no field of numbers", "train", "--config", "train.yaml", "--train_data", "foreign.h5")
    other = ["--solver.args", '{"points": 8}']
    assert_fails(capsys, r"states of shape \(1, 16\), but .* takes \(1, 8\)", "train", "--config", "train.yaml", *other)
    assert not (folder / "run").exists()


def test_a_run_made_by_other_settings_or_damaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(settings(folder))
    before = (folder / "run" / CHECKPOINT).read_bytes()
    assert_fails(capsys, "run with other settings .seed is 0 there, 9 here", "train", "--config", "train.yaml", "--seed", 9)
    assert_fails(
        capsys, "7 steps .* need 8|12 steps .* need 13", "evaluate", "--run", "run", "--data", "line.h5", "--steps", 12
    )
    assert_fails(capsys, "positive number of steps", "evaluate", "--run", "run", "--data", "line.h5", "--steps", 0)
    assert (folder / "run" / CHECKPOINT).read_bytes() == before
    (folder / "run" / CHECKPOINT).write_bytes(before[:100])
    assert_fails(capsys, "is not a checkpoint of this package", "train", "--config", "train.yaml")
    assert_fails(capsys, "is not a checkpoint of this package", "evaluate", "--run", "run", "--data", "line.h5", "--steps", 5)
    (folder / "run" / "config.yaml").write_text("colour: red\n")
    assert_fails(capsys, "is no run of 'deepzero-sim train'", "evaluate", "--run", "run", "--data", "line.h5")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("method", "ZO"),
        ("method", None),
        ("solver", 3),
        ("solver", {"name": "problems.Burgers", "args": None}),
        ("network", {"nam": "small"}),
        ("start", 3),
        ("train_data", None),
        ("unroll", "three"),
        ("seed", None),
    ],
)
def test_settings_of_a_run_changed_by_hand(folder: Path, capsys: pytest.CaptureFixture[str], key: str, value: object) -> None:
    train(settings(folder))
    config = folder / "run" / "config.yaml"
    config.write_text(yaml.safe_dump(read_settings(folder / "run") | {key: value}))
    assert_fails(capsys, f"was changed: {key} cannot be", "evaluate", "--run", "run", "--data", "line.h5", "--steps", 5)


def test_a_run_renamed_to_where_it_started_from(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(settings(folder))
    train(replace(settings(folder, start=Path("run")), run=folder / "later"))
    (folder / "run").rename("earlier")
    (folder / "later").rename("run")
    assert_fails(capsys, "started from itself", "evaluate", "--run", "run", "--data", "line.h5", "--steps", 5)


def test_a_name_that_looks_like_markup(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "train", "--config", "train.yaml", "--run", "[red]run[/blue]")
    assert (status, err) == (0, "") and "trained: [red]run[/blue]" in out


def test_letters_that_a_terminal_does_not_know(folder: Path) -> None:
    process = start("train", "--config", "train.yaml", "--run", "é", cwd=folder, environment={"PYTHONIOENCODING": "ascii"})
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "") and "\\xe9" in out


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")
def test_training_that_diverges(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--optimiser.name",
        "torch.optim.SGD",
        "--optimiser.args",
        '{"lr": 1e80}',
        "--method",
        "DETACHED",
        "--scheduler",
        "null",
    ]
    assert_fails(capsys, "finite", "train", "--config", "train.yaml", "--updates", 30, "--checkpoint_every", 1, *options)
    assert load_checkpoint(folder / "run").state["progress"]["step"] >= 1


def test_a_simulation_that_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "generate.yaml").write_text(yaml.safe_dump(WAKE))
    for option, value, says in (
        ("--simulations.initial", "user.py:not_a_solver", "user.py:not_a_solver makes initial states and is called as"),
        ("--simulations.reference.args", '{"resolution": 20}', "restrict returned must have shape"),
        ("--simulations.discard", "30", "more steps than are discarded"),
        ("--simulations.initial", "user.py:leave", "user.py:leave raised SystemExit"),
        ("--simulations.reference.name", "user.py:not_a_solver", "must make a deepzero_sim.Solver, not int"),
        ("--simulations.source.name", "user.py:Bare", "must set self.spec"),
        ("--simulations.steps", "null", "steps"),
        ("--files", "[]", "no files are asked for"),
        ("--files", '[{"output": "", "params": [[1.0]]}]', "the output must be an HDF5 file"),
        ("--files", '[{"output": "/", "params": [[1.0]]}]', "the output must be an HDF5 file"),
        ("--files", '[{"output": "a.md", "params": [[1.0]]}]', "the output must be an HDF5 file"),
        ("--files", '[{"output": "a.h5", "params": [[1.0, 2.0]]}]', "needs 1 parameters"),
    ):
        plain = [option.replace("name", "args"), "{}"] if option.endswith("name") else []
        assert_fails(capsys, says, "generate", "--config", "generate.yaml", option, value, *plain)
    assert not list(folder.glob("wake.h5"))


# ---- no space left


def test_no_space_left_in_training(folder: Path, tiny_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, options = tiny_disk / "run", ["--config", "train.yaml", "--checkpoint_every", 2]
    train(replace(settings(folder, updates=6), run=folder / "whole"))
    filler = fill(tiny_disk, 4096 * 6)
    assert_fails(
        capsys, "[Nn]o space left|os error 28", "train", *options, "--run", run, "--updates", 6, "--tensorboard", "false"
    )
    assert not unfinished(tiny_disk) and not list(run.glob("*.part"))
    filler.unlink()
    assert call(capsys, "train", *options, "--run", run, "--updates", 6)[::2] == (0, "")
    assert_same_tensors(tensors(run), tensors(folder / "whole"))
    assert lines(run / "metrics.jsonl") == 6


@pytest.mark.parametrize("tensorboard", [False, True])
@pytest.mark.parametrize("pages", [0, 2])
def test_a_disk_that_fills_up_keeps_the_last_checkpoint(
    folder: Path, tiny_disk: Path, capsys: pytest.CaptureFixture[str], pages: int, tensorboard: bool
) -> None:
    run, options = tiny_disk / "run", ["--config", "train.yaml", "--updates", 40, "--checkpoint_every", 10]
    filler = fill(tiny_disk, 4096 * 20)
    on_disk = settings(folder, updates=40, checkpoint_every=10)
    on_disk = replace(on_disk, run=run)

    def fill_up(progress: Any) -> None:
        if progress.step == 15:
            with filler.open("ab") as file:
                free = os.statvfs(tiny_disk)
                file.write(b"x" * (free.f_bavail * free.f_frsize - 4096 * pages))

    with pytest.raises(OSError, match=r"[Nn]o space left|os error 28"):
        train(replace(on_disk, tensorboard=tensorboard), fill_up)
    saved = load_checkpoint(run).state["progress"]["step"]
    assert saved in (10, 20, 30) and not unfinished(tiny_disk)
    assert_fails(capsys, "[Nn]o space left|os error 28", "train", *options, "--run", run)
    assert load_checkpoint(run).state["progress"]["step"] >= saved
    filler.unlink()
    assert call(capsys, "train", *options, "--run", run)[::2] == (0, "")
    train(replace(on_disk, run=folder / "whole"))
    assert_same_tensors(tensors(run), tensors(folder / "whole"))


@pytest.mark.parametrize("left", [0, 8, 24])
def test_no_space_left_for_data(folder: Path, tiny_disk: Path, capsys: pytest.CaptureFixture[str], left: int) -> None:
    files = [{"output": str(tiny_disk / "wake.h5"), "params": [[100.0], [200.0], [300.0]]}]
    (folder / "generate.yaml").write_text(yaml.safe_dump(WAKE | {"files": files}))
    filler = fill(tiny_disk, 1024 * left)
    assert_fails(capsys, "[Nn]o space left|errno = 28", "generate", "--config", "generate.yaml")
    assert not (tiny_disk / "wake.h5").exists() and not unfinished(tiny_disk)
    filler.unlink()
    assert call(capsys, "generate", "--config", "generate.yaml")[::2] == (0, "")
    assert trajectories.load(tiny_disk / "wake.h5").frames.shape == (3, 11, 2, 17, 9)


# ---- Ctrl-C, and SIGTERM


def children(process: int) -> set[int]:
    """All processes below one."""
    found: set[int] = set()
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | children(child)
    return found


def by_keyboard(process: int) -> None:
    os.killpg(process, signal.SIGINT)  # to the workers too


def by_batch_system(process: int) -> None:
    os.kill(process, signal.SIGTERM)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["serial", "process"])
@pytest.mark.parametrize("end", [by_keyboard, by_batch_system])
def test_interrupted(folder: Path, backend: Any, end: Callable[[int], None]) -> None:
    changes = {"method": "ZO-SOL", "updates": 2000, "checkpoint_every": 2, "workers": Workers(backend, 2)}
    config_file(folder / "long.yaml", settings(folder, **changes))
    process = start("train", "--config", "long.yaml", cwd=folder, start_new_session=True)
    assert wait_until(lambda: lines(folder / "run" / "metrics.jsonl") >= 3 or process.poll() is not None, 60)
    workers = children(process.pid)
    end(process.pid)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert_sentence(errors, "interrupted; what was trained or made so far is kept, and the same command goes on from there")
    assert wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), 20)
    assert load_checkpoint(folder / "run").state["progress"]["step"] >= 2 and not unfinished(folder)


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_before_the_first_checkpoint_is_due(
    folder: Path, capsys: pytest.CaptureFixture[str], end: signal.Signals
) -> None:
    changes = {"method": "ZO-SOL", "updates": 20, "checkpoint_every": 1000}
    config_file(folder / "long.yaml", settings(folder, **changes))
    process = start("train", "--config", "long.yaml", cwd=folder)
    assert wait_until(lambda: lines(folder / "run" / "metrics.jsonl") >= 3 or process.poll() is not None, 60)
    process.send_signal(end)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "goes on from there" in errors
    assert 1 <= load_checkpoint(folder / "run").state["progress"]["step"] < 20
    for run in ("run", "undisturbed"):
        assert call(capsys, "train", "--config", "long.yaml", "--run", run)[0] == 0
    assert_same_tensors(tensors(folder / "run"), tensors(folder / "undisturbed"))
    metrics = [without_seconds(read_metrics(folder / run / "metrics.jsonl")) for run in ("run", "undisturbed")]
    assert metrics[0] == metrics[1]


def test_warnings_are_sentences_without_lines_of_code() -> None:
    place = ("products.py", 12)
    before = warnings.formatwarning
    with plain_warnings():
        assert warnings.formatwarning(UserWarning("look."), UserWarning, *place) == "warning: look.\n"
        assert "products.py:12" in warnings.formatwarning(RuntimeWarning("odd"), RuntimeWarning, *place)
    assert warnings.formatwarning is before
