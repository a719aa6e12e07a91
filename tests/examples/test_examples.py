"""Examples: settings that parse, and scripts that give what their header says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from deepzero_sim.cli.check_gradient import CheckSettings
from deepzero_sim.cli.demo import METHODS, PHIFLOW_WAKE, WAKE, data_settings, training_settings
from deepzero_sim.cli.generate import GenerateSettings
from deepzero_sim.cli.main import read_command
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.training.runs.settings import Workers

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.rglob("*.yaml"))

#: What tells the commands' settings apart.
KEYS = {
    "files": "generate",
    "output": "check-gradient",
    "train_data": "train",
    "epochs": "classify",
    "seconds": "check",
    "data": "evaluate",
    "solver": "check",
}


def command(path: Path) -> str:
    said = yaml.safe_load(path.read_text())
    return next(command for key, command in KEYS.items() if key in said)


def read(path: Path) -> Any:
    """Read the settings of a recipe."""
    words = [word for file in (*shared_files(path), path) for word in ("--config", str(file))]
    _, settings, _ = read_command([*command(path).split(), *words])
    return settings


def shared_files(path: Path) -> list[Path]:
    """List the files given before a recipe: the solver, if the recipes of a folder have theirs in a file of its own."""
    solver = path.with_name("solver.yaml")
    return [solver] if command(path) in ("train", "check") and solver.exists() and path != solver else []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_settings_parse(path: Path) -> None:
    assert read(path)


CARDS = sorted(EXAMPLES.rglob("README.md"))


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_cards_say_commands_that_there_are(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES.parent)
    said = [shlex.split(line, comments=True)[1:] for line in card.read_text().splitlines() if line.startswith("deepzero-sim ")]
    assert said
    for words in said:
        read_command(words)
    used = {Path(word).resolve() for words in said for word in words}
    assert used >= set(card.parent.glob("*.yaml")), "every recipe is in the card"


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name == "wake"], ids=lambda path: path.name)
def test_the_wake_is_the_demos(path: Path) -> None:
    if command(path) == "evaluate":
        return
    settings = read(path)
    if isinstance(settings, GenerateSettings):
        assert asdict(settings.simulations) == asdict(data_settings(Path(), Workers()).simulations)
        return
    assert settings.solver == WAKE
    if isinstance(settings, CheckSettings):
        assert settings.differentiable_solver == PHIFLOW_WAKE
        return
    assert settings.method in METHODS
    expected = settings_to_dict(training_settings(settings.run.parent, settings.train_data, settings.method, settings.workers))
    ours = settings_to_dict(settings)
    free = {"workers", "checkpoint_every", "start", "train_data", "differentiable_solver", "tensorboard"}
    assert {k: v for k, v in ours.items() if k not in free} == {k: v for k, v in expected.items() if k not in free}
    assert (settings.start is None) == (expected["start"] is None)


@pytest.mark.slow
def test_a_solver_of_ones_own_is_corrected(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = (EXAMPLES / "burgers.py").read_text()
    assert code.count(", 600, 8, 1e-2, ") == 2  # updates: fewer are enough to see that it learns
    (tmp_path / "burgers.py").write_text(code.replace(", 600, 8, 1e-2, ", ", 300, 8, 1e-2, ").replace("1500", "20"))
    script = [sys.executable, "burgers.py"]
    ended = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    errors = dict(re.findall(r"^(\S+) .* error (\d+\.\d+)$", ended.stdout, re.MULTILINE))
    assert float(errors["ZO-SOL"]) < 0.9 * float(errors["SRC"])


def test_the_readmes_code_runs() -> None:
    text = (EXAMPLES.parent / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), found)  # noqa: S102 - our own text
    states, params = np.ones((2, 1, 64), dtype=np.float32), np.ones((2, 1), dtype=np.float32)
    np.testing.assert_allclose(found["solver"].step(states, params), found["Decay"]().step(states, params), rtol=1e-6)


def test_nothing_is_left_to_fill_in() -> None:
    for page in EXAMPLES.parent.rglob("*.md"):
        if ".venv" not in page.parts:
            assert not re.search(r"@[A-Z_]{3,}@", page.read_text()), page
