"""Scenario parameters that are trained, alone and with a network, by every method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from parameter_solvers import Transport, calibration, simulate

import deepzero_sim as dz
from deepzero_sim.cli.main import main
from deepzero_sim.common.trained_parameter import TrainedParameter
from deepzero_sim.coupling.trained_params import TrainedParams, starts_of
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.estimators.backpropagation import BackPropagation
from deepzero_sim.models.corrector import NoCorrection
from deepzero_sim.training.checkpoints import load_checkpoint
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.trained_run import trained_loop
from deepzero_sim.training.runs.training import train

METHODS = ("NON", "DETACHED", "STRAIGHT-THROUGH", "SolverLayer", "FO-SOL", "ZO-SOL")
SPEED, VISCOSITY = 1.3, 0.08


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Frames of the solver with the true parameters, in a file that says others: a first guess."""
    monkeypatch.chdir(tmp_path)
    solver = Transport()
    frames = simulate(solver, np.full((3, 2), [SPEED, VISCOSITY]))
    path = tmp_path / "data.h5"
    trajectories.save(path, Trajectories(frames, np.full((3, 2), [1.0, 0.05])), solver.spec)
    return path


def settings(data: Path, **more: Any) -> TrainSettings:
    return calibration(data, **{"run": data.parent / "run", "unroll": 3, "batch_size": 8, **more})


def trained_values(path: Path) -> dict[str, Any]:
    found = trained_loop(path).trained_params
    assert found is not None
    return found.values()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_parameters(data: Path, method: str) -> None:
    made = settings(data, method=method)
    progress = train(made)
    found = trained_values(made.run)
    assert found["speed"] == pytest.approx(SPEED, rel=1e-2)
    assert found["viscosity"] == pytest.approx(VISCOSITY, rel=1e-2)
    rollouts = 120 * 8 * (1 if method == "NON" else 3)
    factor = {"FO-SOL": 1, "ZO-SOL": 5, "SolverLayer": 5}.get(method, 5)  # forward, and four for two parameters
    assert progress.solver_steps >= rollouts * factor
    logged = [json.loads(line)["params"]["speed"] for line in (made.run / "metrics.jsonl").read_text().splitlines()]
    assert len(logged) == 120 and logged[-1] == found["speed"] and abs(logged[0] - 1) < 0.2


@pytest.mark.parametrize("coupling", ["after", "before"])
def test_gradients_of_all_routes_agree(data: Path, coupling: Any) -> None:
    """Gradients of a network and of parameters together, one shared and one a simulation, in float64."""
    loaded = trajectories.load(data, Transport().spec)
    frames = torch.from_numpy(loaded.frames[:, :4])
    batch = (frames[:, 0], torch.from_numpy(loaded.params), frames[:, 1:], None, torch.tensor([0, 1, 2]))
    gradients = []
    for gradient, estimator in (
        ("detached", dz.CGE(step_size=1e-4, scheme="central")),
        (dz.vjp.Coloured(), BackPropagation()),
        ("exact", BackPropagation()),
    ):
        torch.manual_seed(0)
        corrector = _Of(torch.nn.Conv1d(3, 1, 3, padding=1, padding_mode="circular").double())
        loop = dz.SolverLoop(Transport(), corrector, 3, gradient, coupling=coupling, trained_params=_both(loaded))
        oracle = dz.LoopOracle(loop, lambda rollout, references: (rollout - references).square().mean())
        found = estimator.estimate(oracle, batch).grads
        assert set(found) == {f"corrector.inner.{name}" for name in ("weight", "bias")} | {
            f"trained_params.weights.{column}" for column in (0, 1)
        }
        gradients.append(found)
    assert gradients[0]["trained_params.weights.1"].shape == (3,)
    for name, expected in gradients[2].items():
        assert expected.abs().min() > 1e-7
        for found in gradients[:2]:
            torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-8)


def _both(data: Trajectories) -> TrainedParams:
    trained = {
        "viscosity": TrainedParameter(least=0.0, most=1.0, per_simulation=True),
        "speed": TrainedParameter(start=0.9),
    }
    spec = Transport().spec
    return TrainedParams(spec, trained, starts_of(spec, trained, data.params))


class _Of(torch.nn.Module):
    """A convolution of states and parameters."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
        assert params is not None
        fields = params[:, :, None].expand(-1, -1, states.shape[-1])
        result: torch.Tensor = 0.1 * self.inner(torch.cat([states, fields], dim=1))
        return result


@pytest.mark.parametrize("bounds", [{}, {"least": 0.0}, {"most": 3.0}, {"least": -1.0, "most": 3.0}])
def test_a_parameter_moves_by_its_size_and_never_leaves_its_bounds(bounds: dict[str, float]) -> None:
    spec = Transport().spec
    one = TrainedParameter(**bounds, pace=1.0)
    params = TrainedParams(spec, {"speed": one}, {"speed": torch.tensor([0.8], dtype=torch.float64)})
    weight = params.weights["0"]
    given = torch.tensor([[7.0, 0.1]], dtype=torch.float64)
    assert params.values() == {"speed": pytest.approx(0.8, rel=1e-12)}
    (slope,) = torch.autograd.grad(params(given)[0, 0], weight)
    assert slope.item() == pytest.approx(0.8, rel=1e-9)  # nearer to zero than to any bound
    assert torch.autograd.gradcheck(lambda w: torch.func.functional_call(params, {"weights.0": w}, (given,)), (weight,))
    for value in (-20.0, 20.0):
        with torch.no_grad():
            weight.fill_(value)
        found = params(given)[0]
        assert one.least is None or found[0] >= one.least
        assert one.most is None or found[0] <= one.most
        assert found[1] == 0.1


def test_a_start_of_zero_moves_by_one_or_by_the_way_to_its_bounds() -> None:
    spec = Transport().spec
    for bounds, size in (({}, 1.0), ({"least": -0.5, "most": 4.0}, 0.5)):
        params = TrainedParams(spec, {"speed": TrainedParameter(**bounds, pace=1.0)}, {"speed": torch.zeros(1)})
        (slope,) = torch.autograd.grad(params(torch.zeros(1, 2).double())[0, 0], params.weights["0"])
        assert slope.item() == pytest.approx(size, rel=1e-9)


def test_values_of_each_simulation_are_found(data: Path) -> None:
    truth = np.array([[SPEED, 0.05], [SPEED, 0.1], [SPEED, 0.2]])
    solver = Transport()
    trajectories.save(data, Trajectories(simulate(solver, truth), np.full((3, 2), [SPEED, 0.08])), solver.spec)
    one = {"viscosity": {"least": 0.0, "per_simulation": True}}
    made = settings(data, method="SolverLayer", train_params=one, updates=200)
    train(made)
    assert trained_values(made.run)["viscosity"] == pytest.approx(truth[:, 1].tolist(), rel=2e-2)
    for key, value in {"held_back": 1, "held_back_simulations": [1], "validation_data": data}.items():
        with pytest.raises(dz.ConfigError, match="value per simulation say nothing of simulations that are held back"):
            train(settings(data, train_params=one, run=data.parent / "other", **{key: value}))


def test_a_run_that_was_killed_goes_on_as_if_undisturbed(data: Path) -> None:
    rate = {"name": "torch.optim.Adam", "args": {"lr": 1e-3}}
    given = {"network": {"name": "small", "args": {"width": 2}}, "optimiser": rate, "updates": 6, "checkpoint_every": 1}
    whole = settings(data, method="SolverLayer", run=data.parent / "whole", **given)
    train(whole)

    class KilledError(Exception):
        pass

    def kill(progress: Any) -> None:
        if progress.step == 3:
            raise KilledError

    killed = settings(data, method="SolverLayer", **given)
    with pytest.raises(KilledError):
        train(killed, kill)
    train(killed)
    ours, theirs = (load_checkpoint(made.run).tensors for made in (killed, whole))
    assert ours.keys() == theirs.keys() and any("trained_params" in name for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_goes_on_from_the_values_of_another(data: Path) -> None:
    first = settings(data, method="NON", updates=120, train_params={"speed": {}}, run=data.parent / "first")
    train(first)
    reached = trained_values(first.run)
    again = settings(
        data,
        method="SolverLayer",
        start=first.run,
        updates=1,
        optimiser={"name": "torch.optim.SGD", "args": {"lr": 0.0}},
        train_params={"speed": {"least": 0.5, "pace": 3.0}, "viscosity": {"start": 0.07}},
    )
    train(again)
    found = trained_values(again.run)
    assert found["speed"] == pytest.approx(reached["speed"], rel=1e-12) and found["viscosity"] == pytest.approx(0.07)
    with pytest.raises(dz.ConfigError, match="trained parameter 'speed', which would go back to the value of the data"):
        train(settings(data, start=first.run, method="DETACHED", train_params={}, run=data.parent / "lost"))


def test_a_network_and_parameters_are_trained_together_saved_and_loaded(data: Path, tmp_path: Path) -> None:
    loaded = trajectories.load(data, Transport().spec)
    loop = dz.train(
        Transport(),
        loaded,
        "DETACHED",
        "small",
        train_params={"speed": {"start": 1.1}, "viscosity": TrainedParameter(least=0.0)},
        updates=10,
        unroll=2,
        held_back=1,
        progress=False,
    )
    found = loop.trained_params.values()
    assert found["speed"] != 1.1 and "trained speed, viscosity" in repr(loop)
    states = loaded.frames[:2, 0]
    rolled = loop.rollout(states, steps=3)
    for params in (loaded.params[:2], np.zeros((2, 2))):  # what stands in trained columns is not read
        assert torch.equal(loop.rollout(states, params, steps=3), rolled)
    loop.save(tmp_path / "saved")
    again = dz.load_run(tmp_path / "saved", solver=Transport())
    assert again.trained_params.values() == found
    assert torch.equal(again.rollout(states, steps=3), rolled)
    assert dz.evaluate(again, loaded).mae == pytest.approx(dz.evaluate(loop, loaded).mae)


def test_runs_with_trained_parameters_are_evaluated_and_compared(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = settings(data, method="SolverLayer")
    path = data.parent / "train.yaml"
    names = (
        "solver",
        "differentiable_solver",
        "network",
        "vjp",
        "unroll",
        "batch_size",
        "optimiser",
        "workers",
        "train_params",
    )
    given = {name: getattr(made, name) for name in names}
    plain = json.loads(json.dumps(given, default=vars)) | {"train_data": "data.h5", "tensorboard": False, "updates": 120}
    path.write_text(yaml.safe_dump({**plain, "stages": [{"method": "NON"}, {"method": "SolverLayer"}], "held_back": 1}))
    assert main(["train", "--config", str(path), "--run", "run"]) == 0
    said = capsys.readouterr().out
    assert "(at the start 1)" in said and "speed: 1.3" in said, said
    assert main(["evaluate", "--run", "run", "--data", "data.h5", "--output", "found"]) == 0
    results = json.loads((data.parent / "found" / "results.json").read_text())
    errors = {name: one["error"] for name, one in results["relative"].items()}
    assert errors["SRC"] > 30 * errors[next(name for name in errors if name != "SRC")], results


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"speed": {"least": 2.0}}, "parameter 'speed' must start between its bounds, 2 and inf, not 1.0: give it another"),
        ({"speed": {"start": 3.0, "most": 2.0}}, "a trained parameter must start between its bounds, -inf and 2, not 3.0"),
        ({"speed": {"least": 2.0, "most": 1.0}}, "least of a trained parameter must lie below its most, not 2 and 1"),
        ({"sped": {}}, "train_params must name parameters, those of solver 'transport', speed, viscosity, not 'sped' .did you"),
        ({"speed": {"pace": 0}}, "pace of a trained parameter must be a positive number, not 0"),
        ({"speed": {"scale": 1}}, "may have start, least, most, per_simulation, pace, not 'scale'"),
        ({"speed": 1.0}, "train_params.speed must hold keys"),
        ({}, "has no parameters to train"),
    ],
)
def test_what_cannot_be_trained_is_refused(data: Path, given: Any, message: str) -> None:
    with pytest.raises(dz.ConfigError, match=message):
        train(settings(data, method="SolverLayer", train_params=given))
    assert not (data.parent / "run").exists()


def test_a_solver_that_is_not_deterministic_has_no_gradient_of_parameters(data: Path) -> None:
    noisy = {"name": "parameter_solvers.Transport", "args": {"deterministic": False}}
    for method in ("DETACHED", "NON", "STRAIGHT-THROUGH"):
        with pytest.raises(dz.ConfigError, match="is not deterministic, so that differences of its steps say nothing"):
            train(settings(data, method=method, solver=noisy))


def test_a_rollout_without_parameters_needs_all_of_them_trained(data: Path) -> None:
    spec = Transport().spec
    one = TrainedParams(spec, {"speed": TrainedParameter()}, {"speed": torch.ones(1)})
    loop = dz.SolverLoop(Transport(), NoCorrection(), trained_params=one)
    with pytest.raises(dz.ConfigError, match="params must be given, as viscosity has no trained value"):
        loop.rollout(np.zeros((1, 1, 16)), steps=1)


def test_values_of_single_simulations_stay_with_these(data: Path, tmp_path: Path) -> None:
    """A start from them on other data, or from one for all, and an evaluation without them."""
    each = {"speed": {"per_simulation": True}, "viscosity": {"start": VISCOSITY, "least": 0.0}}
    first = settings(data, method="SolverLayer", train_params=each, updates=40, run=tmp_path / "first")
    train(first)
    values = trained_values(first.run)["speed"]
    assert len(values) == 3 and len(set(values)) == 3
    rate = {"name": "torch.optim.SGD", "args": {"lr": 0.0}}
    again = settings(data, method="SolverLayer", train_params=each, start=first.run, updates=1, optimiser=rate)
    train(again)
    assert trained_values(again.run)["speed"] == pytest.approx(values, rel=1e-12)
    shared = {"speed": {}, "viscosity": {}}
    with pytest.raises(dz.ConfigError, match="trained parameter 'speed' with a value per simulation: set per_simulation here"):
        train(settings(data, method="SolverLayer", train_params=shared, start=first.run, run=tmp_path / "shared"))
    other = tmp_path / "other.h5"
    for count in (3, 5):
        frames = simulate(Transport(), np.full((count, 2), [SPEED, VISCOSITY]), seed=9)
        trajectories.save(other, Trajectories(frames, np.full((count, 2), [1.0, 0.05])), Transport().spec)
        with pytest.raises(dz.ConfigError, match="with a value per simulation of other data: start from a run on the same"):
            train(settings(other, method="SolverLayer", train_params=each, start=first.run, run=tmp_path / f"other{count}"))
    one = settings(data, method="NON", train_params=shared, updates=60, run=tmp_path / "one")
    train(one)
    spread = settings(
        data, method="SolverLayer", train_params=each, start=one.run, updates=1, optimiser=rate, run=tmp_path / "s"
    )
    train(spread)
    assert trained_values(spread.run)["speed"] == pytest.approx([trained_values(one.run)["speed"]] * 3, rel=1e-12)
    loop, loaded = trained_loop(first.run), trajectories.load(data)
    with pytest.raises(dz.ConfigError, match="a value per simulation, which data cannot tell: pass params with those"):
        dz.evaluate(loop, loaded)
    params = np.stack([values, [trained_values(first.run)["viscosity"]] * 3], axis=1)
    assert dz.evaluate(loop, loaded, params=params).relative < 0.1
    assert main(["evaluate", "--run", str(first.run), "--data", str(data), "--output", str(tmp_path / "out")]) == 2


def test_differences_stay_within_the_bounds_of_parameters() -> None:
    """Of values of different orders, whose differences would be as long as the largest."""
    seen: list[float] = []

    def step(states: np.ndarray, params: np.ndarray) -> np.ndarray:
        seen.extend(params[:, 0].tolist())
        return np.asarray(states * (1 - 0.1 * np.sqrt(params)[:, :, None]), states.dtype)

    spec = dz.SolverSpec(name="root", state_shape=(1, 4), dt=0.1, dtype="float64", parameters="nu", stencil=0)
    params = np.array([[1e-6], [10.0], [1.0]])
    one = {"nu": TrainedParameter(least=0.0, most=10.5, per_simulation=True)}
    trained = TrainedParams(spec, one, starts_of(spec, one, params))
    loop = dz.SolverLoop(dz.as_solver(step, spec), NoCorrection(), 1, trained_params=trained)
    given = torch.from_numpy(params)
    rollout, _ = loop.rollout_with_account(torch.ones(3, 1, 4).double(), given, 1, simulations=torch.arange(3))
    (slopes,) = torch.autograd.grad(rollout.sum(), trained.weights["0"])
    assert min(seen) > 0 and max(seen) < 10.5
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    values = torch.func.functional_call(trained, {"weights.0": weight}, (given, torch.arange(3)))
    (exact,) = torch.autograd.grad((4 * (1 - 0.1 * values[:, 0].sqrt())).sum(), weight)
    torch.testing.assert_close(slopes, exact, rtol=0.2, atol=0)  # half the way to a bound is far: curvature
    torch.testing.assert_close(slopes[1:], exact[1:], rtol=1e-6, atol=0)
