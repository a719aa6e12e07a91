"""Networks before, inside and after a step: every method trains each, and runs are used as they were trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from forced_solvers import ViscousBurgers

import deepzero_sim as dz
from deepzero_sim.cli.main import main
from deepzero_sim.common.settings import read
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.training import train

POINTS = 16

METHODS = ("NON", "DETACHED", "STRAIGHT-THROUGH", "SolverLayer", "FO-SOL", "ZO-SOL")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Frames of the solver with a viscosity that is larger where the state is: what a network inside a step can say."""
    monkeypatch.chdir(tmp_path)
    solver = ViscousBurgers(POINTS)
    x = 2 * np.pi * np.arange(POINTS) / POINTS
    random = np.random.default_rng(0)
    waves = [a * np.sin(k * x + p) / k for k in (1, 2, 3) for a, p in [(random.normal(size=(4, 1)), random.random((4, 1)) * 6)]]
    states, speeds, frames = sum(waves)[:, None], np.linspace(0.8, 1.2, 4)[:, None], []
    for _ in range(12):
        frames.append(states)
        states = solver.advance(states, speeds, 0.05 + 0.3 * np.abs(states))
    path = tmp_path / "data.h5"
    trajectories.save(path, Trajectories(np.stack(frames, axis=1), speeds), solver.spec)
    return path


def settings(data: Path, **more: Any) -> TrainSettings:
    solver = {"name": "forced_solvers.ViscousBurgers", "args": {"points": POINTS}}
    made: TrainSettings = read(
        TrainSettings,
        {
            "solver": solver,
            "differentiable_solver": solver,
            "network": {"name": "small", "args": {"width": 2, "padding": "circular"}},
            "vjp": {"name": "Coloured"},
            "train_data": data,
            "run": data.parent / "run",
            "unroll": 3,
            "updates": 40,
            "batch_size": 24,
            "optimiser": {"name": "torch.optim.Adam", "args": {"lr": 0.02}},
            "workers": {"backend": "serial"},
            "tensorboard": False,
            **more,
        },
    )
    return made


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("coupling", ["after", "before", "inside"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_every_coupling(method: str, coupling: str, data: Path) -> None:
    updates = 32 if method == "ZO-SOL" else 40
    progress = train(settings(data, method=method, coupling={"name": coupling}, updates=updates))
    found = losses(data.parent / "run")
    assert sum(found[-5:]) < 0.9 * sum(found[:5])
    assert progress.solver_steps > 0 or (method, coupling) == ("NON", "after")
    loop = dz.load_run(data.parent / "run")
    assert type(loop.coupling).__name__.lower() == coupling
    if method not in ("NON", "ZO-SOL"):  # which have seen too little of rollouts
        alone = dz.SolverLoop(ViscousBurgers(POINTS), dz.models.NoCorrection())
        assert dz.evaluate(loop, data).mae < dz.evaluate(alone, data).mae


@pytest.mark.parametrize("coupling", ["before", "inside"])
def test_opaque_products_train_as_the_exact_gradient_does(coupling: str, data: Path) -> None:
    for method in ("FO-SOL", "SolverLayer"):
        train(settings(data, run=data.parent / method, method=method, coupling={"name": coupling}, updates=10))
    exact, opaque = (losses(data.parent / method) for method in ("FO-SOL", "SolverLayer"))
    np.testing.assert_allclose(opaque, exact, rtol=1e-4)


def test_a_field_is_learnt_with_inputs_like_those_of_training(data: Path) -> None:
    said: list[str] = []
    vjp = {"name": "JacobianField"}
    train(settings(data, method="SolverLayer", coupling={"name": "inside"}, vjp=vjp, updates=10), note=said.append)
    assert any("; inputs: cosine 0.99" in one or "; inputs: cosine 1.00" in one for one in said), said
    train(settings(data, run=data.parent / "exact", method="FO-SOL", coupling={"name": "inside"}, updates=10))
    np.testing.assert_allclose(losses(data.parent / "run"), losses(data.parent / "exact"), rtol=0.02)


class Opaque(dz.Solver):
    """The same solver, without its gradient."""

    def __init__(self) -> None:
        self._twin = ViscousBurgers(POINTS)
        self.spec = self._twin.spec

    def step(self, states: Array, params: Array | None = None, inputs: Array | None = None) -> Array:
        return self._twin.step(states, params, inputs)


def test_a_short_training_inside_finds_a_gradient_too(data: Path) -> None:
    """Half of its own solver steps, 45, would not be enough to tell which product suits."""
    said: list[str] = []
    short = {"method": "NON", "updates": 5, "batch_size": 18, "vjp": {"name": "Auto"}}
    solver = {"name": "test_couplings_in_training.Opaque"}
    train(settings(data, coupling={"name": "inside"}, solver=solver, **short), note=said.append, say=said.append)
    assert any("JacobianField was chosen" in one or "Coloured was chosen" in one for one in said), said
    assert len(set(losses(data.parent / "run"))) == 5


def test_a_network_of_another_role_is_no_start(data: Path) -> None:
    inside, after = ({"name": name} for name in ("inside", "after"))
    train(settings(data, run=data.parent / "inside", method="FO-SOL", coupling=inside, updates=2))
    with pytest.raises(dz.ConfigError, match="returns fields that the solver reads, and coupling After needs a correction of"):
        train(settings(data, method="FO-SOL", coupling=after, start=data.parent / "inside", updates=2))
    train(settings(data, run=data.parent / "after", method="FO-SOL", coupling=after, updates=2))
    with pytest.raises(dz.ConfigError, match="returns a correction of the state, and coupling Inside needs fields"):
        train(settings(data, method="FO-SOL", coupling=inside, start=data.parent / "after", updates=2))
    train(settings(data, method="FO-SOL", coupling={"name": "before"}, start=data.parent / "after", updates=2))


def test_a_run_records_its_coupling_and_goes_on_with_it_alone(data: Path) -> None:
    def once(**more: Any) -> TrainSettings:
        return settings(data, method="STRAIGHT-THROUGH", checkpoint_every=1, updates=4, **more)

    train(once(coupling={"name": "inside"}))
    assert yaml.safe_load((data.parent / "run" / "config.yaml").read_text())["coupling"]["name"].endswith("couplings.Inside")
    with pytest.raises(dz.RunError, match="coupling"):
        train(once())

    class KilledError(Exception):
        pass

    def kill(progress: dz.Progress) -> None:
        if progress.step == 2:
            raise KilledError

    with pytest.raises(KilledError):
        train(once(run=data.parent / "parted", coupling={"name": "inside"}), kill)
    train(once(run=data.parent / "parted", coupling={"name": "inside"}))
    assert losses(data.parent / "parted") == losses(data.parent / "run")
    loops = [dz.load_run(data.parent / name) for name in ("run", "parted")]
    for one, other in zip(*(loop.corrector.parameters() for loop in loops), strict=True):
        assert torch.equal(one, other)
    loops[0].save(data.parent / "saved")
    frames = trajectories.load(data)
    rollouts = [loop.rollout(frames.frames[:, 0], frames.params, 5) for loop in (loops[0], dz.load_run(data.parent / "saved"))]
    assert torch.equal(*rollouts)


OWN = """
import torch
import deepzero_sim as dz

class Half(dz.couplings.Coupling):
    '''Half of the correction before the step, half after it.'''
    network_first = True

    def before(self, states, output, spec):
        return states + 0.5 * output

    def after(self, advanced, output, spec):
        return advanced + 0.5 * output
"""


@pytest.mark.parametrize("method", ["DETACHED", "SolverLayer", "ZO-SOL"])
def test_a_coupling_of_ones_own_is_named_and_trained(method: str, data: Path) -> None:
    (data.parent / "own.py").write_text(OWN)
    updates = 16 if method == "ZO-SOL" else 40
    train(settings(data, method=method, coupling={"name": "own.py:Half"}, updates=updates))
    found = losses(data.parent / "run")
    assert sum(found[-5:]) < 0.9 * sum(found[:5])
    assert type(dz.load_run(data.parent / "run").coupling).__name__ == "Half"


def test_a_network_inside_a_solver_that_reads_nothing_is_refused(data: Path) -> None:
    for wrong, words in (("inside", "coupling inside needs a solver that reads inputs, and the spec of 'burgers' names none"),):
        with pytest.raises(dz.ConfigError, match=words):
            solver = {"name": "problems.Burgers", "args": {"points": POINTS, "parameters": ["speed"]}}
            train(settings(data, solver=solver, method="DETACHED", coupling={"name": wrong}, data_may_differ=["name", "dt"]))
    with pytest.raises(dz.ConfigError, match=r"coupling must name one of after, before, inside, .* not 'insid'"):
        settings(data, coupling={"name": "insid"})
    with pytest.raises(dz.ConfigError, match=r"must make a dz\.couplings\.Coupling, not Auto"):
        train(settings(data, method="DETACHED", coupling={"name": "deepzero_sim.vjp.Auto"}))


@pytest.mark.parametrize("coupling", ["before", "inside"])
def test_gradients_of_a_network_within_a_step_are_checked(
    coupling: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solver = ["--solver.name", "forced_solvers.ViscousBurgers", "--solver.args.points", str(POINTS)]
    twin = [one.replace("--solver", "--differentiable_solver") for one in solver]
    products = ["--vjp", "[{name: Coloured}, {name: JacobianField}]", "--coupling.name", coupling, "--loss.name", "terminal"]
    (data.parent / "start.py").write_text(START)
    network = ["--network.name", "start.py:drawn", "--network.args", f"{{inside: {str(coupling == 'inside').lower()}}}"]
    few = ["--unroll", "4", "--batches", "2", "--workers.backend", "serial"]
    command = ["check-gradient", "--output", "check", "--train_data", str(data), *solver, *twin, *network, *products, *few]
    assert main(command) == 0
    found = json.loads((data.parent / "check" / "gradient_check.json").read_text())["methods"]
    assert found["Coloured"]["cosine"] > 1 - 1e-6
    assert found["JacobianField"]["cosine"] > 0.99


START = """
import torch
import deepzero_sim as dz

def drawn(spec, inside) -> torch.nn.Module:
    network = dz.models.small(spec, width=2, padding='circular', of_inputs=inside)
    torch.nn.init.normal_(network.network[-1].weight, std=0.1)
    return network
"""


class Half(dz.couplings.Coupling):
    """Half of the correction before the step, half after it."""

    network_first = True

    def before(self, states: torch.Tensor, output: torch.Tensor | None, spec: dz.SolverSpec) -> torch.Tensor:
        assert output is not None
        return states + 0.5 * output

    def after(self, advanced: torch.Tensor, output: torch.Tensor, spec: dz.SolverSpec) -> torch.Tensor:
        return advanced + 0.5 * output


@pytest.mark.parametrize("coupling", [Half(), dz.couplings.Inside(), dz.couplings.Before(), "inside"])
def test_couplings_are_handed_over_to_python(data: Path, tmp_path: Path, coupling: Any) -> None:
    solver = ViscousBurgers(POINTS)
    common = {
        "updates": 3,
        "held_back": 0,
        "unroll": 2,
        "progress": False,
        "stages": [{"method": "DETACHED"}],
        "vjp": {"name": "Coloured"},
    }
    loop = dz.train(solver, data, "DETACHED", "small", coupling=coupling, **common)
    if not isinstance(coupling, str):
        assert type(loop.coupling) is type(coupling)
    loop.save(tmp_path / "saved")
    again = {"coupling": coupling} if isinstance(coupling, Half) else {}
    loaded = dz.load_run(tmp_path / "saved", solver=solver, **again)
    frames = trajectories.load(data)
    rollouts = [one.rollout(frames.frames[:2, 0], frames.params[:2], steps=2) for one in (loop, loaded)]
    assert torch.equal(*rollouts)
    if isinstance(coupling, Half):
        with pytest.raises(dz.ConfigError, match=r"coupling of this run, .* hand it over again, by dz.load_run.path, coupling"):
            dz.load_run(tmp_path / "saved", solver=solver)
        with pytest.raises(dz.RunError, match="with a coupling of another class or arguments than"):
            dz.load_run(tmp_path / "saved", solver=solver, coupling=type("Other", (Half,), {})())
    with pytest.raises(dz.ConfigError, match=r"coupling must be a coupling of dz.couplings or its name"):
        dz.train(solver, data, "DETACHED", "small", coupling=3, **common)


class Share(dz.couplings.Coupling):
    """A share of the correction before the step."""

    network_first = True

    def __init__(self, share: float) -> None:
        self.share = share

    def before(self, states: torch.Tensor, output: torch.Tensor | None, spec: dz.SolverSpec) -> torch.Tensor:
        assert output is not None
        states += self.share * output  # into what it is handed
        return states


def test_a_coupling_is_known_by_its_arguments_too(data: Path, tmp_path: Path) -> None:
    solver, common = ViscousBurgers(POINTS), {"updates": 2, "unroll": 2, "held_back": 0, "progress": False}
    stages = {"stages": [{"method": "DETACHED"}], "vjp": {"name": "Coloured"}}
    dz.train(solver, data, "DETACHED", "small", coupling=Share(0.9), run=tmp_path / "r", **common, **stages)
    with pytest.raises(dz.RunError, match="with a coupling of another class or arguments than the one that was handed over"):
        dz.load_run(tmp_path / "r", solver=solver, coupling=Share(0.1))
    with pytest.raises(dz.RunError, match=r"holds a run with other settings .coupling is"):
        dz.train(solver, data, "DETACHED", "small", coupling=Share(0.1), run=tmp_path / "r", **common, **stages)
    dz.train(solver, data, "DETACHED", "small", coupling="before", run=tmp_path / "b", **common, **stages)
    dz.load_run(tmp_path / "b", solver=solver, coupling="before")
    with pytest.raises(dz.RunError, match="with a coupling of another class or arguments"):
        dz.load_run(tmp_path / "b", solver=solver, coupling=dz.couplings.After())


def test_a_coupling_of_ones_own_gets_copies_and_its_mistakes_are_said(data: Path) -> None:
    frames = trajectories.load(data)
    loop = dz.SolverLoop(ViscousBurgers(POINTS), _One(), coupling=Share(0.5))
    given, before = np.array(frames.frames), np.array(frames.frames)
    dz.evaluate(loop, Trajectories(given, frames.params))
    loop.rollout(given[:, 0], frames.params, steps=1)
    assert np.array_equal(given, before)

    class Index(dz.couplings.Coupling):
        network_first = False

        def after(self, advanced: torch.Tensor, output: torch.Tensor, spec: dz.SolverSpec) -> torch.Tensor:
            return advanced + output[:, 7]

    class Numpy(dz.couplings.Coupling):
        network_first = False

        def after(self, advanced: torch.Tensor, output: torch.Tensor, spec: dz.SolverSpec) -> Any:
            return advanced.detach().numpy()

    class Unsaid(dz.couplings.Coupling):
        pass

    for coupling, says in (
        (Index, r"coupling Index raised IndexError in after on states of shape .4, 1, 16.: .* it is called as after.states"),
        (Numpy, r"after of coupling Numpy must return a tensor of shape .4, 1, 16., not ndarray"),
        (Unsaid, "coupling Unsaid must set network_first to True, for a network that is asked before the solver"),
    ):
        with pytest.raises(dz.ConfigError, match=says):
            dz.SolverLoop(ViscousBurgers(POINTS), _One(), coupling=coupling()).rollout(before[:, 0], frames.params, steps=1)


class _One(torch.nn.Module):
    def forward(self, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
        return torch.ones_like(states)
