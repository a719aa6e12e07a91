"""Networks measured on held-back simulations: the best one is kept and used, and what went wrong is said."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import wait_until
from training_cases import (
    assert_same_tensors,
    config_file,
    line_data,
    lines,
    start,
    tensors,
    train_settings,
    without_seconds,
)

from deepzero_sim.common.components import Component
from deepzero_sim.datasets import trajectories
from deepzero_sim.errors import ConfigError, DataError, ExitCodeError, RunError
from deepzero_sim.training.checkpoints import load_checkpoint
from deepzero_sim.training.run_folder import METRICS, VALIDATION, read_metrics
from deepzero_sim.training.runs import validation
from deepzero_sim.training.runs.comparison import cost
from deepzero_sim.training.runs.held_back import divide, suitable_held_back
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.trained_run import trained_loop
from deepzero_sim.training.runs.training import train
from deepzero_sim.training.validation_record import Record, line_of, record_of


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return line_data(tmp_path / "line.h5", 5, 30)


def adam(rate: float) -> Component:
    return Component("torch.optim.Adam", {"lr": rate})


def non(run: Path, data: Path, **changes: Any) -> TrainSettings:
    settings = train_settings(run, data, method="NON", updates=150, batch_size=8, optimiser=adam(3e-3), checkpoint_every=25)
    return replace(settings, **changes)


def second(run: Path, data: Path, start: Path, rate: float, **changes: Any) -> TrainSettings:
    settings = train_settings(run, data, method="DETACHED", start=start, updates=30, optimiser=adam(rate), scheduler=None)
    return replace(settings, **changes)


def record(run: Path) -> Record:
    found = record_of(load_checkpoint(run), run)
    assert found is not None
    return found


def test_training_does_not_see_what_is_held_back(tmp_path: Path, data: Path) -> None:
    whole = trajectories.load(data)
    division = divide(whole, non(tmp_path / "a", data, held_back=2), {})
    assert division.numbers == (1, 3) and division.held_back is not None
    np.testing.assert_array_equal(division.trained.frames, whole.frames[[0, 2, 4]])
    np.testing.assert_array_equal(division.held_back.frames, whole.frames[[1, 3]])
    few = tmp_path / "few.h5"
    trajectories.save(few, division.trained, trained_loop_spec(tmp_path, data))
    train(non(tmp_path / "a" / "held", data, held_back=2))
    train(non(tmp_path / "b" / "alone", few))
    ours, alone = (
        {k: v for k, v in tensors(run).items() if k.startswith("network")}
        for run in (tmp_path / "a" / "held", tmp_path / "b" / "alone")
    )
    assert_same_tensors(ours, alone)


def trained_loop_spec(tmp_path: Path, data: Path) -> Any:
    settings = train_settings(tmp_path / "SRC", data, method="SRC")
    train(settings)
    return trained_loop(settings.run).solver.spec


def test_the_best_network_is_kept_used_and_said(tmp_path: Path, data: Path) -> None:
    first = non(tmp_path / "NON", data, held_back=1)
    train(first)
    settings = second(tmp_path / "second", data, first.run, 1e-2, held_back=1, validate_every=3)
    progress = train(settings)
    found, written = record(settings.run), read_metrics(settings.run / VALIDATION)
    assert [line["step"] for line in written] == list(range(0, 31, 3))
    assert written == [line_of(one) for one in found.measurements]
    best = found.best
    assert best is not None and best.error == min(line["error"] for line in written) <= written[0]["error"]
    # what is used is measured again, and has that error
    again = train(second(tmp_path / "again", data, settings.run, 0.0, held_back=1))
    assert again.step == 30 and record(tmp_path / "again").measurements[0].error == best.error
    kept = {k.removeprefix("best."): v for k, v in tensors(settings.run).items() if k.startswith("best.")}
    assert_same_tensors(dict(trained_loop(settings.run).corrector.state_dict()), kept)
    assert "of 30 is used: on rollouts of 29 steps of simulation 2, which training did not see, its" in found.choice(30)
    # the cost has the steps of validation, which metrics count apart: 11 measurements, and the solver alone
    measured = 12 * 29
    assert measured == sum(line["solver_steps"] for line in written)
    assert progress.validation_steps - measured in {4 * n for n in range(5)}  # batches on which the start was looked at again
    assert read_metrics(settings.run / METRICS)[-1]["validation_steps"] == progress.validation_steps
    own = cost(settings.run).solver_steps - cost(first.run).solver_steps
    assert own >= progress.solver_steps + progress.validation_steps


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("held_back", [0, 1])
def test_a_second_stage_that_ends_worse_says_so(tmp_path: Path, data: Path, rate: float, held_back: int) -> None:
    first = non(tmp_path / "NON", data, held_back=held_back)
    train(first)
    settings = second(tmp_path / "second", data, first.run, rate, held_back=held_back)
    heard: list[str] = []
    progress = train(settings, say=heard.append)
    found = record(settings.run)
    before, after = found.measurements[0], found.measurements[-1]
    assert before.step == 0 and after.step == 30
    warnings = found.warnings(progress.step)
    worse = [sentence for sentence in warnings if "training made the network worse than the one it started from" in sentence]
    assert bool(worse) == (after.error > before.error)
    if rate >= 1e-2:
        assert worse and f"{after.error:.3g}" in worse[0] and f"{before.error:.3g}" in worse[0]
    if held_back:
        assert found.best is not None and found.best.error <= before.error
    logged = [line for line in read_metrics(settings.run / METRICS) if "warnings" in line]
    assert bool(logged) == bool(warnings) and (not logged or logged[-1]["warnings"] == warnings)
    assert heard == ([found.leap.sentence] if found.leap else [])


def test_a_leap_of_the_loss_is_said_once_while_it_happens(tmp_path: Path, data: Path) -> None:
    first = non(tmp_path / "NON", data)
    train(first)
    heard: list[tuple[int, str]] = []
    steps: list[int] = [0]
    settings = second(tmp_path / "second", data, first.run, 1e-1)
    train(settings, lambda progress: steps.append(progress.step), say=lambda sentence: heard.append((steps[-1], sentence)))
    assert len(heard) == 1 and heard[0][0] < 30 and "the learning rate is too large" in heard[0][1]
    leap = record(settings.run).leap
    assert leap is not None and leap.loss > 10 * leap.start and heard[0][0] == leap.step - 1
    # on the same batch the network it started from has that loss
    still = second(tmp_path / "still", data, first.run, 0.0)
    losses: list[float] = []
    train(still, lambda progress: losses.append(progress.loss))
    assert losses[leap.step - 1] == pytest.approx(leap.start, rel=1e-9) and record(still.run).leap is None


@pytest.mark.parametrize("held_back", [0, 2])
def test_validation_changes_no_bit_of_the_training(tmp_path: Path, data: Path, held_back: int) -> None:
    """Measured after every update or rarely, with a solver layer that learns of the solver on its way."""
    first = non(tmp_path / "NON", data, held_back=held_back)
    train(first)
    often = second(tmp_path / "often", data, first.run, 1e-3, held_back=held_back, method="SolverLayer", updates=8)
    if held_back:
        often = replace(often, validate_every=1)
    train(often)
    rarely = replace(often, run=tmp_path / "rarely", validate_every=8 if held_back else None)
    train(rarely)
    a, b = ({k: v for k, v in tensors(run).items() if not k.startswith("best.")} for run in (often.run, rarely.run))
    assert_same_tensors(a, b)


@pytest.mark.parametrize("moment", ["in training", "in a validation"])
def test_killed_and_resumed_it_ends_the_same(tmp_path: Path, data: Path, moment: str) -> None:
    first = non(tmp_path / "NON", data, held_back=2)
    train(first)
    (tmp_path / "slow.py").write_text(SLOW)
    slow = Component(str(tmp_path / "slow.py") + ":Slow")
    common = {"held_back": 2, "validate_every": 4, "checkpoint_every": 7, "updates": 40, "solver": slow}
    killed = second(tmp_path / "killed" / "run", data, first.run, 1e-2, **common)
    killed.run.parent.mkdir()
    config = config_file(tmp_path / "killed.yaml", killed)
    marker = tmp_path / "measuring"
    process = start("train", "--config", config, cwd=tmp_path, environment={"MARKER": str(marker)})
    after = 9 if moment == "in training" else 4
    ready = (
        (lambda: lines(killed.run / METRICS) >= after)
        if moment == "in training"
        else (lambda: lines(killed.run / VALIDATION) >= 3 and marker.exists())
    )
    assert wait_until(lambda: ready() or process.poll() is not None, 120)
    os.kill(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    resumed = train(killed)
    whole = replace(killed, run=tmp_path / "whole" / "run")
    undisturbed = train(whole)
    assert without_seconds(vars(resumed)) == without_seconds(vars(undisturbed))
    assert_same_tensors(tensors(killed.run), tensors(whole.run))
    assert without_seconds(load_checkpoint(killed.run).state) == without_seconds(load_checkpoint(whole.run).state)
    for name in (METRICS, VALIDATION):
        assert without_seconds(read_metrics(killed.run / name)) == without_seconds(read_metrics(whole.run / name))


SLOW = """
import os, sys, time
from problems import Burgers

class Slow(Burgers):
    def step(self, states, params=None):
        marker, frame = os.environ.get("MARKER"), sys._getframe()
        if marker:
            while frame is not None and frame.f_code.co_name != "measure_errors":
                frame = frame.f_back
            if frame is not None:
                open(marker, "w").close()
                time.sleep(0.01)
                os.unlink(marker)
        return super().step(states, params)
"""


def test_a_changed_log_of_validation_is_written_anew(tmp_path: Path, data: Path) -> None:
    settings = non(tmp_path / "NON", data, held_back=1)
    train(settings)
    file = settings.run / VALIDATION
    before = file.read_text()
    file.write_text(before.replace('"error": 0.', '"error": 9.', 1))
    train(settings)
    assert file.read_text() == before
    file.write_text("words\n" + before)
    with pytest.warns(UserWarning, match="1 lines of .*validation.jsonl were damaged"):
        train(settings)
    assert file.read_text() == before


def test_other_validation_data_in_place_of_held_back_ones(tmp_path: Path, data: Path) -> None:
    other = line_data(tmp_path / "other.h5", 2, 9)
    settings = non(tmp_path / "NON", data, validation_data=other)
    train(settings)
    assert "of 2 simulations of validation_data, which training did not see" in record(settings.run).choice(150)
    line_data(other, 2, 10)
    with pytest.raises(RunError, match="trained with a validation_data that held something else"):
        train(settings)


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"held_back": 5}, DataError, "held_back must leave a simulation to train on, but the data have 5 and 5 are held back"),
        ({"held_back": 1, "validation_data": Path("other.h5")}, ConfigError, "leave out one of them"),
        ({"validate_every": 3}, ConfigError, "validate_every needs something to validate on"),
        ({"validation_data": Path("nowhere.h5")}, DataError, "nowhere.h5"),
    ],
)
def test_what_cannot_be_validated_is_refused(
    tmp_path: Path, data: Path, changes: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        train(non(tmp_path / "run", data, **changes))
    assert not (tmp_path / "run").exists()


def test_a_start_that_was_trained_on_is_not_taken_for_what_it_was(tmp_path: Path, data: Path) -> None:
    first = non(tmp_path / "a" / "NON", data)
    train(first)
    settings = second(tmp_path / "b" / "second", data, first.run, 1e-3)
    train(settings)
    train(replace(first, updates=160))  # of another folder: not seen to have a run that started from it
    with pytest.raises(RunError, match="holds another network than it did then"):
        train(settings)
    with pytest.raises(RunError, match="was trained on since"):
        cost(settings.run)


def test_how_many_are_held_back() -> None:
    assert [suitable_held_back(n) for n in (1, 2, 3, 5, 8, 12, 40)] == [0, 0, 1, 1, 2, 2, 8]


def test_a_solver_that_fails_in_a_validation_ends_the_run_there_and_it_goes_on_there(tmp_path: Path, data: Path) -> None:
    first = non(tmp_path / "NON", data, held_back=1, updates=20)
    train(first)
    settings = second(tmp_path / "second", data, first.run, 1e-3, held_back=1, validate_every=5)
    with pytest.MonkeyPatch.context() as patch:
        measure = validation.measure_errors

        def fail(*given: Any) -> Any:
            if len(read_metrics(settings.run / METRICS)) == 9:
                raise ExitCodeError("the licence ended.")
            return measure(*given)

        patch.setattr(validation, "measure_errors", fail)
        with pytest.raises(ExitCodeError, match="in a validation after 10 updates"):
            train(settings)
    assert load_checkpoint(settings.run).state["progress"]["step"] == 10 and len(record(settings.run).measurements) == 2
    train(settings)
    whole = replace(settings, run=tmp_path / "whole")
    train(whole)
    assert_same_tensors(tensors(settings.run), tensors(whole.run))
    assert record(settings.run) == record(whole.run)


def test_a_rollout_that_diverges_is_an_infinite_error(tmp_path: Path, data: Path) -> None:
    first = non(tmp_path / "NON", data, held_back=1, updates=20)
    train(first)
    (tmp_path / "wild.py").write_text(WILD)
    wild = Component(f"{tmp_path / 'wild.py'}:Wild")
    changes = {"method": "NON", "held_back": 1, "validate_every": 5, "solver": wild, "updates": 10}
    settings = second(tmp_path / "second", data, first.run, 3.0, **changes)
    train(settings)
    errors = [line["error"] for line in read_metrics(settings.run / VALIDATION)]
    assert errors[0] is not None and errors[-1] is None
    found = record(settings.run)
    assert found.best is not None and found.best.error < float("inf")
    assert re.search(r"its relative error is infinite \(\d+% of the steps are finite\) after update 10", found.warnings(10)[-1])


WILD = """
import numpy as np
from problems import Burgers

class Wild(Burgers):
    def step(self, states, params=None):
        wild = np.abs(states).max(axis=(1, 2), keepdims=True) > 10
        return np.where(wild, np.nan, super().step(np.clip(states, -10.0, 10.0), params))
"""
