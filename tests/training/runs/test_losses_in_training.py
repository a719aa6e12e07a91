"""Losses that settings name: every method minimises each, runs record them, and what sees nothing is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from problems import LogisticSolver

import deepzero_sim as dz
from deepzero_sim.common.settings import read
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.training import train

QUANTITY = "def energy(states):\n    return states.square().mean(dim=(2, 3))\n"

LOSSES: dict[str, dict[str, Any]] = {
    "terminal": {"name": "terminal"},
    "every": {"name": "every", "args": {"k": 2}},
    "observed": {"name": "observed", "args": {"points": [[0], [7]], "steps": [2, 3]}},
    "spectrum": {"name": "spectrum"},
    "time mean": {"name": "time_mean", "args": {"noise": [0.5]}},
    "quantity": {"name": "quantity", "args": {"function": "quantity.py:energy"}},
    "sum": {"name": "sum", "args": {"terms": [{"name": "terminal", "weight": 2}, {"name": "time_mean"}]}},
}

METHODS = ("NON", "DETACHED", "STRAIGHT-THROUGH", "SolverLayer", "FO-SOL", "ZO-SOL")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Frames of a map with a rate that the solver's own differs from by a fifth."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quantity.py").write_text(QUANTITY)
    solver = LogisticSolver()
    rates = torch.linspace(0.5, 2.0, 4, dtype=torch.float64)[:, None].numpy()
    x = torch.arange(16) / 16 * 2 * torch.pi
    states, frames = (0.5 + 0.3 * torch.sin(x + torch.arange(4)[:, None]))[:, None].double().numpy(), []
    for _ in range(10):
        frames.append(states)
        states = solver.step(states, 1.2 * rates)
    path = tmp_path / "data.h5"
    trajectories.save(
        path, Trajectories(torch.stack([torch.from_numpy(one) for one in frames], dim=1).numpy(), rates), solver.spec
    )
    return path


def settings(data: Path, **more: Any) -> TrainSettings:
    made: TrainSettings = read(
        TrainSettings,
        {
            "solver": {"name": "problems.LogisticSolver"},
            "differentiable_solver": {"name": "problems.LogisticSolver"},
            "network": {"name": "small", "args": {"width": 2, "padding": "circular"}},
            "vjp": {"name": "StraightThrough"},
            "train_data": data,
            "run": data.parent / "run",
            "unroll": 3,
            "updates": 30,
            "optimiser": {"name": "torch.optim.Adam", "args": {"lr": 0.02}},
            "workers": {"backend": "serial"},
            "tensorboard": False,
            **more,
        },
    )
    return made


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("method", ["SolverLayer", "ZO-SOL"])
def test_training_lowers_each_loss(method: str, loss: str, data: Path) -> None:
    updates = 8 if method == "ZO-SOL" else 30
    train(settings(data, method=method, loss=LOSSES[loss], updates=updates, batch_size=4))
    found = losses(data.parent / "run")
    assert sum(found[-4:]) < (0.9 if method == "ZO-SOL" else 0.6) * sum(found[:4])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_minimises_a_terminal_loss(method: str, data: Path) -> None:
    train(settings(data, method=method, loss=LOSSES["terminal"], updates=6))
    recorded = yaml.safe_load((data.parent / "run" / "config.yaml").read_text())
    assert recorded["loss"] == {"name": "deepzero_sim.losses.Terminal", "args": {}}
    assert len(losses(data.parent / "run")) == 6


def test_the_loss_of_all_steps_is_recorded_as_in_runs_before_there_were_others(data: Path) -> None:
    train(settings(data, method="DETACHED", updates=2))
    assert "loss" not in yaml.safe_load((data.parent / "run" / "config.yaml").read_text())
    with pytest.raises(dz.RunError, match="loss"):
        train(settings(data, method="DETACHED", updates=2, loss=LOSSES["terminal"]))


def test_single_steps_have_every_point_where_the_loss_sees_nothing_of_them(data: Path) -> None:
    said: list[str] = []
    train(settings(data, method="NON", loss=LOSSES["every"], updates=2), note=said.append)
    assert any("NON minimises the error of single steps: loss every with k = 2 needs rollouts of 2" in one for one in said)
    with pytest.raises(dz.ConfigError, match="loss every with k = 9 needs rollouts of 9 steps at least, not 3"):
        train(settings(data, run=data.parent / "other", method="DETACHED", loss={"name": "every", "args": {"k": 9}}))
    assert not (data.parent / "other").exists()


def test_stages_may_have_losses_of_their_own(data: Path) -> None:
    stages = [{"method": "NON"}, {"method": "DETACHED"}, {"method": "SolverLayer", "loss": {"name": "terminal"}}]
    loop = dz.train(
        LogisticSolver(),
        data,
        network={"name": "small", "args": {"width": 2}},
        stages=stages,
        updates=3,
        unroll=3,
        run=data.parent / "run",
        progress=False,
        workers={"backend": "serial"},
    )
    assert "SolverLayer" in repr(loop)
    assert "loss" not in yaml.safe_load((data.parent / "run" / "2-DETACHED" / "config.yaml").read_text())


def test_python_hands_over_a_loss_and_goes_on_with_it(data: Path) -> None:
    def trained(loss: Any, updates: int) -> dz.TrainedLoop:
        return dz.train(
            LogisticSolver(),
            data,
            "DETACHED",
            {"name": "small", "args": {"width": 2}},
            loss=loss,
            stages=[],
            updates=updates,
            unroll=3,
            run=data.parent / "run",
            progress=False,
            workers={"backend": "serial"},
        )

    points = dz.losses.Observed(points=[[1], [4]], steps=[3])
    trained(points, 2)
    trained(dz.losses.Observed(points=[[1], [4]], steps=[3]), 4)
    assert len(losses(data.parent / "run")) == 4
    with pytest.raises(dz.RunError, match="loss"):
        trained(dz.losses.Observed(points=[[1], [5]], steps=[3]), 4)
    with pytest.raises(dz.ConfigError, match=r"loss must be a loss of dz\.losses or its name"):
        trained(3, 4)
    with pytest.raises(
        dz.ConfigError, match=r"loss must name one of rollout, .* not 'terminall' \(did you mean 'terminal'\?\)"
    ):
        trained("terminall", 4)


class Largest(dz.losses.Loss):
    """The largest error, which is no sum of squares."""

    def build(self, spec: dz.SolverSpec, data: Trajectories) -> Any:
        return lambda rollout, references: (rollout - references).abs().amax()


@pytest.mark.parametrize("estimator", ["GaussNewton", "EKI"])
def test_a_loss_without_residuals_is_refused_before_steps_are_spent(
    estimator: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    plain = LogisticSolver.step

    def counted(self: LogisticSolver, states: Any, params: Any = None) -> Any:
        taken.append(len(states))
        return plain(self, states, params)

    monkeypatch.setattr(LogisticSolver, "step", counted)
    own = {"name": f"{__name__}.Largest"}
    with pytest.raises(dz.ConfigError, match="has no residuals, whose changes this method needs"):
        train(settings(data, method="ZO-SOL", loss=own, estimator={"name": estimator}))
    assert sum(taken) <= 4, "no more than the look at the solver itself"
