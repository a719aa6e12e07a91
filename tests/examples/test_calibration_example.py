"""examples/py_pde: its observations are sparse and noisy, and its recipes find the rates behind them, in short."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from deepzero_sim.cli.main import main
from deepzero_sim.datasets import trajectories
from deepzero_sim.training.runs.trained_run import trained_loop

EXAMPLE = Path(__file__).parents[2] / "examples" / "py_pde"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if importlib.util.find_spec("pde") is None:
        pytest.skip("py-pde is not installed")
    shutil.copytree(EXAMPLE, tmp_path / "examples" / "py_pde")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_both_rates_are_found_from_a_twentieth_of_the_points(folder: Path) -> None:
    script = folder / "examples" / "py_pde" / "observe.py"
    script.write_text(script.read_text().replace("STEPS, SHARE, NOISE = 4, 40,", "STEPS, SHARE, NOISE = 2, 10,"))
    subprocess.run([sys.executable, str(script)], check=True, timeout=300)
    data = trajectories.load(Path("data/py_pde_observations.h5"))
    assert data.unobserved and data.frames.shape == (2, 11, 2, 32, 32) and data.complete.sum() == 2
    assert np.isfinite(data.frames[:, 1:]).mean() == pytest.approx(0.05, abs=0.01)
    for name in ("calibrate", "calibrate_cge"):
        recipe = f"examples/py_pde/{name}.yaml"
        short = ["--updates", "25", "--unroll", "10", "--optimiser.args.lr", "0.02", "--workers.backend", "serial"]
        assert main(["train", "--config", recipe, *short]) == 0
        found = trained_loop(Path(yaml.safe_load((EXAMPLE / f"{name}.yaml").read_text())["run"])).trained_params
        assert found is not None
        values = found.values()
        assert values["feed"] == pytest.approx(0.037, rel=0.05) and values["kill"] == pytest.approx(0.06, rel=0.05)
