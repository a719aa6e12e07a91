"""Stages in one file of settings: each from the one before, in folders of their own, resumable as a whole."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from problems import Burgers, wait_until
from training_cases import assert_same_tensors, line_data, lines, start, tensors, without_seconds

import deepzero_sim as dz
from deepzero_sim.cli.main import main
from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import read
from deepzero_sim.datasets import trajectories
from deepzero_sim.errors import ConfigError, DataError, DeepZeroError, RunError
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.checkpoints import load_checkpoint, read_settings
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.run_folder import METRICS, VALIDATION, read_metrics
from deepzero_sim.training.runs import console
from deepzero_sim.training.runs.comparison import cost
from deepzero_sim.training.runs.defaults import is_untrained, resolve, suitable_rate
from deepzero_sim.training.runs.folders import last_stage, stage_folders
from deepzero_sim.training.runs.remainder import note_stages, remainder_of
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.stages import plan
from deepzero_sim.training.runs.trained_run import run_settings, trained_loop
from deepzero_sim.training.runs.training import train

STAGES: list[dict[str, Any]] = [{"updates": 60, "batch_size": 8, "optimiser.args.lr": 0.003}, {"updates": 12}]


def values(folder: Path, **changes: Any) -> dict[str, Any]:
    data = folder / "line.h5"
    if not data.exists():
        line_data(data, 4, 20)
    return {
        "run": str(folder / "run"),
        "train_data": str(data),
        "solver": {"name": "problems.Burgers"},
        "network": {"name": "small", "args": {"width": 3, "padding": "circular"}},
        "unroll": 3,
        "tensorboard": False,
        "checkpoint_every": 5,
        "workers": {"backend": "serial", "count": 1},
        "stages": STAGES,
        **changes,
    }


def settings(folder: Path, **changes: Any) -> TrainSettings:
    made: TrainSettings = read(TrainSettings, values(folder, **changes))
    return made


def run_all(given: TrainSettings) -> None:
    for stage in plan(given):
        train(stage.settings)


def test_every_stage_starts_from_the_best_network_of_the_one_before(tmp_path: Path) -> None:
    run_all(settings(tmp_path))
    first, second = stage_folders(tmp_path / "run")
    assert (first.name, second.name) == ("1-NON", "2-SolverLayer") and last_stage(tmp_path / "run") == second
    said = [read_settings(folder) for folder in (first, second)]
    assert [one["held_back"] for one in said] == [1, 1] and [one["validate_every"] for one in said] == [6, 1]
    assert said[0]["start"] is None and Path(said[1]["start"]) == first
    assert [one["optimiser"]["args"]["lr"] for one in said] == [0.003, suitable_rate("SolverLayer", started=True)]
    assert cost(second).solver_steps > cost(first).solver_steps
    states = [load_checkpoint(folder).state["validation"] for folder in (first, second)]
    assert min(m["error"] for m in states[0]["measurements"]) == states[1]["measurements"][0]["error"]
    # the folder of all stages is used by its last one
    assert run_settings(tmp_path / "run").method == "SolverLayer"
    ours, last = (dict(trained_loop(path).corrector.state_dict()) for path in (tmp_path / "run", second))
    assert_same_tensors(ours, last)


def test_the_rate_of_a_stage_is_that_of_the_network_it_starts_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the first stage is discarded the second one starts from scratch, and goes on with that rate."""
    useless = [{"updates": 6, "optimiser.args.lr": 0.03}, {"updates": 12}]
    given = settings(tmp_path, stages=useless)
    console.train_stages(plan(given), name_folders=True)
    folders = stage_folders(tmp_path / "run")
    said = "".join(capsys.readouterr().out.split())  # lines end within long paths
    assert "1-NONisanuntrainedone,andSolverLayerbegins" in said
    assert is_untrained(folders[0])
    assert read_settings(folders[1])["optimiser"]["args"]["lr"] == suitable_rate("SolverLayer", started=False)
    run_all(settings(tmp_path, stages=[useless[0], {"updates": 12}]))  # the same settings find the same rate

    old = tmp_path / "old"  # begun when every start counted as trained
    old.mkdir()
    begun = settings(old, stages=[useless[0], {"updates": 12, "optimiser.args.lr": 3e-4}])
    run_all(begun)
    run_all(settings(old, stages=useless))
    assert read_settings(stage_folders(old / "run")[1])["optimiser"]["args"]["lr"] == 3e-4


def test_a_stage_that_has_ended_is_not_trained_again(tmp_path: Path) -> None:
    run_all(settings(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("checkpoint.safetensors")}
    run_all(settings(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(before) == 2
    run_all(settings(tmp_path, stages=[*STAGES, {"updates": 4, "method": "DETACHED"}]))  # another one behind them
    assert [folder.name for folder in stage_folders(tmp_path / "run")] == ["1-NON", "2-SolverLayer", "3-DETACHED"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("stage", ["1-NON", "2-SolverLayer"])
def test_killed_in_a_stage_it_ends_as_if_undisturbed(tmp_path: Path, stage: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    line_data(tmp_path / "line.h5", 4, 20)
    stages = [{**STAGES[0], "updates": 300}, {"updates": 100}]
    given = [values(tmp_path, run=str(tmp_path / name / "run"), stages=stages) for name in "ab"]
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(given[0]))
    process = start("train", "--config", tmp_path / "a.yaml", cwd=tmp_path)
    metrics = tmp_path / "a" / "run" / stage / METRICS
    assert wait_until(lambda: lines(metrics) >= 13 or process.poll() is not None, 120)
    os.kill(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    for one in given:
        run_all(read(TrainSettings, one))
    for ours, whole in zip(*(stage_folders(tmp_path / name / "run") for name in "ab"), strict=True):
        assert_same_tensors(tensors(ours), tensors(whole))
        states = [json.dumps(without_seconds(load_checkpoint(path).state), sort_keys=True) for path in (ours, whole)]
        assert states[0] == states[1]


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ([{}, {"start": "x"}], "stage 2: a stage cannot have start: every stage but the first starts from the one before"),
        ([{"start": "x"}], "stage 1: a stage cannot have start"),
        ([{}, {"network": {"name": "mercury"}}], "stage 2: a stage cannot have network: all stages have one solver"),
        ([{}, {"network.args": {"width": 5}}], "stage 2: a stage cannot have network"),
        ([{"solver": {"name": "a.B"}}], "stage 1: a stage cannot have solver"),
        ([{}, {"train_data": "other.h5"}], "stage 2: a stage cannot have train_data"),
        ([{}, {"held_back": 2}], "stage 2: a stage cannot have held_back: all stages are measured on the same rollouts"),
        ([{}, {"held_back_simulations": [2]}], "stage 2: a stage cannot have held_back_simulations"),
        ([{}, {"validate_steps": 9}], "stage 2: a stage cannot have validate_steps"),
        ([{}, {"unroll": 20}], "stage 2: a rollout of 20 steps needs trajectories of at least 21 frames, these have 20"),
        ([{"run": "b"}], "stage 1: a stage cannot have run: stages lie in folders of their own"),
        ([{"stages": [{}]}], "stage 1: a stage cannot have stages"),
        ([{}, {"updates": 0}], "stage 2: updates must be a positive number"),
        ([{}, {"updats": 3}], "stage 2: .*updats.*updates"),
        ([{}, {"method": "SRC"}], "stage 2: method SRC trains nothing"),
        ([{}, {"method": "FO-SOL"}], "stage 2: method FO-SOL needs a differentiable_solver"),
        ([{}, {"optimiser": {"name": "torch.optim.Adan"}}], "stage 2: torch.optim has no 'Adan'"),
        ([{}, {"method": "NEN"}], "stage 2: method must be one of"),
        ([{}, 3], "stages must be keys with values, not 3"),
        ("NON", "stages must be a list, not NON"),
    ],
)
def test_stages_that_contradict_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stages: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(values(tmp_path, stages=stages)))
    assert main(["train", "--config", "bad.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    assert re.search(says, error), error
    assert not (tmp_path / "run").exists()


def test_all_stages_are_measured_on_the_same_rollouts(tmp_path: Path) -> None:
    planned = plan(settings(tmp_path, unroll=2, stages=[{}, {"unroll": 3}]))
    assert [stage.settings.validate_steps for stage in planned] == [19, 19]  # of one simulation, all that there are
    line_data(tmp_path / "long.h5", 4, 150)
    planned = plan(settings(tmp_path, unroll=2, stages=[{}, {"unroll": 3}], train_data=str(tmp_path / "long.h5")))
    assert [stage.settings.validate_steps for stage in planned] == [8 * 4 * 3] * 2  # what the longest unroll affords
    planned = plan(settings(tmp_path, validate_steps=7))
    assert [stage.settings.validate_steps for stage in planned] == [7, 7]
    with pytest.raises(DataError, match="validate_steps must be at most 19 with trajectories of 20 frames, not 20"):
        plan(settings(tmp_path, validate_steps=20))
    # too few to hold one back: the first stage is measured on nothing, the second on the training data
    line_data(tmp_path / "few.h5", 2, 20)
    planned = plan(settings(tmp_path, train_data=str(tmp_path / "few.h5"), validate_steps=7))
    assert [stage.settings.validate_steps for stage in planned] == [None, 7]
    run_all(settings(tmp_path, run=str(tmp_path / "few"), train_data=str(tmp_path / "few.h5"), validate_steps=7))
    assert {line["length"] for line in read_metrics(tmp_path / "few" / "2-SolverLayer" / VALIDATION)} == {7}


def test_what_the_data_needed_is_said_once_and_is_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = values(tmp_path)
    frames = trajectories.load(tmp_path / "line.h5").frames
    np.savez(tmp_path / "line.npz", u=frames[:, :, 0], extra=frames[:, :, 0])
    given["train_data"] = {"path": "line.npz", "dt": Burgers().spec.dt, "axes": ["simulation", "time", "x"]}
    given["train_data"] |= {"channels": ["u"]}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(given))
    assert main(["train", "--config", "train.yaml"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("is held back from training") == 1 and out.count("one step of the solver alone") == 1
    assert "warning: extra" not in out
    assert out.count("extra was left out") == 1


def test_folders_of_other_stages_are_refused(tmp_path: Path) -> None:
    run_all(settings(tmp_path))
    with pytest.raises(RunError, match=r"other stages \(2-SolverLayer is there, and the settings have 2-DETACHED\)"):
        plan(settings(tmp_path, stages=[STAGES[0], {"method": "DETACHED", "updates": 12}]))
    with pytest.raises(RunError, match="only 1 of them"):
        plan(settings(tmp_path, stages=STAGES[:1]))
    with pytest.raises(RunError, match="holds a run with stages: give the settings stages"):
        train(settings(tmp_path, stages=[], method="NON"))
    with pytest.raises(RunError, match=r"2-SolverLayer started from the network .* holds after 60 updates"):
        run_all(settings(tmp_path, stages=[{**STAGES[0], "updates": 70}, STAGES[1]]))
    (tmp_path / "run" / "1-NON").rename(tmp_path / "run" / "5-NON")
    with pytest.raises(RunError, match="must hold stages numbered 1, 2, 3"):
        stage_folders(tmp_path / "run")
    train(settings(tmp_path, run=str(tmp_path / "plain"), stages=[], method="NON", updates=2))
    with pytest.raises(RunError, match="holds a run without stages"):
        plan(settings(tmp_path, run=str(tmp_path / "plain")))
    with pytest.raises(ConfigError, match="settings with stages are several trainings"):
        train(settings(tmp_path, run=str(tmp_path / "new")))


def test_too_few_simulations_to_hold_one_back(tmp_path: Path) -> None:
    line_data(tmp_path / "line.h5", 2, 12)
    planned = plan(settings(tmp_path))
    assert [stage.settings.held_back for stage in planned] == [0, 0]
    assert "2 simulations are too few to hold one back" in planned[0].choices[0]
    asked = plan(settings(tmp_path, held_back=1))
    assert [stage.settings.held_back for stage in asked] == [1, 1] and not any("held" in one for one in asked[0].choices)


def test_evaluate_and_compare_take_the_folder_of_all_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values(tmp_path)))
    assert main(["train", "--config", "train.yaml"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "method NON: single steps are the cheapest way to begin" in out and "method SolverLayer: through the loop" in out
    assert (
        "simulation 2 of 4 (numbered as in the file, from 0) is held back from training" in out
        and out.count("is used: on rollouts of") == 2
    )
    test = line_data(tmp_path / "test.h5", 2, 9)
    assert main(["evaluate", "--run", "run", "--data", str(test)]) == 0
    assert "SolverLayer" in json.loads((tmp_path / "run" / "results.json").read_text())["methods"]
    assert main(["compare", "run", "--data", str(test), "--output", "both"]) == 0
    assert list(json.loads((tmp_path / "both" / "results.json").read_text())["methods"]) == ["SRC", "NON", "SolverLayer"]


def test_a_training_that_is_not_finished_is_said_before_any_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted in the first stage, and then between the first and the second."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values(tmp_path, checkpoint_every=1)))
    test = line_data(tmp_path / "test.h5", 2, 9)

    def interrupted_at(stage: str, step: int) -> Callable[..., Progress]:
        def stop(progress: Progress) -> None:
            if progress.step == step:
                raise KeyboardInterrupt

        def run(settings: TrainSettings, report: Any, **listeners: Any) -> Progress:
            if settings.run.name != stage:
                return train(settings, report, **listeners)
            return train(settings, stop, **listeners) if step else stop(Progress()) or Progress()

        return run

    def evaluate(*command: str) -> tuple[str, dict[str, Any]]:
        capsys.readouterr()
        assert main([*command, "--data", str(test)]) == 0
        folder = Path("both" if command[0] == "compare" else "run")
        said = " ".join(capsys.readouterr().out.split())
        results = json.loads((folder / "results.json").read_text())
        assert (folder / "report.md").read_text().split("\n\n")[1] == results["answer"]
        return said, results

    monkeypatch.setattr(console, "train", interrupted_at("1-NON", 21))
    assert main(["train", "--config", "train.yaml"]) == 2
    first = (
        "The training of run is not finished: 20 of 60 planned updates of NON are done, and the stage SolverLayer has not "
        "begun; go on by the same call of 'deepzero-sim train' or dz.train."
    )
    said, results = evaluate("evaluate", "--run", "run")
    assert results["unfinished"] == {"NON": {"updates": 20, "planned_updates": 60, "stages_not_begun": ["SolverLayer"]}}
    assert results["answer"].startswith(f"{first} So far: ")
    assert "of 20 done so far (60 are planned) is used" in results["networks"][0]
    assert 0 <= said.index("The training of run is not finished") < said.index("MAE")
    said, results = evaluate("compare", "run", "--output", "both")
    assert results["answer"].startswith("The training of run is not finished: 20 of 60")
    assert "20 updates (unfinished: 20 of 60 planned updates of NON are done, and the stage" in repr(dz.load_run("run"))
    dz.load_run("run").save("saved")
    assert "(unfinished: 20 of 60 planned updates of NON are done)" in repr(dz.load_run("saved"))

    monkeypatch.setattr(console, "train", interrupted_at("2-SolverLayer", 0))
    assert main(["train", "--config", "train.yaml"]) == 2
    _, results = evaluate("evaluate", "--run", "run")
    assert results["answer"].startswith("The training of run is not finished: the stage SolverLayer has not begun; go on")

    monkeypatch.setattr(console, "train", train)
    assert main(["train", "--config", "train.yaml"]) == 0
    for command in (("evaluate", "--run", "run"), ("compare", "run", "--output", "both")):
        said, results = evaluate(*command)
        assert results["unfinished"] == {} and "not finished" not in said + results["answer"]
    assert "unfinished" not in repr(dz.load_run("run"))


@pytest.mark.parametrize("text", ["{", "[]", '{"stages": 3}', '{"stages": [3]}'])
def test_a_changed_list_of_stages_is_one_sentence(tmp_path: Path, text: str) -> None:
    planned = plan(settings(tmp_path, stages=[{"updates": 1}, {"updates": 1}]))
    note_stages(planned)
    train(planned[0].settings)
    (tmp_path / "run" / "stages.json").write_text(text)
    with pytest.raises(RunError, match=r"stages\.json (was changed or damaged|must hold a list of).*restore"):
        remainder_of(tmp_path / "run")


# ---- the method that suits


class Noisy(Burgers):
    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, deterministic=False)


class Rounded(torch.nn.Module):
    def __init__(self, spec: SolverSpec) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        return states * 0 + self.shift.detach()


@pytest.mark.parametrize(
    ("changes", "started", "method"),
    [
        ({}, False, "NON"),
        ({}, True, "SolverLayer"),
        ({"solver": Component("test_stages.Noisy")}, False, "NON"),
        ({"solver": Component("test_stages.Noisy")}, True, "DETACHED"),
        ({"network": Component("test_stages.Rounded")}, False, "ZO-SOL"),
        ({"network": Component("test_stages.Rounded")}, True, "ZO-SOL"),
    ],
)
def test_the_cheapest_method_that_suits(tmp_path: Path, changes: dict[str, Any], started: bool, method: str) -> None:
    given = replace(settings(tmp_path, stages=[], updates=2), **changes, start=tmp_path / "first" if started else None)
    found = resolve(given)
    assert found.settings.method == method and f"method {method}: " in found.choices[0]
    if not started:
        train(given)
        assert read_settings(given.run)["method"] == method


def test_a_method_that_is_named_is_taken(tmp_path: Path) -> None:
    assert resolve(settings(tmp_path, stages=[], method="DETACHED")).settings.method == "DETACHED"
    assert not resolve(settings(tmp_path, stages=[], method="DETACHED")).choices
    with pytest.raises(DeepZeroError, match=r"no module 'nowhere'"):
        resolve(settings(tmp_path, stages=[], solver={"name": "nowhere.Solver"}))
