"""What is redirected to a file says now and then how far it is, and what it costs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from problems import wait_until
from training_cases import config_file, line_data, train_settings

from deepzero_sim.cli.main import main
from deepzero_sim.common import bars
from deepzero_sim.training.runs.comparison import cost


def test_a_redirected_training_is_followed_while_it_runs(tmp_path: Path) -> None:
    settings = train_settings(tmp_path / "run", line_data(tmp_path / "line.h5"), method="NON", updates=4000)
    config, log = config_file(tmp_path / "train.yaml", settings), tmp_path / "log"
    with log.open("w") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "deepzero_sim.cli", "train", "--config", str(config)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        assert wait_until(lambda: log.read_text().count("training NON") >= 3 or running.poll() is not None, 120)
        assert running.poll() is None, log.read_text()
        first, second = [line for line in log.read_text().splitlines() if line.startswith("training NON")][:2]
    finally:
        running.kill()
        running.wait()
    assert first == "training NON: 4000 in all"
    assert re.fullmatch(r"training NON: 400 of 4000, loss \S+e-\d\d, 33 solver steps, \d+ (s|min) left", second)


def test_the_last_line_has_all_solver_steps_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = line_data(tmp_path / "line.h5", 4, 12)
    settings = train_settings(tmp_path / "run", data, method="NON", held_back=1)
    assert main(["train", "--config", str(config_file(tmp_path / "train.yaml", settings))]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("training NON: 4 of 4")]
    assert len(lines) == 1 and f"{cost(settings.run).solver_steps} solver steps, after" in lines[0]


def test_lines_come_by_part_and_by_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    with bars.progress_bar("simulating x.h5", 1000) as report:
        for _ in range(1000):
            now[0] += 1.0
            report("")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "simulating x.h5: 1000 in all" and lines[1] == "simulating x.h5: 30 of 1000, 16 min left"
    assert len(lines) == 1 + 34 and lines[-1] == "simulating x.h5: 1000 of 1000, after 17 min"
