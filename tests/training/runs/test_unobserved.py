"""Data of observations: values that nobody measured, sparse and noisy, from which networks and parameters are trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from parameter_solvers import Transport, calibration, simulate

import deepzero_sim as dz
from deepzero_sim.cli.main import main
from deepzero_sim.cli.serve import models_of_run
from deepzero_sim.common.components import Component
from deepzero_sim.coupling.losses import Observed
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.opening import open_trajectories
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.estimators.backpropagation import BackPropagation
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.trained_run import trained_loop
from deepzero_sim.training.runs.training import train

SPEED, VISCOSITY = 1.3, 0.08


def observations(simulations: int = 4, frames: int = 9, share: float = 0.25, seed: int = 1) -> Trajectories:
    """Frames of which the first is whole, and of the others so many values at random."""
    whole = simulate(Transport(), np.full((simulations, 2), [SPEED, VISCOSITY]), frames)
    seen = np.random.default_rng(seed).random(whole.shape) < share
    seen[:, 0] = True
    return Trajectories(np.where(seen, whole, np.nan), np.full((simulations, 2), [1.0, 0.05]), unobserved=True)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data.h5"
    trajectories.save(path, observations(), Transport().spec)
    return path


def settings(data: Any, **more: Any) -> TrainSettings:
    given = {"run": Path("run"), "loss": {"name": "observed"}, "unroll": 8, "batch_size": 4}
    return calibration(data, **{**given, **more})


@pytest.mark.parametrize("method", ["SolverLayer", "FO-SOL", "ZO-SOL", "STRAIGHT-THROUGH"])
def test_parameters_are_found_from_a_quarter_of_the_values(data: Path, method: str) -> None:
    notes: list[str] = []
    train(settings(data, method=method), note=notes.append)
    assert any("32.8% of the data's values were observed" in note and "at the 4 of 36 frames" in note for note in notes), notes
    found = trained_loop(Path("run")).trained_params
    assert found is not None
    assert found.values() == {"speed": pytest.approx(SPEED, rel=1e-2), "viscosity": pytest.approx(VISCOSITY, rel=1e-2)}


def test_the_loss_and_its_gradients_are_of_what_was_observed(data: Path) -> None:
    """By hand, and by differences carried through the network, against autograd, in float64."""
    loaded = trajectories.load(data, Transport().spec)
    assert loaded.unobserved and loaded.complete.sum() == 4 and loaded.complete[:, 0].all()
    measure = Observed(noise=[0.5]).build(Transport().spec, loaded)
    references = torch.from_numpy(loaded.frames[:, 1:4])
    rollout = torch.randn(references.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = ~references.isnan()
    expected = ((rollout - references)[seen] / 0.5).square().mean()
    torch.testing.assert_close(measure(rollout, references), expected)
    nothing = torch.full_like(references, torch.nan)
    assert measure(rollout, nothing) == 0
    torch.manual_seed(0)
    corrector = _Small().double()
    batch = (torch.from_numpy(loaded.frames[:, 0]), torch.from_numpy(loaded.params), references)
    gradients = []
    for gradient, estimator in (("exact", BackPropagation()), ("detached", dz.CGE(step_size=1e-4, scheme="central"))):
        loop = dz.SolverLoop(Transport(), corrector, 3, gradient)
        gradients.append(estimator.estimate(dz.LoopOracle(loop, measure, unobserved=True), batch).grads)
    for name, exact in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], exact, rtol=1e-6, atol=1e-10)
    with pytest.raises(dz.NonFiniteError, match="a batch's references must be finite"):
        dz.LoopOracle(loop, measure).prepare(batch)


class _Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
        result: torch.Tensor = 0.1 * self.layer(states)
        return result


def test_a_network_is_trained_validated_and_evaluated_on_observations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = observations(simulations=6, frames=9, share=0.5)
    loop = dz.train(
        Transport(), given, "SolverLayer", "small", loss="observed", updates=150, unroll=4, batch_size=8, seed=1, progress=False
    )
    before = dz.evaluate(dz.SolverLoop(Transport(), dz.models.NoCorrection()), given)
    after = dz.evaluate(loop, given)
    assert before.errors.isfinite().all() and after.relative < 0.7 * before.relative
    whole = simulate(Transport(), np.full((6, 2), [SPEED, VISCOSITY]), 9)
    unseen = np.isnan(given.frames)
    rollout = after.rollout.numpy()
    alone = before.rollout.numpy()
    errors = [np.abs(found - whole[:, 1:])[unseen[:, 1:]].mean() for found in (rollout, alone)]
    assert errors[0] < 0.8 * errors[1]  # and where nobody looked


def test_a_report_tells_what_was_not_observed_from_what_diverged(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No step of a simulation but some is observed: there are errors, means, figures, and nobody diverges."""
    given = observations(simulations=4, frames=9, share=0.5)
    frames = np.array(given.frames)
    frames[0, 3:5] = frames[:, 7] = np.nan
    found = Trajectories(frames, given.params, unobserved=True)
    trajectories.save(data.with_name("gaps.h5"), found, Transport().spec)
    run = data.with_name("run")
    train(settings(data, run=run, method="SolverLayer", network=Component("small"), updates=20))
    capsys.readouterr()
    report = data.with_name("report")
    assert main(["evaluate", "--run", str(run), "--data", str(data.with_name("gaps.h5")), "--output", str(report)]) == 0
    said = capsys.readouterr().out
    assert "diverge" not in said and "given up" not in said
    told = json.loads((report / "results.json").read_text())
    assert all(np.isfinite(error["mae"]) for one in told["simulations"] for error in one["errors"].values())


def test_steps_without_any_observation_have_no_error() -> None:
    given = observations(frames=5)
    frames = np.array(given.frames)
    frames[:, 2] = np.nan
    found = dz.evaluate(
        dz.SolverLoop(Transport(), dz.models.NoCorrection()), Trajectories(frames, given.params, unobserved=True)
    )
    assert found.errors[:, 1].isnan().all() and found.errors[:, [0, 2, 3]].isfinite().all()
    assert found.mae == pytest.approx(float(found.errors[:, [0, 2, 3]].mean()))
    assert np.isfinite(found.relative) and np.isfinite(found.mae_std) and found.channel_mae.isfinite().all()
    frames[1, 0, 0, 3] = np.nan
    with pytest.raises(dz.DataError, match="begins at the first frame of every simulation, but some have values that were not"):
        dz.evaluate(dz.SolverLoop(Transport(), dz.models.NoCorrection()), Trajectories(frames, given.params, unobserved=True))


def test_files_of_others_say_what_is_missing(data: Path) -> None:
    """An array file with NaN, of this layout without the attribute, and of numpy."""
    spec, whole = Transport().spec, observations()
    with h5py.File(data, "r+") as file:
        assert file.attrs["missing"] == "unobserved"
        del file.attrs["missing"]
    with pytest.raises(dz.DataError, match="holds NaN or infinity: the simulation it was made from diverged"):
        open_trajectories(data, spec)
    found = open_trajectories(DataSource(data, missing="unobserved"), spec)
    assert found.unobserved and np.array_equal(found.frames[:], whole.frames, equal_nan=True)
    np.savez(data.with_suffix(".npz"), frames=whole.frames, params=whole.params)
    source = DataSource(
        data.with_suffix(".npz"),
        missing="unobserved",
        axes=["simulation", "time", "channel", "x"],
        dt=0.05,
        channels={"channel_0": "u"},
        parameters={"speed": "param_0", "viscosity": "param_1"},
    )
    found = open_trajectories(source, spec, ["spacing"])
    assert found.unobserved and np.array_equal(found.frames[:], whole.frames, equal_nan=True)
    with pytest.raises(dz.DataError, match="missing: unobserved takes them for not observed"):
        open_trajectories(replace(source, missing="refuse"), spec, ["spacing"])
    finer = DataSource(data, missing="unobserved", restrict="block_mean")
    with pytest.raises(dz.DataError, match="restrict block_mean would spread them over the grid"):
        open_trajectories(finer, Transport(8).spec, ["spacing"])


def test_what_says_nothing_is_refused(data: Path) -> None:
    with pytest.raises(
        dz.ConfigError, match=r"values that were not observed, which loss .*Terminal cannot leave out: take loss"
    ):
        train(settings(data, loss={"name": "terminal"}))
    spectrum = {"name": "sum", "args": {"terms": [{"name": "observed"}, {"name": "spectrum"}]}}
    with pytest.raises(dz.ConfigError, match="cannot leave out: take loss observed"):
        train(settings(data, loss=spectrum))
    given = observations()
    frames = np.array(given.frames)
    frames[:, 0, 0, 0] = np.nan
    trajectories.save(data, Trajectories(frames, given.params, unobserved=True), Transport().spec)
    with pytest.raises(dz.DataError, match="must begin at a frame of which every value was observed, and these trajectories"):
        train(settings(data))
    with pytest.raises(dz.DataError, match="holds NaN or infinity"):
        dz.train(Transport(), (frames, given.params), "NON", progress=False, loss="observed")
    frames[:] = np.inf
    with pytest.raises(dz.DataError, match="holds NaN or infinity"):
        trajectories.save(data, Trajectories(frames, given.params, unobserved=True), Transport().spec)


def test_means_leave_out_what_was_not_observed() -> None:
    """A channel that is missing in one frame, and a simulation of which only the first frame is there, by hand."""
    spec = dz.SolverSpec(name="two", state_shape=(2, 8), dt=0.1, dtype="float64", stencil=0)
    loop = dz.SolverLoop(dz.as_solver(lambda states: 1.0 * states, spec), dz.models.NoCorrection())
    frames = np.random.default_rng(0).normal(size=(2, 4, 2, 8))
    missing = frames.copy()
    missing[:, 2, 1] = np.nan
    found = dz.evaluate(loop, Trajectories(missing, unobserved=True))
    errors = np.abs(missing[:, 1:] - missing[:, :1])
    seen = np.delete(errors[:, :, 1], 1, axis=1)
    np.testing.assert_allclose(found.channel_mae, [errors[:, :, 0].mean(), seen.mean()])
    missing = frames.copy()
    missing[0, 1:] = np.nan
    found = dz.evaluate(loop, Trajectories(missing, unobserved=True))
    assert found.mae == pytest.approx(np.abs(missing[1, 1:] - missing[1, :1]).mean()) and found.mae_std == 0
    with pytest.raises(dz.DataError, match=r"what was handed over as data holds NaN or infinity: .* set unobserved where NaN"):
        dz.evaluate(loop, Trajectories(missing))


def test_such_files_are_converted_and_such_runs_served(data: Path, tmp_path: Path) -> None:
    assert main(["convert", "--data", str(data), "--output", "copy.h5"]) == 0
    copied, whole = trajectories.load(Path("copy.h5")), trajectories.load(data)
    assert copied.unobserved and np.array_equal(copied.frames[:], whole.frames[:], equal_nan=True)
    assert main(["convert", "--data", str(data), "--to", "well", "--output", "well.h5"]) == 2
    one = {"viscosity": {"least": 0.0, "per_simulation": True}}
    for name, more in (("shared", {}), ("single", {"train_params": one})):
        made = settings(data, method="SolverLayer", updates=2, run=tmp_path / name, **more)
        train(made)
        models, left_out = models_of_run(made.run)
        model = models["loss"]
        assert left_out is None and isinstance(model, dz.ServedLoss)
        (loss,) = model.evaluate([np.concatenate(models["parameters"].evaluate([], {}))], {})
        assert np.isfinite(loss).all()
