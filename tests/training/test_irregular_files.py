"""Files of a run that are pipes or devices are refused, never waited for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from training_cases import line_data, train_settings

from deepzero_sim.errors import RunError
from deepzero_sim.training.runs.trained_run import trained_loop
from deepzero_sim.training.runs.training import train

FILES = ("checkpoint.safetensors", "preparation.jsonl", "metrics.jsonl", "state.json")


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_run_that_is_none_is_refused_at_once(name: str, kind: str, tmp_path: Path) -> None:
    settings = train_settings(tmp_path / "run", line_data(tmp_path / "data.h5"), method="NON", updates=2)
    train(settings)
    file = settings.run / name
    file.unlink()
    if kind == "a pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    with pytest.raises(RunError, match="must be a regular file"):
        train(settings)
    if name == "checkpoint.safetensors":
        with pytest.raises(RunError, match="must be a regular file"):
            trained_loop(settings.run)
    shutil.rmtree(settings.run)
