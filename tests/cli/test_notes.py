"""Notes on data in a comparison: what was left out or assumed is said, and is no warning."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from training_cases import line_data, train_settings

from deepzero_sim.cli.main import main
from deepzero_sim.training.runs.training import train


def test_notes_on_data_are_no_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train(train_settings(run := tmp_path / "run", data := line_data(tmp_path / "line.h5"), updates=1, method="NON"))
    with h5py.File(data) as file:
        np.savez("line.npz", u=file["frames"][:, :, 0] + 0.01)
    said = "line.npz says no times: its frames are taken to lie one step of solver 'burgers'"
    source = "{path: line.npz, axes: [simulation, time, x]}"
    assert main(["compare", str(run), "--data", source, "--steps", "2", "--output", "both"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"note: {said}" in out and f"warning: {said}" not in out
    found = json.loads(Path("both/results.json").read_text())
    assert any(said in note for note in found["notes"]) and not any(said in one for one in found["warnings"])
    assert said.removesuffix(" of solver 'burgers'") in " ".join(Path("both/report.md").read_text().split())
