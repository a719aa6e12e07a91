"""First steps are asked for once, however often a run is started, and counted whenever they are asked for."""

from __future__ import annotations

import json
import os
import signal
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import Burgers, wait_until
from training_cases import assert_same_tensors, config_file, line_data, start, tensors, train_settings, without_seconds

from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.errors import ConfigError, ExitCodeError, RunError
from deepzero_sim.training.preparation import Preparation
from deepzero_sim.training.runs import first_steps
from deepzero_sim.training.runs.comparison import cost
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.training import train

ALL_FRAMES = 3 * 11
FIRST_STEPS = "first_steps.safetensors"


class Counted(Burgers):
    """Counts its steps, and may end, fail or become another solver."""

    steps = 0
    last = 10**9
    strength = 1.0
    fails_at: frozenset[int] = frozenset()

    def __init__(self, max_batch: int | None = 1, deterministic: bool = True) -> None:
        super().__init__(max_batch=max_batch)
        self.spec = replace(self.spec, deterministic=deterministic)

    def step(self, states: Array, params: Array | None = None) -> Array:
        if Counted.steps + len(states) > Counted.last:
            raise KeyboardInterrupt
        Counted.steps += len(states)
        if Counted.steps in Counted.fails_at:
            raise ExitCodeError("it ended with exit status 3.")
        return Counted.strength * super().step(states, params)


COUNTED = Component("test_first_steps.Counted")


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("steps", "last", "strength", "fails_at"):
        monkeypatch.setattr(Counted, name, getattr(Counted, name))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are written after every call."""
    monkeypatch.setattr(first_steps, "WRITE_SECONDS", 0.0)
    monkeypatch.setattr(first_steps, "WRITE_SHARE", 0.0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return line_data(tmp_path / "line.h5")


def non_settings(run: Path, data: Path, **changes: Any) -> TrainSettings:
    return train_settings(run, data, **{"method": "NON", "solver": COUNTED, **changes})


def asked(settings: TrainSettings) -> int:
    """Solver steps of a start of a run."""
    before = Counted.steps
    train(settings)
    return Counted.steps - before


class StoppedError(Exception):
    """Ends a training."""


def stop_at(step: int) -> Any:
    def report(progress: Any) -> None:
        if progress.step == step:
            raise StoppedError

    return report


@pytest.mark.parametrize("method", ["NON", "DETACHED", "ZO-SOL", "SolverLayer"])
def test_a_run_that_goes_on_takes_two_of_them_again_and_counts_all(tmp_path: Path, data: Path, method: Any) -> None:
    settings = non_settings(tmp_path / "a" / "run", data, method=method, solver=Component(COUNTED.name, {"max_batch": None}))
    with pytest.raises(StoppedError):
        train(settings, stop_at(3))
    before = Counted.steps
    train(settings)
    whole = replace(settings, run=tmp_path / "b" / "whole")
    resumed, undisturbed = Counted.steps, asked(whole)
    assert cost(whole.run).solver_steps == undisturbed
    # from the checkpoint at step 2: half of the training, and two first steps
    training = tensors_steps(whole.run)
    assert resumed - before <= training + 2
    one = training // 4 if method != "SolverLayer" else 2 * 2
    assert cost(settings.run).solver_steps == undisturbed + 2 == resumed - one  # an update was lost, and is counted nowhere
    assert_same_tensors(tensors(settings.run), tensors(whole.run))
    assert asked(settings) == 0  # it has ended


def tensors_steps(run: Path) -> int:
    from deepzero_sim.training.checkpoints import load_checkpoint  # noqa: PLC0415

    return int(load_checkpoint(run).state["progress"]["solver_steps"])


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("last", [0, 1, 4, 5, 17, 32])
def test_stopped_in_their_middle_a_run_goes_on_there(tmp_path: Path, data: Path, last: int) -> None:
    settings = non_settings(tmp_path / "a" / "run", data)
    Counted.last = last
    with pytest.raises(KeyboardInterrupt):
        train(settings)
    assert settings.run.exists() == (last >= 4)  # four states a call, for they are advanced one by one
    Counted.last = 10**9
    known = last // 4 * 4
    assert asked(settings) == ALL_FRAMES - known + (min(2, known) if known else 0)
    whole = replace(settings, run=tmp_path / "b" / "whole")
    train(whole)
    assert_same_tensors(tensors(settings.run), tensors(whole.run))
    assert (settings.run / FIRST_STEPS).stat().st_size == (whole.run / FIRST_STEPS).stat().st_size
    assert cost(settings.run).solver_steps == ALL_FRAMES + (2 if known else 0)


def test_calls_of_many_states_are_the_same_when_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A solver whose last bits depend on what it advances together."""

    def step(self: Burgers, states: Array, params: Array | None = None) -> Array:
        Counted.steps += len(states)
        return np.asarray(states * (1 + 1e-15 * (len(states) % 7)))

    monkeypatch.setattr(Burgers, "step", step)
    data = line_data(tmp_path / "line.h5", 5, 40)
    settings = train_settings(tmp_path / "a" / "run", data, method="NON")
    with pytest.raises(StoppedError):
        train(settings, stop_at(3))
    assert asked(settings) == 2 + 64
    whole = replace(settings, run=tmp_path / "b" / "whole")
    train(whole)
    assert_same_tensors(tensors(settings.run), tensors(whole.run))


@pytest.mark.parametrize("started", [True, False])
def test_another_run_finds_them(tmp_path: Path, data: Path, started: bool) -> None:
    first = non_settings(tmp_path / "first", data)
    assert asked(first) == ALL_FRAMES
    run = tmp_path / ("elsewhere/run" if started else "second")
    second = non_settings(run, data, seed=3, start=first.run if started else None)
    measured = 3 * 3 * 11 if started else 0  # before, after, and the solver alone: a rollout of each simulation
    assert asked(second) == 2 + measured
    found = cost(second.run)
    assert found.solver_steps == 2 + measured + (ALL_FRAMES if started else 0) and found.found == ALL_FRAMES
    alone = non_settings(tmp_path / "a" / "b" / "alone", data, seed=3, start=first.run if started else None)
    (first.run / FIRST_STEPS).unlink()
    assert asked(alone) == ALL_FRAMES + measured
    assert_same_tensors(tensors(second.run), tensors(alone.run))


@pytest.mark.parametrize("change", ["strength", "data", "spec", "damage", "not deterministic"])
def test_those_of_another_solver_or_other_data_are_not_taken(tmp_path: Path, data: Path, change: str) -> None:
    train(non_settings(tmp_path / "first", data))
    second = non_settings(tmp_path / "second", data)
    looked_at = 0
    if change == "strength":  # another solver of the same settings
        Counted.strength, looked_at = 1.0 + 1e-12, 3
    elif change == "data":
        line_data(data, frames=13)
    elif change == "damage":
        file = tmp_path / "first" / FIRST_STEPS
        file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    else:
        arguments = {"max_batch": 2} if change == "spec" else {"deterministic": False}
        second = replace(second, solver=Component(COUNTED.name, arguments))
    before = (tmp_path / "first" / FIRST_STEPS).read_bytes()
    assert asked(second) == ALL_FRAMES + looked_at + (3 if change == "data" else 0)
    assert cost(second.run).found == 0
    assert (tmp_path / "first" / FIRST_STEPS).read_bytes() == before


def test_a_solver_that_has_changed_is_not_gone_on_with(tmp_path: Path, data: Path) -> None:
    settings = non_settings(tmp_path / "run", data)
    with pytest.raises(StoppedError):
        train(settings, stop_at(3))
    Counted.strength = 1.0 + 1e-12
    with pytest.raises(RunError, match=r"solver 'burgers' gives other steps now than those that .*first_steps.safetensors"):
        train(settings)
    Counted.strength = 1.0
    assert train(settings).step == 4


def test_steps_that_failed_are_counted_once_and_not_taken_by_others(tmp_path: Path, data: Path) -> None:
    settings = non_settings(tmp_path / "first", data, on_failure="drop")
    Counted.fails_at = frozenset({7, 20})
    undisturbed = train(settings)
    assert undisturbed.failures == {"exit-code dropped": 2}
    (settings.run / "checkpoint.safetensors").unlink()  # as a kill before the first checkpoint leaves it
    Counted.fails_at = frozenset()
    again = train(settings)
    assert again.failures == undisturbed.failures
    said = [json.loads(line) for line in (settings.run / "failures.jsonl").read_text().splitlines()]
    assert len(said) == 2 and all("in the step from frame" in line["query"] for line in said)
    other = non_settings(tmp_path / "second", data, seed=1)
    assert asked(other) == ALL_FRAMES - 6 + 2  # up to the first that failed


def test_a_solver_that_fails_at_once_leaves_no_folder(tmp_path: Path, data: Path) -> None:
    Counted.fails_at = frozenset({1})
    with pytest.raises(ExitCodeError):
        train(non_settings(tmp_path / "run", data))
    assert not (tmp_path / "run").exists()


def test_nothing_that_cannot_be_trained_costs_first_steps(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConfigError):
        train(non_settings(tmp_path / "run", data, optimiser=Component("torch.optim.Adam", {"lr": -1})))
    assert Counted.steps == 0 and not (tmp_path / "run").exists()


def test_seconds_of_training_begin_with_the_first_step(tmp_path: Path, data: Path) -> None:
    """Preparation included: first steps, Jacobians, layer ratios, building."""
    solver = Component("test_first_steps.Slow")
    for method, slow in (("NON", ALL_FRAMES), ("SolverLayer", ALL_FRAMES + 100), ("ZO-SOL", ALL_FRAMES)):
        run = tmp_path / method / "run"
        started = time.perf_counter()
        reference = Component("deepzero_sim.vjp.ReferenceJacobian")  # what is chosen for one update takes no steps
        progress = train(train_settings(run, data, method=method, solver=solver, vjp=reference, updates=1, sparsity=0.9))
        elapsed = time.perf_counter() - started
        assert slow * SLEEP < progress.seconds <= elapsed
        assert progress.seconds > 0.9 * elapsed - 0.3
        noted = Preparation(run / "preparation.jsonl")
        assert ALL_FRAMES * SLEEP < noted.seconds < progress.seconds


SLEEP = 0.002


class Slow(Burgers):
    """Takes its time for each state."""

    def step(self, states: Array, params: Array | None = None) -> Array:
        time.sleep(SLEEP * len(states))
        return super().step(states, params)


def test_first_steps_are_taken_on_one_thread(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    step = Burgers.step

    def noted(self: Burgers, states: Array, params: Array | None = None) -> Array:
        seen.add(torch.get_num_threads())
        return step(self, states, params)

    monkeypatch.setattr(Burgers, "step", noted)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(train_settings(tmp_path / "run", data, method="NON"))
    finally:
        torch.set_num_threads(threads)
    assert seen == {1}


@pytest.mark.slow
def test_killed_for_good_in_their_middle_a_run_goes_on_there(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        textwrap.dedent(
            """
            import time
            from pathlib import Path
            from problems import Burgers

            class Program(Burgers):
                def __init__(self):
                    super().__init__(max_batch=1)

                def step(self, states, params=None):
                    with Path("steps.txt").open("a") as file:
                        file.write("step\\n")
                    time.sleep(0.1)
                    return super().step(states, params)
            """
        )
    )
    solver = Component("slow.py:Program")
    settings = train_settings(Path("runs/killed"), line_data(tmp_path / "line.h5"), method="NON", solver=solver)
    config = config_file(tmp_path / "train.yaml", settings)
    counter = tmp_path / "steps.txt"
    counter.write_text("")
    process = start("train", "--config", config, cwd=tmp_path)
    assert wait_until(lambda: counter.read_text().count("\n") >= 25 or process.poll() is not None, 120)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = counter.read_text().count("\n")
    for run, at_most in (("killed", ALL_FRAMES - 10), ("whole", 2)):
        config_file(config, replace(settings, run=Path("runs") / run))
        process = start("train", "--config", config, cwd=tmp_path)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        now = counter.read_text().count("\n")
        assert now - before <= at_most
        before = now
    assert_same_tensors(*(tensors(tmp_path / "runs" / name) for name in ("killed", "whole")))


def test_a_finished_run_needs_neither_first_steps_nor_solver_steps(tmp_path: Path, data: Path) -> None:
    settings = non_settings(tmp_path / "run", data, method="ZO-SOL")
    first = train(settings)
    (settings.run / FIRST_STEPS).unlink()
    before = Counted.steps
    assert without_seconds(vars(train(settings))) == without_seconds(vars(first)) and Counted.steps == before
