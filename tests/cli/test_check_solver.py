"""`deepzero-sim check`: from settings to verdicts, a page and an exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from problems import LogisticSolver
from training_cases import line_data, train_settings, unfinished

import deepzero_sim as dz
from deepzero_sim.cli.check_solver import _samples
from deepzero_sim.cli.main import main, read_command
from deepzero_sim.cli.reports.solver_check import _duration
from deepzero_sim.cli.settings.check_solver import CheckSolverSettings
from deepzero_sim.common.components import load
from deepzero_sim.datasets.generation.ensembles import ensemble
from deepzero_sim.solver.build import build_solver
from deepzero_sim.training.build import build_vjp
from deepzero_sim.training.runs.training import train

USER = """
    import ctypes, os, threading, time
    import numpy as np
    from problems import Burgers, LogisticSolver

    class Wrong(Burgers):
        def step(self, states, params=None):
            states[:] = 0.9 * super().step(states, params)
            return states

    class Raises(Burgers):
        def step(self, states, params=None):
            raise ValueError("no such state")

    class Rate(LogisticSolver):
        pass

    class Slow(Burgers):
        def step(self, states, params=None):
            time.sleep(0.05 * len(states))
            return super().step(states, params)

    class Backwards(Burgers):
        def step(self, states, params=None):
            return 2 * states - super().step(states, params)

    class Dies(Burgers):
        def step(self, states, params=None):
            print("NaN in line 3", flush=True)
            ctypes.string_at(0)

    class DiesLater(Burgers):
        def step(self, states, params=None):
            if len(states) == 2:
                time.sleep(1000)
            return super().step(states, params)

    class DiesAtOnce(Burgers):
        def __init__(self):
            os._exit(0)

    inside = threading.Lock()

    class NotForThreads(Burgers):
        def step(self, states, params=None):
            if not inside.acquire(blocking=False):
                ctypes.string_at(0)
            time.sleep(0.001)
            inside.release()
            return super().step(states, params)

    def initial(spec, params):
        waves = np.sin(np.linspace(0, 6, spec.state_shape[1]))
        return (1 + np.arange(len(params))[:, None, None]) * waves[None, None].astype(spec.dtype)

    def seeded(spec, params, seed):
        return np.random.default_rng(seed).normal(size=(1, *spec.state_shape)).astype(spec.dtype)

    def seeded_or_not(spec, params, seed=0):
        assert len(params) == 1 and params.dtype == spec.dtype
        return seeded(spec, params, seed)

    def by_word(spec, params, *, seed):
        return seeded(spec, params, seed)

    def without(spec):
        return initial(spec, [0])

    def short(spec, params):
        return initial(spec, params)[..., :-1]

    def leaves(spec, params):
        raise SystemExit(0)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "user.py").write_text(textwrap.dedent(USER))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    status = main(["check", *map(str, arguments), "--seconds", "2"])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return status, out, err


def test_a_solver_that_keeps_its_contract_ends_with_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "problems.Burgers", "--output", "out")
    assert (status, err) == (0, "") and "Solver 'burgers' keeps its contract" in out and "report: out/solver_check.md" in out
    said = json.loads((folder / "out" / "solver_check.json").read_text())
    assert said["holds"] and said["made_up"] and said["verdicts"]["deterministic"]["outcome"] == "pass"
    assert said["settings"]["name"] == "problems.Burgers" and said["gradients"]["methods"]["NON"]["steps"] == 0
    assert said["step_sizes"]["sweep"]["best"] == said["step_sizes"]["recommended"] and said["times"][0]["batch"] == 1
    page = (folder / "out" / "solver_check.md").read_text()
    assert page.startswith("# Solver burgers\n\nSolver 'burgers' keeps its contract") and "| stencil | pass |" in page
    assert out.startswith("Solver 'burgers' keeps its contract") and "made up" in page and "made up" in out
    assert "| ZO-SOL, CGE central |" in page and "| 1 | " in page and not unfinished(folder)


def test_a_solver_that_breaks_it_ends_with_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "user.py:Wrong", "--output", "out")
    assert (status, err) == (1, "") and out.startswith("Solver 'burgers' breaks its contract: input unchanged")
    assert (
        "What to do\n- input unchanged: a step changed the states it was given: work on a copy" in out.split("Worth knowing")[0]
    )
    page = (folder / "out" / "solver_check.md").read_text()
    assert (
        page.index("breaks its contract") < page.index("## What to do\n\n- input unchanged: ") < page.index("| shape | pass |")
    )
    assert not json.loads((folder / "out" / "solver_check.json").read_text())["holds"]


def test_a_solver_that_ends_the_process_ends_with_1_and_all_verdicts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "user.py:NotForThreads", "--output", "out")
    assert (status, err) == (1, "") and "What to do\n- threads: the process was killed by" in out, out
    said = json.loads((folder / "out" / "solver_check.json").read_text())
    assert not said["holds"] and "SIGSEGV" in said["verdicts"]["threads"]["words"] and said["gradients"]
    assert "| threads | fail | the process was killed by SIGSEGV" in (folder / "out" / "solver_check.md").read_text()


def test_a_solver_that_ends_the_process_at_its_first_step_ends_with_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "user.py:Dies", "--output", "out")
    said = " ".join(json.loads((folder / "out" / "solver_check.json").read_text())["verdicts"]["first step"]["words"].split())
    assert (status, err) == (1, "") and "breaks its contract: first step" in out
    assert re.match(
        r"the process was killed by SIGSEGV \(user.py, line \d+\), after it printed 'NaN in line 3' at the very", said
    )


def processes_of(session: int) -> list[int]:
    """Processes that a session's leader started, wherever they are now."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and f"SESSION={session}\0".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_check_that_is_interrupted_shows_what_it_found_and_leaves_nothing_behind(folder: Path, number: int) -> None:
    mark = int(time.time_ns())
    program = "import sys; from deepzero_sim.cli.start import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "check", "user.py:DiesLater"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "SESSION": str(mark), "COLUMNS": "200"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        end = time.monotonic() + 60
        while len(processes_of(mark)) < 4 and time.monotonic() < end:  # itself, the one that forks, a child and its monitor
            time.sleep(0.1)
        time.sleep(3)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    end = time.monotonic() + 10
    while processes_of(mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert not processes_of(mark)
    if number != signal.SIGKILL:
        assert process.returncode == 2 and err.startswith("deepzero-sim: interrupted") and err.count("\n") == 1, err
        assert "as far as it was tested" in out and re.search(r"pass: .*deterministic", out)
        assert re.search(r"not tested: .*batches.*: the check was interrupted", out)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["user.py:Nobody"], "has no 'Nobody'"),
        (["nowhere.py:Name"], "there is no file nowhere.py"),
        (["user.py:Raises"], "raised ValueError: no such state: run its step alone"),
        (["user.py:DiesAtOnce"], "ended with exit status 0 when the solver and its sample states were made"),
        (
            ["user.py:Rate"],
            r"need its parameters \(rate\): give params, .* such as --params '\[\[1.0\]\]', or data that have them",
        ),
        ([], "name one solver"),
        (["user.py:Rate", "--solver.name", "user.py:Rate"], "name one solver"),
        (["user.py:Rate", "--params", "[[1.0, 2.0]]"], r"every row of params must have 1 numbers \(rate\)"),
        (["problems.Burgers", "--initial", "user.py:short"], r"what user.py:short returned must have shape \(1, 1, 16\)"),
        (["problems.Burgers", "--initial", "user.py:leaves"], "user.py:leaves raised SystemExit"),
        (
            ["problems.Burgers", "--initial", "user.py:by_word"],
            r"user.py:by_word .* called as initial\(spec, params\) or initial\(spec, params, seed\), but it takes .*, seed\): ",
        ),
        (["problems.Burgers", "--initial", "user.py:without"], r"but it takes \(spec\): write it in one of these forms"),
        (
            ["user.py:Rate", "--initial", "user.py:initial"],
            r"need its parameters \(rate\): give params, one row for",
        ),
        (["problems.Burgers", "--data", "line.h5", "--params", "[[1.0]]"], "from data, which hold their params, or from"),
        (["problems.Burgers", "--data", "none.h5"], "expected a file of trajectories at none.h5"),
        (["problems.Burgers", "--unroll", "0"], "unroll must be a positive number"),
        (["problems.Burgers", "--network.name", "user.py:leaves"], "cannot be made"),
    ],
)
def test_what_cannot_be_checked_ends_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    status, out, err = call(capsys, *arguments)
    assert status == 2 and err.startswith("deepzero-sim: ") and err.count("\n") == 1 and re.search(says, err), (out, err)


def test_seconds_must_be_positive(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "problems.Burgers", "--seconds", "0"]) == 2
    assert "seconds must be a positive number, not 0.0" in capsys.readouterr().err


def test_a_solver_with_arguments_from_a_file_and_frames_of_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line_data(folder / "line.h5")
    said = {"solver": {"name": "problems.Burgers", "args": {"points": 16}}, "data": "line.h5"}
    (folder / "check.yaml").write_text(yaml.safe_dump(said))
    status, out, err = call(capsys, "--config", "check.yaml")
    assert (status, err) == (0, "") and "made up" not in out and "no failure at 36 sample states" in out
    assert "  vjp: {name: deepzero_sim.vjp.Auto, args: {step_size: " in out  # the default stays


def test_what_was_left_out_or_assumed_of_the_data_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(line_data(folder / "line.h5")) as file:
        np.savez(folder / "line.npz", u=file["frames"][:, :, 0], extra=0.5)
    status, out, err = call(capsys, "problems.Burgers", "--data", "{path: line.npz, axes: [simulation, time, x]}")
    assert (status, err) == (0, "") and "- data: " in out
    assert "extra" in out and "line.npz says no times: its frames are taken to lie one step of solver" in " ".join(out.split())


def test_frames_that_no_step_of_the_solver_follows_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line_data(folder / "line.h5", frames=60)
    _, out, _ = call(capsys, "problems.Burgers", "--data", "line.h5")
    assert re.search(r"pass: .*\bframes\b", out, re.DOTALL)
    with h5py.File(folder / "line.h5", "a") as file:
        frames = file["frames"][:, ::4].copy()
        del file["frames"]
        file["frames"] = frames
    status, out, err = call(capsys, "problems.Burgers", "--data", "line.h5")
    assert (status, err) == (0, "") and re.search(r"- frames: frames seem to lie \d( or more)? steps", out)
    assert "frames" not in call(capsys, "problems.Burgers")[1]


def test_what_a_step_misses_of_the_next_frame_is_said_as_training_says_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line_data(folder / "line.h5", frames=20)
    said = re.compile(
        r"one step of the solver alone misses the next frame by \S+ standard deviations .* of what a step changes"
    )
    status, out, _ = call(capsys, "problems.Burgers", "--data", "line.h5")
    notes: list[str] = []
    train(train_settings(folder / "run", folder / "line.h5", method="NON"), note=notes.append)
    (ours,), (theirs,) = said.findall(" ".join(out.split())), said.findall(" ".join(notes))
    assert status == 0 and "- error of a step: " + ours in " ".join(out.split())
    figures = [float(re.search(r"by (\S+) standard", one)[1]) for one in (ours, theirs)]  # type: ignore[index]
    assert figures[0] == pytest.approx(figures[1], rel=0.2)  # some frames, and all of those that are trained on
    assert "error of a step" not in call(capsys, "problems.Burgers")[1]


def test_a_step_that_leads_away_from_the_data_is_said_before_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line_data(folder / "line.h5", frames=20)
    status, out, _ = call(capsys, "user.py:Backwards", "--data", "line.h5")
    assert status == 0 and "more than it changes: check parameters, units and the solver's dt" in " ".join(out.split())


def test_initial_states_with_parameters(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "user.py:Rate", "--initial", "user.py:initial", "--params", "[[0.5], [1.0]]")
    assert (status, err) == (0, "") and "no failure at 2 sample states" in out
    assert re.search("pass: .*parameters", out, re.DOTALL)
    assert call(capsys, "problems.Burgers", "--initial", "user.py:initial")[0] == 0


@pytest.mark.parametrize("name", ["seeded", "seeded_or_not"])
def test_initial_states_of_a_seed_are_those_of_generate(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    status, out, err = call(capsys, "user.py:Rate", "--initial", f"user.py:{name}", "--params", "[[0.5], [1.0]]")
    assert (status, err) == (0, "") and "no failure at 2 sample states" in out
    settings = CheckSolverSettings(name="user.py:Rate", initial=f"user.py:{name}", params=[[0.5], [1.0]], seed=3)
    states, _ = _samples(settings, build_solver(settings.component).spec)
    members = ensemble([[0.5], [1.0]], None, 3, build_solver(settings.component).spec, f"user.py:{name}")
    expected = [load(f"user.py:{name}")(LogisticSolver().spec, np.array([[1.0]]), member.seed)[0] for member in members]
    np.testing.assert_array_equal(states, expected)
    status, out, err = call(capsys, "problems.Burgers", "--initial", f"user.py:{name}")
    assert (status, err) == (0, "") and "no failure at 4 sample states" in out  # a start for every seed


def test_the_step_size_is_a_setting_of_train(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line_data(folder / "line.h5")
    line = next(line for line in call(capsys, "problems.Burgers")[1].splitlines() if line.startswith("  vjp: "))
    begin = "run: run\ntrain_data: line.h5\nmethod: SolverLayer\nsolver: {name: problems.Burgers}\n"
    (folder / "train.yaml").write_text(f"{begin}{line[2:]}\n")
    settings = read_command(["train", "--config", "train.yaml"])[1]
    assert isinstance(build_vjp(settings.vjp), dz.vjp.Auto) and 1e-8 <= settings.vjp.args["step_size"] <= 0.1


def test_what_there_is_no_time_for_is_said_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "user.py:Slow")
    said = " ".join(out.split())
    assert (status, err) == (0, "") and said.startswith("Solver 'burgers' keeps its contract, as far as it was tested (")
    assert "Left out for time: largest batch, stencil, step sizes: give more --seconds." in said
    assert said.count("worker process") == 1 and "- worker process: not tried for want of time" in said


def test_durations_are_readable() -> None:
    seconds = (None, 0, 0.0123, 12.3, 600, 7200, 180_000)
    assert [_duration(s) for s in seconds] == ["-", "0", "12.3 ms", "12.3 s", "10 min", "2 h", "2.08 d"]


def test_numbers_of_the_page_are_those_of_the_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "problems.Burgers", "--unroll", "3", "--batch_size", "4", "--output", "out")[0] == 0
    gradients = json.loads((folder / "out" / "solver_check.json").read_text())["gradients"]
    assert gradients["methods"]["DETACHED, STRAIGHT-THROUGH"]["steps"] == 4 * 2
    assert np.isclose(gradients["methods"]["ZO-SOL, CGE central"]["steps"], 8 * (2 * gradients["parameters"] + 1))
