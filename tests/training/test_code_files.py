"""Files of code of a run: those that settings name, and those next to them, are found from anywhere and known by content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from problems import initial_states
from training_cases import line_data, train_settings

import deepzero_sim as dz
from deepzero_sim.common.components import Component
from deepzero_sim.training.checkpoints import STARTED, Start, save_start
from deepzero_sim.training.code_files import changed_code, digests_of_code
from deepzero_sim.training.runs.training import train

MINE = """
from flow import Burgers

class Mine(Burgers):
    def step(self, states, params=None):
        from strength import STRENGTH
        return STRENGTH * super().step(states, params)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "mine.py").write_text(MINE)
    (folder / "code" / "flow.py").write_text("import strength\nfrom problems import Burgers\n")
    (folder / "code" / "strength.py").write_text("STRENGTH = 1.0\n")
    (folder / "code" / "other.py").write_text("1 / 0\n")
    line_data(folder / "line.h5", 3, 12)
    line_data(folder / "test.h5", 2, 9)
    monkeypatch.chdir(folder)
    return folder


FILES = {"code/mine.py", "code/flow.py", "code/strength.py"}


def test_what_a_file_imports_counts_as_the_file_does(project: Path) -> None:
    settings = {"solver": {"name": "code/mine.py:Mine"}, "words": ["no.py:File", "problems.Burgers"]}
    digests = digests_of_code(settings)
    assert digests.keys() == FILES and digests_of_code(settings, project) == digests
    whole = digests_of_code({"solver": f"{project}/code/mine.py:Mine"})
    assert whole == {f"{project}/{name}": digest for name, digest in digests.items()}


def test_changes_are_those_of_files_that_are_known_and_there(project: Path) -> None:
    run = project / "run"
    run.mkdir()
    assert changed_code(run, None) == []
    save_start(run, Start(str(project), 1, digests_of_code("code/mine.py:Mine")))
    assert changed_code(run, None) == []
    Path("code/strength.py").write_text("import other\nSTRENGTH = 2.0\n")
    assert changed_code(run, None) == ["code/strength.py"] == changed_code(run, project)
    Path("code/strength.py").unlink()
    assert changed_code(run, None) == []


def test_a_run_goes_with_the_files_next_to_its_solver(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = Component("code/mine.py:Mine")
    train(train_settings(Path("run"), Path("line.h5"), method="DETACHED", solver=solver))
    assert json.loads((project / "run" / STARTED).read_text())["code"].keys() == FILES
    monkeypatch.chdir(tmp_path)
    assert dz.load_run(project / "run").rollout(initial_states(1), steps=2).shape == (1, 2, 1, 16)
    (project / "code" / "strength.py").write_text("STRENGTH = 0.5\n")
    with pytest.warns(dz.TrainingWarning, match=r"code/strength\.py is not what it was when"):
        dz.load_run(project / "run")
