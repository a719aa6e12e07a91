"""Trainings on frames that stay on disk give the same networks, bit for bit, and count what they ask of the solver."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from problems import Burgers
from training_cases import assert_same_tensors, line_data, tensors, train_settings

from deepzero_sim.cli.check_gradient import check_gradients
from deepzero_sim.cli.serve import models_of_run
from deepzero_sim.cli.settings.check_gradient import CheckSettings
from deepzero_sim.common import machine
from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import frames, trajectories
from deepzero_sim.datasets.frames import LazyFrames
from deepzero_sim.errors import DataError, ExitCodeError, RunError
from deepzero_sim.training.runs.comparison import compare, cost
from deepzero_sim.training.runs.training import train


class Counted(Burgers):
    """Counts the states that it advances, and may fail."""

    steps = 0
    fails_at: frozenset[int] = frozenset()

    def step(self, states: Array, params: Array | None = None) -> Array:
        Counted.steps += len(states)
        if Counted.steps in Counted.fails_at:
            raise ExitCodeError("it ended with exit status 3.")
        return super().step(states, params)


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "steps", 0)
    monkeypatch.setattr(Counted, "fails_at", frozenset())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return line_data(tmp_path / "line.h5")


def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of any size stay on disk, and are gone through two at a time."""
    monkeypatch.setattr(frames, "IN_MEMORY", 0)


#: Steps that tell what there is to correct, before a training without a checkpoint: 8 from each of 3 simulations.
SAMPLED = 3 * 8

METHODS: dict[str, dict[str, Any]] = {
    "NON": {},
    "DETACHED": {},
    "STRAIGHT-THROUGH": {},
    "SolverLayer": {},
    "ZO-SOL": {"estimator": Component("deepzero_sim.CGE", {"step_size": 1e-4})},
    "ZO-SOL, sparse": {"sparsity": 0.5, "layer_ratios": Component("zo-grasp")},
}


def settings_of(run: Path, data: Path, method: str, **changes: Any) -> Any:
    solver = Component("test_streamed_training.Counted")
    name = method.partition(",")[0]
    return train_settings(run, data, solver=solver, method=name, **{**METHODS[method], **changes})


@pytest.mark.parametrize("method", METHODS)
def test_frames_on_disk_train_the_same_network(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    in_memory = settings_of(tmp_path / "a" / "run", data, method)
    train(in_memory)
    of_all = 3 * 11
    steps = cost(in_memory.run).solver_steps
    assert steps == Counted.steps
    on_disk(monkeypatch)
    streamed, before = settings_of(tmp_path / "b" / "run", data, method), Counted.steps
    train(streamed)
    assert_same_tensors(tensors(streamed.run), tensors(in_memory.run))
    batches = 4 + 2 * (method == "ZO-SOL, sparse")  # rollouts that the ratios are found on
    assert cost(streamed.run).solver_steps == Counted.steps - before == steps - of_all + SAMPLED + 2 * batches
    assert not (streamed.run / "first_steps.safetensors").exists()


class StoppedError(Exception):
    """Ends a training."""


@pytest.mark.parametrize("method", ["NON", "SolverLayer", "ZO-SOL"])
@pytest.mark.parametrize("last", [1, 2, 3])
def test_stopped_and_gone_on_it_is_the_same(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, method: str, last: int
) -> None:
    def stop(progress: Any) -> None:
        if progress.step == last:
            raise StoppedError

    on_disk(monkeypatch)
    stopped, whole = (settings_of(tmp_path / name / "run", data, method) for name in "ab")
    with pytest.raises(StoppedError):
        train(stopped, stop)
    assert train(stopped).step == 4
    train(whole)
    assert_same_tensors(tensors(stopped.run), tensors(whole.run))
    twice = 2 * 2 * 3 if method == "ZO-SOL" else 0  # a loss is asked for twice
    again = twice + SAMPLED if last < 3 else 0  # without a checkpoint
    assert cost(stopped.run).solver_steps == cost(whole.run).solver_steps + again


def test_a_first_step_that_fails_costs_the_update(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk(monkeypatch)
    monkeypatch.setattr(Counted, "fails_at", frozenset(SAMPLED + np.arange(4, 7)))  # the second batch of two, and each alone
    progress = train(settings_of(tmp_path / "run", data, "NON", on_failure="drop"))
    assert progress.failures == {"exit-code skipped": 1} and progress.step == 4
    assert cost(tmp_path / "run").solver_steps == Counted.steps
    monkeypatch.setattr(Counted, "fails_at", frozenset(Counted.steps + SAMPLED + np.arange(4, 7)))
    with pytest.raises(ExitCodeError):
        train(settings_of(tmp_path / "other", data, "NON"))


def test_other_data_are_not_gone_on_with(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk(monkeypatch)
    settings = settings_of(tmp_path / "run", data, "NON")
    train(settings)
    line_data(data, frames=13)
    with pytest.raises(RunError, match="train_data"):
        train(replace(settings, updates=4))


@pytest.mark.parametrize("where", [(0, 3), (2, 11)])
def test_a_frame_that_is_not_finite_ends_it_before_anything_is_trained(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[int, int]
) -> None:
    with h5py.File(data, "a") as file:
        file["frames"][where] = np.nan
    on_disk(monkeypatch)
    with pytest.raises(DataError, match=r"line\.h5 holds NaN or infinity: the simulation it was made from diverged"):
        train(settings_of(tmp_path / "run", data, "NON"))
    assert Counted.steps == 0 and not (tmp_path / "run").exists()


def test_numbers_too_large_for_the_solver_are_found_when_they_are_read(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(data, "a") as file:
        file["frames"][1, 5] = 1e300
    on_disk(monkeypatch)
    loaded = trajectories.load(data, Burgers(dtype="float32").spec)
    assert loaded.on_disk and loaded.frames.dtype == np.float32 and np.isfinite(loaded.frames[0]).all()
    for read in (lambda: loaded.frames[1, 5], loaded.scales, loaded.digest):
        with pytest.raises(DataError, match=r"line\.h5 holds numbers too large for float32"):
            read()


def test_a_comparison_is_the_same(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path / "run", data, "NON")
    train(settings)
    in_memory = compare({"NON": settings.run}, data, 5)
    on_disk(monkeypatch)
    streamed = compare({"NON": settings.run}, data, 5)
    for name, result in in_memory.methods.items():
        assert np.array_equal(result.evaluation.errors, streamed.methods[name].evaluation.errors)


def test_an_evaluation_that_no_memory_holds_is_refused(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path / "run", data, "NON")
    train(settings)
    on_disk(monkeypatch)
    monkeypatch.setattr(machine, "memory", lambda: 4 * 3 * 6 * 128)
    assert compare({"NON": settings.run}, data, 5).methods
    with pytest.raises(DataError, match=r"an evaluation of 6 steps of 3 simulations would take .* GiB, .*: evaluate fewer"):
        compare({"NON": settings.run}, data, 6)


def test_a_served_loss_and_a_check_of_gradients_are_the_same(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path / "run", data, "DETACHED")
    train(settings)
    products = [Component("deepzero_sim.vjp.Detached"), Component("deepzero_sim.vjp.ReferenceJacobian")]
    check = CheckSettings(tmp_path, data, settings.solver, network=settings.network, vjp=products, unroll=2, directions=8)

    def results() -> list[Any]:
        models, _ = models_of_run(settings.run)
        loss = models["loss"].evaluate(models["parameters"].evaluate([], {}), {"batch": 3})
        return [loss[0].tolist(), *(one.cosine for one in check_gradients(check).checks.values())]

    in_memory = results()
    on_disk(monkeypatch)
    assert results() == in_memory


def test_they_are_never_all_in_memory(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    largest, monkeypatched = [0], LazyFrames.__getitem__

    def noted(self: LazyFrames, key: Any) -> Array:
        states = monkeypatched(self, key)
        largest[0] = max(largest[0], states.nbytes)
        return states

    on_disk(monkeypatch)
    monkeypatch.setattr(LazyFrames, "__getitem__", noted)
    monkeypatch.setattr(frames.blocks, "__defaults__", (3 * 128,))
    path = line_data(tmp_path / "long.h5", 3, 400)
    train(settings_of(tmp_path / "run", path, "DETACHED"))
    assert 0 < largest[0] <= 256 * 128  # the 256 samples of a vector-Jacobian product
