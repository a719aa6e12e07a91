"""Every method, from data to comparison, and what each of them costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import Burgers, initial_states
from training_cases import PARAMETERS, assert_same_tensors, line_data, tensors, train_settings

from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.generation.generate import Simulations, generate
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DataError, DeepZeroError, RunError
from deepzero_sim.execution.tasks import SerialExecutor
from deepzero_sim.models.corrector import Corrector, NoCorrection
from deepzero_sim.training.checkpoints import load_checkpoint
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.runs.comparison import Cost, compare, cost
from deepzero_sim.training.runs.settings import MethodName, TrainSettings
from deepzero_sim.training.runs.trained_run import build_corrector, trained_loop
from deepzero_sim.training.runs.training import train

#: Of the frames of `line_data` but the last, which are advanced once: 3 simulations, 12 frames.
ALL_FRAMES = 3 * 11
FORWARD = Component("deepzero_sim.CGE", {"step_size": 1e-4, "scheme": "forward"})
REFERENCE = Component("deepzero_sim.vjp.ReferenceJacobian")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return line_data(tmp_path / "line.h5")


#: Solver steps of 4 updates, batches of 2, unrolled 3 steps of which the first is known.
COSTS: dict[MethodName, int] = {
    "NON": 0,
    "DETACHED": 4 * 2 * 2,
    "STRAIGHT-THROUGH": 4 * 2 * 2,
    "ZO-SOL": 4 * 2 * 2 * (PARAMETERS + 1),
    "SolverLayer": 4 * 2 * 2 + 24 + 2 + 2 * 16 + 24 * 2 * 4,  # central differences: one whole Jacobian, 24 in four colours
}


#: Before training, whether a loss repeats: two rollouts of a batch, of which no step is known.
CHECKS: dict[MethodName, int] = {"ZO-SOL": 2 * 2 * 3}

#: Solver steps of a run that starts from another: measured before its first update and after its last, and once the solver
#: alone, on one rollout of 11 steps from each simulation.
MEASURED = 3 * 3 * 11

#: First steps that are found in another run and taken again, to compare them.
COMPARED = 2


@pytest.mark.parametrize("method", COSTS)
def test_a_method_trains_and_costs_what_it_asked(tmp_path: Path, data: Path, method: MethodName) -> None:
    settings = train_settings(tmp_path / "run", data, method=method, estimator=FORWARD, vjp=REFERENCE)
    progress = train(settings)
    assert progress.step == 4 and progress.solver_steps == COSTS[method]
    assert cost(settings.run) == Cost(ALL_FRAMES + COSTS[method] + CHECKS.get(method, 0), progress.seconds)
    found = compare({method: settings.run}, data, steps=5)
    assert list(found.methods) == ["SRC", method] and found.references.shape == (3, 5, 1, 16)
    assert found.methods["SRC"].cost == Cost() and found.methods[method].cost == cost(settings.run)
    assert found.methods[method].evaluation.mae != found.methods["SRC"].evaluation.mae


def test_a_run_that_has_ended_measures_nothing(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = train_settings(tmp_path / "run", data, method="SolverLayer", vjp=REFERENCE)
    first = train(settings)
    monkeypatch.delattr("deepzero_sim.vjp.ReferenceJacobian.prepare")
    monkeypatch.delattr("deepzero_sim.vjp.ReferenceJacobian._measure")
    assert train(settings) == first


def test_a_start_hands_on_its_network_and_its_cost(tmp_path: Path, data: Path) -> None:
    non = train_settings(tmp_path / "NON", data, method="NON")
    zo = train_settings(tmp_path / "ZO", data, start=non.run, estimator=FORWARD)
    more = train_settings(tmp_path / "more", data, start=zo.run, method="DETACHED")
    first, second, third = train(non), train(zo), train(more)
    assert cost(non.run).solver_steps == ALL_FRAMES
    assert second.validation_steps == third.validation_steps == MEASURED and first.validation_steps == 0
    spent = ALL_FRAMES + COMPARED + COSTS["ZO-SOL"] + CHECKS["ZO-SOL"] + MEASURED
    assert (cost(zo.run).solver_steps, cost(zo.run).found) == (spent, ALL_FRAMES)
    spent += COMPARED + COSTS["DETACHED"] + MEASURED
    assert (cost(more.run).solver_steps, cost(more.run).found) == (spent, 2 * ALL_FRAMES)
    assert cost(more.run).seconds == pytest.approx(first.seconds + second.seconds + third.seconds)


def test_a_run_starts_from_the_network_of_another(tmp_path: Path, data: Path) -> None:
    non = train_settings(tmp_path / "NON", data, method="NON")
    train(non)
    still = Component("torch.optim.SGD", {"lr": 0.0})
    train(train_settings(tmp_path / "still", data, start=non.run, optimiser=still, method="DETACHED"))
    networks = [{k: v for k, v in tensors(run).items() if k.startswith("network")} for run in (non.run, tmp_path / "still")]
    assert_same_tensors(*networks)


def test_a_start_that_does_not_fit_is_refused(tmp_path: Path, data: Path) -> None:
    wide = train_settings(tmp_path / "wide", data, method="NON", network=Component("small", {"width": 5}))
    train(wide)
    with pytest.raises(RunError, match="holds another network"):
        train(train_settings(tmp_path / "run", data, start=wide.run))
    with pytest.raises(RunError, match="expected a trained run in"):
        train(train_settings(tmp_path / "run", data, start=tmp_path / "nowhere"))
    assert not (tmp_path / "run").exists()


def test_the_solver_alone_is_a_method(tmp_path: Path, data: Path) -> None:
    settings = train_settings(tmp_path / "SRC", data, method="SRC")
    assert train(settings).solver_steps == 0 and cost(settings.run) == Cost()
    assert isinstance(trained_loop(settings.run).corrector, NoCorrection)
    assert list(compare({"SRC": settings.run}, data, steps=2).methods) == ["SRC"]


def test_training_makes_the_loop_follow_its_reference(tmp_path: Path, data: Path) -> None:
    adam = Component("torch.optim.Adam", {"lr": 0.01})
    train(train_settings(tmp_path / "NON", data, method="NON", updates=150, batch_size=8, optimiser=adam))
    train(train_settings(tmp_path / "ZO", data, updates=25, batch_size=4, optimiser=adam, estimator=FORWARD))
    methods = compare({"NON": tmp_path / "NON", "ZO-SOL": tmp_path / "ZO"}, data, steps=11).methods
    source, non, ours = (methods[name].evaluation.mae for name in ("SRC", "NON", "ZO-SOL"))
    assert non < 0.3 * source and ours < 0.6 * source


def test_a_trained_loop_is_the_checkpoints(tmp_path: Path, data: Path) -> None:
    settings = train_settings(tmp_path / "run", data, method="NON")
    train(settings)
    loop = trained_loop(settings.run)
    assert isinstance(loop.solver, Burgers) and isinstance(loop.corrector, Corrector) and loop.unroll == 3
    expected = {k.removeprefix("network."): v for k, v in tensors(settings.run).items() if k.startswith("network.")}
    assert_same_tensors(dict(loop.corrector.state_dict()), expected)
    assert float(loop.corrector.state_scale) not in (0.0, 1.0)  # the normalisation is kept


def test_weights_are_drawn_from_the_seed_and_nothing_else_is_disturbed() -> None:
    spec, network = Burgers().spec, Component("small", {"width": 3})
    drawn = torch.get_rng_state()
    a, b, c = (build_corrector(network, spec, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert_same_tensors(dict(a), dict(b))
    assert not torch.equal(a["network.0.weight"], c["network.0.weight"]) and a["network.0.weight"].dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "FO-SOL"}, "method FO-SOL needs a differentiable_solver"),
        ({"method": "FO-SOL", "differentiable_solver": Component("problems.Burgers")}, "offers no gradient"),
        ({"solver": Component("problems.Network")}, "must make a deepzero_sim.Solver, not Network"),
        ({"network": Component("problems.Burgers", {"points": 4})}, "cannot be made with|must make a torch.nn.Module"),
        ({"network": Component("tiny")}, "expected an import path"),
        ({"network": Component("small", {"depth": 3})}, "small cannot be made with depth=3"),
        ({"optimiser": Component("torch.optim.Adan")}, "torch.optim has no 'Adan'"),
        ({"optimiser": Component("torch.optim.Adam", {"lr": -1})}, "torch.optim.Adam cannot be made with lr=-1"),
        ({"optimiser": Component("torch.nn.ParameterList")}, "torch.nn.ParameterList. must make a torch optimiser"),
        ({"scheduler": Component("torch.optim.lr_scheduler.StepLR")}, "StepLR cannot be made with no arguments"),
        ({"scheduler": Component("torch.nn.Identity")}, "torch.nn.Identity. must make a torch scheduler"),
        ({"estimator": Component("problems.conv_corrector")}, "must make an Estimator such as deepzero_sim.CGE"),
        ({"estimator": Component("deepzero_sim.CGE", {"scheme": "backward"})}, "scheme"),
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\)"),
        ({"unroll": 0}, "unroll must be a positive number"),
        ({"queries_per_chunk": 0}, "queries_per_chunk must be a positive number"),
        ({"checkpoint_every": 0}, "checkpoint_every must be a positive number"),
    ],
)
def test_settings_that_cannot_be_used_are_named(tmp_path: Path, data: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        train(train_settings(tmp_path / "run", data, **changes))


@pytest.mark.parametrize(("name", "value"), [("updates", 0), ("batch_size", -1), ("seed", -1)])
def test_numbers_out_of_range_are_named(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be"):
        train_settings(tmp_path / "run", tmp_path / "line.h5", **{name: value})


def test_data_must_be_long_enough(tmp_path: Path, data: Path) -> None:
    with pytest.raises(DataError, match="a rollout of 12 steps needs trajectories of at least 13 frames"):
        train(train_settings(tmp_path / "run", data, unroll=12))
    train(train_settings(tmp_path / "NON", data, unroll=12, method="NON"))  # it always takes one step


def test_a_folder_that_is_no_run_of_ours(tmp_path: Path, data: Path) -> None:
    (tmp_path / "config.yaml").write_text("colour: red\n")
    for ask in (trained_loop, cost):
        with pytest.raises(RunError, match="is no run of 'deepzero-sim train'"):
            ask(tmp_path)


def test_runs_of_another_solver_are_not_compared(tmp_path: Path, data: Path) -> None:
    small, large = (train_settings(tmp_path / name, data, method="SRC") for name in ("a", "b"))
    train(small)
    train(replace(large, solver=Component("problems.Burgers", {"points": 32})))
    with pytest.raises(DeepZeroError, match=r"another solver|shape"):
        compare({"SRC": small.run, "NON": large.run}, data, steps=2)


def test_plain_settings_leave_the_run_out(tmp_path: Path) -> None:
    settings = train_settings(tmp_path / "run", tmp_path / "line.h5")
    said = settings_to_dict(settings)
    assert "run" not in said and said["train_data"] == str(tmp_path / "line.h5")
    assert said["optimiser"] == {"name": "torch.optim.Adam", "args": {"lr": 1e-3}}


# ---- on the wake, with the differentiable solver


@pytest.fixture(scope="module")
def wake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wake") / "wake.h5"
    coarse, fine = (Component("deepzero_sim.solvers.WakeFlow", {"resolution": r}) for r in (8, 16))
    names = "deepzero_sim.solvers.wake.initial_state", "deepzero_sim.solvers.wake.restrict"
    generate(
        path, Simulations(fine, coarse, *names, steps=30, discard=20), [[100.0], [400.0]], SerialExecutor(), lambda _: None
    )
    return path


def wake_settings(run: Path, data: Path, method: MethodName, **changes: Any) -> TrainSettings:
    return train_settings(
        run,
        data,
        method=method,
        solver=Component("deepzero_sim.solvers.WakeFlow", {"resolution": 8}),
        differentiable_solver=Component("deepzero_sim.solvers.PhiFlowWake", {"resolution": 8}),
        network=Component("small", {"width": 2}),
        updates=2,
        **changes,
    )


def needs_phiflow(check: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.skipif(not _has_phiflow(), reason="needs phiflow")(check)


def _has_phiflow() -> bool:
    from importlib.util import find_spec  # noqa: PLC0415

    return find_spec("phi") is not None


@pytest.mark.slow
@needs_phiflow
def test_all_methods_run_on_the_wake(tmp_path: Path, wake: Path) -> None:
    train(wake_settings(tmp_path / "NON", wake, "NON"))
    methods: tuple[MethodName, ...] = ("DETACHED", "STRAIGHT-THROUGH", "ZO-SOL", "FO-SOL")
    for method in methods:
        train(wake_settings(tmp_path / method, wake, method, start=tmp_path / "NON", estimator=FORWARD))
    found = compare({method: tmp_path / method for method in ("NON", *methods)}, wake, steps=8)
    assert list(found.methods) == ["SRC", "NON", *methods]
    parameters = sum(p.numel() for p in trained_loop(tmp_path / "NON").corrector.parameters())
    through = 2 * 2 * 2  # updates, batch, steps but the first
    first = 2 * 10  # the first step from every frame: NON takes it, and those that start from NON find it there
    expected = {"SRC": 0, "NON": first} | dict.fromkeys(methods, first + COMPARED + through)
    expected["FO-SOL"] += first - COMPARED  # its solver is another one
    expected["ZO-SOL"] += through * parameters + 2 * 2 * 3
    measured = 3 * 2 * 10  # before, after, and the solver alone: a rollout of ten steps of each simulation
    expected |= {method: expected[method] + measured for method in methods}
    assert {name: result.cost.solver_steps for name, result in found.methods.items()} == expected
    assert all(torch.isfinite(result.evaluation.errors).all() for result in found.methods.values())


@pytest.mark.slow
@needs_phiflow
def test_fo_sol_resumes(tmp_path: Path, wake: Path) -> None:
    whole = wake_settings(tmp_path / "whole", wake, "FO-SOL", scheduler=None, checkpoint_every=1)
    train(whole)
    halves = replace(whole, run=tmp_path / "halves")

    def stop(progress: Progress) -> None:
        if progress.step == 2:  # after the checkpoint of the first update
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(halves, stop)
    assert load_checkpoint(halves.run).state["progress"]["step"] == 1
    train(halves)
    assert_same_tensors(tensors(tmp_path / "whole"), tensors(tmp_path / "halves"))
    assert load_checkpoint(tmp_path / "halves").state["progress"]["step"] == 2


def test_frames_that_lie_closer_than_a_step_are_said(tmp_path: Path) -> None:
    solver, states = Burgers(dtype="float64"), initial_states(3, dtype="float64")
    frames = [states]
    for _ in range(30):
        frames.append(solver.step(frames[-1]))
    parts = np.linspace(0, 1, 4)[:3]  # two frames between each two
    between = [(1 - part) * a + part * b for a, b in pairwise(frames) for part in parts]
    said: list[str] = []
    for name, listed in (("close", between), ("right", frames)):
        data = Trajectories(np.stack(listed, axis=1), np.zeros((3, 0)), solver.spec.active(), {})
        trajectories.save(tmp_path / f"{name}.h5", data, solver.spec)
        train(train_settings(tmp_path / name, tmp_path / f"{name}.h5", method="NON"), say=said.append)
    assert len(said) == 2 and "frames seem to lie 1/3 of a step of solver" in said[0]
    assert said[1].startswith(
        "there is nearly nothing to correct: one step of solver 'burgers' misses the next frame by 0 standard"
    )
