"""Runs used from anywhere: what their settings name is found from where they were started, and made longer."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_cases import assert_same_tensors, line_data, tensors, train_settings, without_seconds

import deepzero_sim as dz
from deepzero_sim.cli.main import main
from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.datasets import trajectories
from deepzero_sim.errors import ConfigError, RunError
from deepzero_sim.training.checkpoints import STARTED, load_checkpoint, read_settings
from deepzero_sim.training.run_folder import METRICS, read_metrics
from deepzero_sim.training.runs.comparison import cost
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.trained_run import parts_without_trust, run_settings, trained_loop
from deepzero_sim.training.runs.training import train

MINE = "from problems import Burgers\n\n\nclass Mine(Burgers):\n    strength = {}\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a solver and data, in which a run was trained by relative names."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "mine.py").write_text(MINE.format(1))
    line_data(folder / "line.h5", 3, 12)
    line_data(folder / "test.h5", 2, 9)
    monkeypatch.chdir(folder)
    settings = train_settings(Path("runs/NON"), Path("line.h5"), method="NON", solver=Component("mine.py:Mine"))
    (folder / "train.yaml").write_text(yaml.safe_dump({"run": "runs/NON", **settings_to_dict(settings)}))
    assert main(["train", "--config", "train.yaml"]) == 0
    more = {"--run": "runs/more", "--start": "runs/NON", "--method": "DETACHED"}
    assert main(["train", "--config", "train.yaml", *(word for pair in more.items() for word in pair)]) == 0
    return folder


def test_a_run_is_evaluated_from_any_folder(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["evaluate", "--run", "runs/more", "--data", "test.h5"]) == 0
    here = json.loads((project / "runs/more/results.json").read_text())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert not parts_without_trust(project / "runs/more")  # trust is of where the file lies
    assert main(["evaluate", "--run", str(project / "runs/more"), "--data", "../project/test.h5"]) == 0
    assert (
        json.loads((project / "runs/more/results.json").read_text())["methods"]["DETACHED"]["mae"]
        == here["methods"]["DETACHED"]["mae"]
    )
    runs = [str(project / "runs" / name) for name in ("NON", "more")]
    assert main(["compare", *runs, "--data", str(project / "test.h5"), "--output", "both"]) == 0
    assert cost(project / "runs/more").solver_steps == here["methods"]["DETACHED"]["solver_steps"]


def test_another_file_of_the_same_name_is_not_taken(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.py").write_text(MINE.format(2))
    line_data(elsewhere / "line.h5", 4, 20)
    monkeypatch.chdir(elsewhere)
    path = project / "runs/more"
    assert type(trained_loop(path).solver).strength == 1  # type: ignore[attr-defined]
    assert run_settings(path).train_data == project / "line.h5" and run_settings(path).start == project / "runs/NON"
    # two runs of files of one name in two folders have two solvers
    other = train_settings(Path("other"), Path("line.h5"), method="NON", solver=Component("mine.py:Mine"))
    train(other)
    assert type(trained_loop(Path("other")).solver).strength == 2  # type: ignore[attr-defined]
    assert run_settings(path).located_solver != run_settings(Path("other")).located_solver
    (project / "mine.py").unlink()
    with pytest.raises(ConfigError, match=r"there is no file mine\.py"):
        trained_loop(path)


def test_a_solver_that_was_changed_since_is_not_used_without_a_word(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate = ["evaluate", "--run", str(project / "runs/more"), "--data", str(project / "test.h5")]
    assert main(evaluate) == 0
    said = "mine.py is not what it was when"
    assert said not in capsys.readouterr().out
    (project / "mine.py").write_text(MINE.format(2))
    assert main(evaluate) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in (project / "runs/more/report.md").read_text()
    with pytest.warns(dz.TrainingWarning, match=said):
        dz.load_run(project / "runs/more")


def test_code_in_a_folder_of_others_is_not_trusted(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that says it was started where a file of that name lies which nobody has trusted."""
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "mine.py").write_text("raise SystemExit('this was run')\n")
    monkeypatch.chdir(tmp_path)
    path = project / "runs/NON"
    said = json.loads((path / STARTED).read_text())
    (path / STARTED).write_text(json.dumps({**said, "folder": str(evil)}))
    assert list(parts_without_trust(path)) == ["solver"]
    with pytest.raises(RunError, match="was not made by you on this machine"):
        trained_loop(path)


def test_a_project_that_was_moved_and_a_run_of_before_are_used_from_the_current_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    monkeypatch.chdir(tmp_path)
    shutil.move(project, moved)
    monkeypatch.chdir(moved)
    assert main(["evaluate", "--run", "runs/more", "--data", "test.h5", "--trust"]) == 0
    (moved / "runs/more" / STARTED).unlink()
    assert main(["evaluate", "--run", "runs/more", "--data", "test.h5", "--trust"]) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{",
        '{"folder": 3, "updates": 4}',
        '{"folder": "here", "updates": 4}',
        '{"folder": null}',
        '{"folder": null, "updates": 4, "code": 3}',
    ],
)
def test_a_changed_record_of_the_start_is_one_sentence(project: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (project / "runs/NON" / STARTED).write_text(text)
    for words in (["evaluate", "--run", "runs/NON", "--data", "test.h5"], ["train", "--config", "train.yaml"]):
        capsys.readouterr()
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and STARTED in error and "restore what it was" in error


# ---- longer runs


def non(folder: Path, updates: int, **changes: Any) -> TrainSettings:
    data = folder / "line.h5"
    if not data.exists():
        line_data(data, 3, 12)
    return train_settings(folder / "run", data, method="NON", updates=updates, checkpoint_every=3, **changes)


def rates(run: Path) -> list[float]:
    return [line["learning_rate"] for line in read_metrics(run / METRICS)]


STEP = Component("torch.optim.lr_scheduler.StepLR", {"step_size": 3, "gamma": 0.5})


def test_a_run_is_made_longer_by_the_same_command(tmp_path: Path) -> None:
    train(non(tmp_path, 6))
    ended = train(non(tmp_path, 10))
    assert ended.step == 10 and read_settings(tmp_path / "run")["updates"] == 10
    whole = replace(non(tmp_path, 10), run=tmp_path / "whole")
    train(whole)
    longer, undisturbed = rates(tmp_path / "run"), rates(whole.run)
    assert longer[6:] == undisturbed[6:] and longer[:6] != undisturbed[:6]
    states = [load_checkpoint(run).state for run in (tmp_path / "run", whole.run)]
    assert states[0]["scheduler"] == states[1]["scheduler"]
    assert trained_loop(tmp_path / "run").unroll == 3 and cost(tmp_path / "run").solver_steps > 0
    train(non(tmp_path, 12))  # and once more
    assert load_checkpoint(tmp_path / "run").state["progress"]["step"] == 12


@pytest.mark.parametrize("scheduler", [None, STEP])
def test_where_no_rate_depends_on_the_length_it_ends_as_the_longer_run(tmp_path: Path, scheduler: Component | None) -> None:
    train(non(tmp_path, 6, scheduler=scheduler))
    longer = non(tmp_path, 10, scheduler=scheduler)
    whole = replace(longer, run=tmp_path / "whole")
    assert without_seconds(vars(train(longer))) == without_seconds(vars(train(whole)))
    assert_same_tensors(tensors(longer.run), tensors(whole.run))


def test_interrupted_beyond_its_first_length_it_goes_on(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        train(non(tmp_path / name, 6))

    def stop(progress: Any) -> None:
        if progress.step == 10:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        train(non(tmp_path / "a", 12), stop)
    assert load_checkpoint(tmp_path / "a" / "run").state["progress"]["step"] == 9
    for name in ("a", "b"):
        train(non(tmp_path / name, 12))
    assert_same_tensors(*(tensors(tmp_path / name / "run") for name in ("a", "b")))
    assert rates(tmp_path / "a" / "run") == rates(tmp_path / "b" / "run")


def test_fewer_updates_than_done_are_refused(tmp_path: Path) -> None:
    train(non(tmp_path, 6))
    with pytest.raises(RunError, match=r"has done 6 updates, more than the 5 that are asked for: ask for 6 or more"):
        train(non(tmp_path, 5))
    assert read_settings(tmp_path / "run")["updates"] == 6


def test_a_number_that_was_changed_by_hand_is_noticed(tmp_path: Path) -> None:
    train(non(tmp_path, 6))
    train(non(tmp_path, 10))
    (tmp_path / "run" / STARTED).unlink()
    with pytest.raises(RunError, match=r"it holds another updates than config\.yaml says"):
        trained_loop(tmp_path / "run")


def test_a_plateau_that_depends_on_the_length_cannot_be_rebuilt(tmp_path: Path) -> None:
    plateau = Component("torch.optim.lr_scheduler.ReduceLROnPlateau", {"patience": "updates"})
    train(non(tmp_path, 4, scheduler=plateau))
    with pytest.raises(ConfigError, match="ReduceLROnPlateau whose arguments depend on the number of updates"):
        train(non(tmp_path, 6, scheduler=plateau))


def test_a_run_that_another_started_from_is_not_made_longer(tmp_path: Path) -> None:
    train(non(tmp_path, 4))
    later = replace(non(tmp_path, 4), run=tmp_path / "later", start=tmp_path / "run", method="DETACHED")
    train(later)
    with pytest.raises(RunError, match=r"later started from the network that .*run holds after 4 updates"):
        train(non(tmp_path, 6))
    train(later)


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Without a note of its start, and of the length that its schedule was made for."""
    train(non(tmp_path, 6))
    (tmp_path / "run" / STARTED).unlink()
    assert train(non(tmp_path, 6)).step == 6
    assert train(non(tmp_path, 9)).step == 9
    assert json.loads((tmp_path / "run" / STARTED).read_text()) == {"folder": None, "updates": 6}
    assert trajectories.load(tmp_path / "line.h5").frames.shape[0] == 3


@pytest.fixture
def elsewhere(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another folder, the current one, with another solver and other data by the same names."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "mine.py").write_text("raise SystemExit('another file of that name')\n")
    line_data(folder / "line.h5", 4, 20)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("words", ["as they were", "from here", "whole"])
def test_a_run_goes_on_from_any_folder_with_its_own_files(
    project: Path, elsewhere: Path, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = yaml.safe_load((project / "train.yaml").read_text())
    paths = {"train_data": "line.h5", "start": "runs/NON"}
    solver = "mine.py:Mine"
    if words != "as they were":
        base = "../project" if words == "from here" else str(project)
        paths, solver = {key: f"{base}/{value}" for key, value in paths.items()}, f"{base}/{solver}"
    given |= {
        "run": "../project/runs/more",
        "method": "DETACHED",
        "solver": {"name": solver, "args": {}},
        **paths,
        "updates": 9,
    }
    (elsewhere / "train.yaml").write_text(yaml.safe_dump(given))
    before = (project / "runs/more/config.yaml").read_text()
    assert main(["train", "--config", "train.yaml"]) == 0
    out = "".join(capsys.readouterr().out.split())  # lines end within long paths
    assert "trainingDETACHED:9of9" in out and f"namearefoundfrom{project},whereitwasbegun" in out
    assert (project / "runs/more/config.yaml").read_text() == before.replace("updates: 4", "updates: 9")
    assert Path.cwd() == elsewhere and {file.name for file in elsewhere.iterdir()} == {"mine.py", "line.h5", "train.yaml"}
    monkeypatch.chdir(project)
    more = ["--run", "runs/again", "--start", "runs/NON", "--method", "DETACHED", "--updates", "4"]
    assert main(["train", "--config", "train.yaml", *more]) == 0
    assert main(["train", "--config", "train.yaml", *more[:-1], "9"]) == 0
    assert_same_tensors(tensors(project / "runs/more"), tensors(project / "runs/again"))


def test_stages_go_on_from_any_folder(project: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = yaml.safe_load((project / "train.yaml").read_text()) | {"method": "suitable"}
    stages = [{"updates": 4}, {"method": "DETACHED"}]

    def call(run: str, count: int) -> None:
        Path("stages.yaml").write_text(yaml.safe_dump({**given, "run": run, "stages": stages[:count]}))
        assert main(["train", "--config", "stages.yaml"]) == 0

    monkeypatch.chdir(project)
    call("runs/whole", 2)
    call("runs/parts", 1)
    monkeypatch.chdir(elsewhere)
    call("../project/runs/parts", 2)
    call("../project/runs/whole", 2)
    for name in ("1-NON", "2-DETACHED"):
        assert_same_tensors(tensors(project / "runs/whole" / name), tensors(project / "runs/parts" / name))
    monkeypatch.chdir(project)
    call("runs/parts", 2)


def test_code_that_a_folder_of_others_was_begun_with_is_not_run(project: Path, elsewhere: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "mine.py").write_text("raise SystemExit('this was run')\n")
    path = project / "runs/NON"
    said = json.loads((path / STARTED).read_text())
    (path / STARTED).write_text(json.dumps({**said, "folder": str(evil)}))
    settings = train_settings(path, Path("line.h5"), method="NON", solver=Component("mine.py:Mine"), updates=9)
    with pytest.raises(RunError, match=r"was not made by you on this machine, and would import or run solver .* from .*evil"):
        train(settings)


# ---- reports


def test_a_report_on_other_data_is_never_replaced_in_silence(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the run folder it is replaced and that is said; another folder keeps both, but for one that is something else."""
    line_data(project / "other.h5", 2, 7)

    def evaluate(*words: str) -> str:
        assert main(["evaluate", "--run", "runs/NON", *words]) == 0
        return " ".join(capsys.readouterr().out.replace("\n", "").split())

    capsys.readouterr()
    assert "takes the place" not in evaluate("--data", "test.h5") + evaluate("--data", "test.h5")
    said = evaluate("--data", "other.h5").replace(" ", "")
    assert f"inruns/NON,on{project}/test.h5:--outputFOLDERkeepsboth." in said
    kept = (project / "runs/NON/report.md").read_text()
    assert "takes the place" not in evaluate("--data", "test.h5", "--output", "reports/test")
    assert (project / "runs/NON/report.md").read_text() == kept and (project / "reports/test/report.html").exists()
    assert "takes the place" in evaluate("--data", "test.h5", "--steps", "3", "--output", "reports/test")
    assert main(["evaluate", "--run", "runs/NON", "--data", "test.h5", "--output", "runs/more"]) == 2
    assert "is a run, with a report of its own: name another with --output." in capsys.readouterr().err
