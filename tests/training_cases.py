"""A small training from data to run folder, in this process and in one that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from problems import Burgers, initial_states

from deepzero_sim.cli import demo
from deepzero_sim.cli.generate import GenerateSettings
from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.common.types import NamedTensors
from deepzero_sim.datasets import Trajectories, trajectories
from deepzero_sim.training.checkpoints import load_checkpoint
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.runs.settings import TrainSettings, Workers
from deepzero_sim.training.runs.training import train

TESTS = Path(__file__).parent

#: Parameters of the network below: 1-3, two of 3-3, 3-1, three points wide.
PARAMETERS = 12 + 30 + 30 + 10

UPDATES = Component("torch.optim.lr_scheduler.CosineAnnealingLR", {"T_max": "updates"})


def line_data(path: Path, simulations: int = 3, frames: int = 12, dtype: str = "float64") -> Path:
    """Trajectories of a Burgers equation more viscous than `problems.Burgers` takes it to be."""
    solver, states = Burgers(dtype=dtype), initial_states(simulations, dtype=dtype)
    taken = [states]
    for _ in range(frames - 1):
        taken.append(solver.step(taken[-1], np.full((simulations, 1), 0.2)))
    data = Trajectories(np.stack(taken, axis=1), np.zeros((simulations, 0), dtype), solver.spec.active(), {"settings": {}})
    trajectories.save(path, data, solver.spec)
    return path


def train_settings(run: Path, data: Path, **changes: Any) -> TrainSettings:
    """A training that takes a moment: Burgers, 82 parameters."""
    settings = TrainSettings(
        run=run,
        train_data=data,
        solver=Component("problems.Burgers"),
        method="ZO-SOL",
        network=Component("small", {"width": 3, "padding": "circular"}),
        optimiser=Component("torch.optim.Adam", {"lr": 1e-3}),
        updates=4,
        batch_size=2,
        unroll=3,
        workers=Workers("serial", 1),
        checkpoint_every=2,
        tensorboard=False,
    )
    return replace(settings, **changes)


def coarse_data(settings: GenerateSettings) -> GenerateSettings:
    """The wake's data of a moment: 32 x 16 cells towards 64 x 32, and fifteen frames."""
    fine, coarse = (Component(demo.WAKE.name, {"resolution": resolution}) for resolution in (32, 16))
    simulations = replace(settings.simulations, reference=fine, source=coarse, steps=30, discard=15)
    return replace(settings, simulations=simulations)


def coarse_training(settings: TrainSettings) -> TrainSettings:
    """A training on :func:`coarse_data`."""
    coarse, twin = (Component(solver.name, {"resolution": 16}) for solver in (demo.WAKE, demo.PHIFLOW_WAKE))
    return replace(settings, solver=coarse, differentiable_solver=twin)


def config_file(path: Path, settings: Any) -> Path:
    """Settings as the YAML file that gives them."""
    path.write_text(yaml.safe_dump({"run": str(settings.run), **settings_to_dict(settings)}))
    return path


def start(*arguments: Any, cwd: Path, environment: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "COLUMNS": "200", **(environment or {})}
    return subprocess.Popen(
        [sys.executable, "-m", "deepzero_sim.cli", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def lines(path: Path) -> int:
    """Whole lines of a file that is being written."""
    return path.read_text().count("\n") if path.exists() else 0


def tensors(run: Path) -> NamedTensors:
    return load_checkpoint(run).tensors


def assert_same_tensors(a: NamedTensors, b: NamedTensors) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if a[name].dtype != b[name].dtype or not torch.equal(a[name], b[name])]
    assert not different


def without_seconds(metrics: Any) -> Any:
    """What must be the same in two runs; time never is."""
    if isinstance(metrics, list):
        return [without_seconds(line) for line in metrics]
    if isinstance(metrics, dict):
        return {key: without_seconds(value) for key, value in metrics.items() if key != "seconds"}
    return metrics


def unfinished(folder: Path) -> list[Path]:
    """Files that were being written."""
    return sorted(folder.rglob("*.part"))


def fill(disk: Path, left: int) -> Path:
    """Leave some bytes of a disk."""
    filler, free = disk / "filler", os.statvfs(disk)
    filler.write_bytes(b"x" * (free.f_bavail * free.f_frsize - left))
    return filler


class Killed(Exception):  # noqa: N818 - what a kill does to a training
    """Ends a training after an update."""


def train_killed_after(settings: TrainSettings, step: int) -> None:
    """Train until a kill after an update, and go on to the end."""

    def kill(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    with pytest.raises(Killed):
        train(settings, kill)
    train(settings)
