"""A training whose rollouts leave the data: its Jacobian field is fitted again on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training_cases import assert_same_tensors, tensors, train_settings, without_seconds

from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import Trajectories, trajectories
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.checkpoints import load_checkpoint
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.training import train

POINTS = 24


class KilledError(Exception):
    """Ends a run in the middle."""


class Reaction(Solver):
    """Diffusion, and a reaction that shows at large states only."""

    spec = SolverSpec(name="reaction", state_shape=(1, POINTS), dt=1.0, dtype="float64")

    def step(self, states: Array, params: Array | None = None) -> Array:
        around = np.roll(states, 1, -1) - 2 * states + np.roll(states, -1, -1)
        return np.asarray(states + 0.05 * (states - states**3 / 3) + 0.2 * around)


class Pushes(nn.Module):
    """A corrector that begins by pushing states far from the data, alternately up and down."""

    def __init__(self, spec: SolverSpec) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular")
        self.register_buffer("push", 1.5 * torch.sin(torch.arange(POINTS) * 4 * torch.pi / POINTS))

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        correction: torch.Tensor = 0.1 * self.convolution(states) + self.push
        return correction


@pytest.fixture
def data(tmp_path: Path) -> Path:
    solver, rng = Reaction(), np.random.default_rng(0)
    phases, places = rng.uniform(0, 6, (6, 1, 1)), np.arange(POINTS) * 2 * np.pi / POINTS
    frames = [0.1 * (np.sin(places + phases) + np.sin(2 * places + 3 * phases))]
    for _ in range(15):
        frames.append(solver.step(frames[-1]))
    found = Trajectories(np.stack(frames, 1), np.zeros((6, 0)), solver.spec.active(), {"settings": {}})
    trajectories.save(tmp_path / "small.h5", found, solver.spec)
    return tmp_path / "small.h5"


def settings_of(run: Path, data: Path) -> TrainSettings:
    return train_settings(
        run,
        data,
        solver=Component("test_drift_in_training.Reaction"),
        network=Component("test_drift_in_training.Pushes"),
        method="SolverLayer",
        vjp=Component("deepzero_sim.vjp.JacobianField", {"check_every": 4}),
        updates=40,
        unroll=4,
    )


@pytest.mark.parametrize("killed_at", [9, 16])
def test_a_training_says_that_a_field_was_refitted_and_resumes_over_it(tmp_path: Path, data: Path, killed_at: int) -> None:
    """Killed before the refit, at which the run goes on from a checkpoint, and after it."""
    notes: list[str] = []
    traps: list[str] = []

    def kill(progress: Progress) -> None:
        if progress.step == killed_at:
            raise KilledError

    whole, killed = settings_of(tmp_path / "whole", data), settings_of(tmp_path / "killed", data)
    undisturbed = train(whole, note=notes.append, say=traps.append)
    (said,) = (sentence for sentence in notes if "a refit of" in sentence)
    assert said.startswith("after ") and "products, those of the JacobianField of solver 'reaction' are off " in said
    assert "refitted once, last after " in said
    assert not [sentence for sentence in traps if "JacobianField" in sentence]
    with pytest.raises(KilledError):
        train(killed, report=kill)
    resumed = train(killed)
    assert without_seconds(vars(resumed)) == without_seconds(vars(undisturbed))
    assert_same_tensors(tensors(killed.run), tensors(whole.run))
    ends = [load_checkpoint(one.run) for one in (killed, whole)]
    assert without_seconds(ends[0].state) == without_seconds(ends[1].state)
    assert ends[0].tensors["oracle.refits"][0] == 1
