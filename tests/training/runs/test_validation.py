"""Networks measured on held-back simulations: the best one is kept and used, and what went wrong is said."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from math import inf
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
from deepzero_sim.datasets import Trajectories, trajectories
from deepzero_sim.datasets.fitting.one_step_error import OneStepError
from deepzero_sim.errors import ConfigError, DataError, ExitCodeError, RunError
from deepzero_sim.training.checkpoints import Checkpoint, load_checkpoint
from deepzero_sim.training.run_folder import METRICS, VALIDATION, read_metrics
from deepzero_sim.training.runs import validation
from deepzero_sim.training.runs.circumstances import Circumstances
from deepzero_sim.training.runs.comparison import cost
from deepzero_sim.training.runs.held_back import divide, suitable_held_back
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.trained_run import trained_loop
from deepzero_sim.training.runs.training import train
from deepzero_sim.training.runs.validation import fixed_rollouts, suitable_steps
from deepzero_sim.training.validation_record import Leap, Measurement, Record, Rollouts, line_of, record_of


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


def test_rollouts_go_as_far_as_the_data_at_no_more_cost(data: Path) -> None:
    frames = trajectories.load(data)  # five simulations of 30 frames

    def lengths(simulations: int, unroll: int) -> tuple[int, int, int]:
        some = replace(frames, frames=frames.frames[:simulations], params=frames.params[:simulations])
        length = suitable_steps(some, unroll, 8)
        cut = fixed_rollouts(some, unroll, 8, length)
        return (length, *cut.frames.shape[:2])

    assert lengths(1, 3) == (29, 1, 30) and lengths(2, 3) == (29, 2, 30)
    assert lengths(5, 1) == (6, 5, 7) and lengths(5, 2) == (12, 5, 13)
    for simulations, unroll in [(1, 1), (3, 1), (5, 1), (5, 3)]:
        length, rollouts, _ = lengths(simulations, unroll)
        assert rollouts * length <= 8 * 4 * unroll
    # shorter ones that are asked for begin at several times, and never overlap
    assert fixed_rollouts(frames, 3, 8, 5).frames.shape[:2] == (5, 6)
    one = replace(frames, frames=frames.frames[:1], params=frames.params[:1])
    assert fixed_rollouts(one, 3, 8, 9).frames.shape[:2] == (3, 10)
    with pytest.raises(DataError, match="validate_steps must be at most 29 with trajectories of 30 frames, not 30"):
        fixed_rollouts(frames, 3, 8, 30)


def test_a_measurement_names_its_length_and_what_the_solver_alone_does_there(tmp_path: Path, data: Path) -> None:
    settings = non(tmp_path / "NON", data, held_back=1, validate_every=50, validate_steps=10)
    said: list[str] = []
    progress = train(settings, note=said.append)
    written = read_metrics(settings.run / VALIDATION)
    assert "4 measurements of 2 rollouts of 10 steps, and one of the solver alone, take 100 solver steps" in said[-1]
    assert [line["solver_steps"] for line in written] == [2 * 20, 20, 20, 20] and progress.validation_steps == 100
    assert {line["length"] for line in written} == {10}
    frames = trajectories.load(data).frames[2]
    solver, errors = trained_loop(settings.run).solver, []
    for begin in (0, 19):
        state = frames[None, begin]
        for step in range(1, 11):
            state = solver.step(state)
            errors.append(np.abs(state - frames[begin + step]).mean())
    spread = trajectories.load(data).frames[2].std()
    assert [line["source"] for line in written] == pytest.approx([np.mean(errors) / spread] * 4)
    choice = record(settings.run).choice(150)
    assert "on rollouts of 10 steps of simulation 2, which training did not see" in choice
    assert f"{written[0]['source']:.3g} of the solver alone)" in choice


def measured(*errors: float, source: float | None = None, finite: float = 1.0) -> tuple[Measurement, ...]:
    return tuple(Measurement(10 * n, error, 60, {}, 60, finite, source) for n, error in enumerate(errors))


def test_that_training_made_it_worse_is_said_with_what_is_used_for_all_that() -> None:
    rollouts = Rollouts("simulation 3, which training did not see,", True, causes=("A, so do B", "C, so do D"))
    (after,) = Record(rollouts, measured(0.5, 0.3, 0.7)).warnings(20)
    assert after == (
        "the network of update 10 is the best one, which is kept and used; after it training made the network worse than the "
        "untrained one: on rollouts of 60 steps of simulation 3, which training did not see, its relative error is 0.7 after "
        "update 20, and was 0.5 before the first: A, so do B; or C, so do D; or take a smaller learning rate, or more updates."
    )
    (never,) = Record(rollouts, measured(0.5, 0.6, 0.7)).warnings(20)
    assert never.startswith("training made the network worse than the untrained one, which is kept and used: on rollouts")
    (seen,) = Record(replace(rollouts, held_back=False, started=True, causes=()), measured(0.5, 0.7)).warnings(10)
    assert seen.startswith("training made the network worse than the one it started from: on rollouts")
    assert seen.endswith("0.5 before the first: take a smaller learning rate, or more updates.")
    # a leap of the loss is the cause by itself
    leapt = Record(rollouts, measured(0.5, 0.7), leap=Leap(5, 1.0, 0.01)).warnings(10)
    assert len(leapt) == 2 and "do B" not in leapt[1]


def test_a_network_that_is_worse_than_the_solver_alone_is_said() -> None:
    rollouts = Rollouts("simulation 3, which training did not see,", True)
    (sentence,) = Record(rollouts, measured(0.5, 0.4, source=0.1)).warnings(10)
    assert (
        "the network that is used is worse than the solver alone" in sentence
        and "0.4, and that of the solver alone 0.1" in sentence
    )
    assert not Record(rollouts, measured(0.5, 0.05, source=0.1)).warnings(10)


def test_that_training_gained_little_is_said_with_what_helps() -> None:
    rollouts = Rollouts("simulation 3, which training did not see,", True, causes=("A, so do B",))
    (said,) = Record(rollouts, measured(0.5, 0.46, source=0.5)).warnings(10)
    assert said == (
        "training gained little: on rollouts of 60 steps of simulation 3, which training did not see, the relative error of "
        "the network that is used is 0.46, and that of the solver alone 0.5: A, so do B; or take a smaller learning rate, or "
        "more updates."
    )
    assert not Record(rollouts, measured(0.5, 0.44, source=0.5)).warnings(10)


def test_of_two_that_diverge_the_one_that_does_so_later_is_better() -> None:
    rollouts = Rollouts("simulation 3, which training did not see,", True)
    early, late = (replace(one, finite=part) for one, part in zip(measured(inf, inf), (0.2, 0.6), strict=True))
    found = Record(rollouts, (early, late))
    assert found.best is late and "infinite (60% of the steps are finite)" in found.choice(10) and not found.warnings(10)
    assert record_of_json(found) == found


def record_of_json(found: Record) -> Record | None:
    written = json.loads(json.dumps(found.to_dict()))
    return record_of(Checkpoint({}, {"validation": written}), Path("run"))


def test_likely_causes_are_those_that_the_figures_show(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).normal(size=(6, 21, 1, 8))
    data = Trajectories(frames, np.linspace(1, 2, 6)[:, None])

    def causes(**changes: Any) -> str:
        settings = train_settings(tmp_path / "run", tmp_path / "d.h5", method="DETACHED", unroll=12, **changes)
        division = divide(data, settings, {})
        assert division.held_back is not None
        rollouts = fixed_rollouts(division.held_back, 3, 8, 20)
        return "; ".join(Circumstances(settings, division, rollouts, None).causes(["nu"]))

    place = "so give the network these fields as inputs (docs/training/networks.md)"
    assert causes(held_back=1).endswith(place) and "; " not in causes(held_back=1)
    assert causes(held_back=1, network=Component("mine.py:Own")) == ""
    beyond = "simulation 5 lies outside what is trained on (nu 2, trained on 1 to 1.8)"
    assert causes(held_back_simulations=[5]).startswith(f"{beyond}, so train on a wider range, or hold others back; an error")
    assert causes(held_back=3).startswith("3 simulations to learn from are few, so make more; an error")
    short = train_settings(tmp_path / "run", tmp_path / "d.h5", method="DETACHED", unroll=3, held_back=1)
    division = divide(data, short, {})
    assert division.held_back is not None
    rollouts = fixed_rollouts(division.held_back, 3, 8, 20)
    nothing = OneStepError(np.arange(2), np.zeros(2), np.ones(2))
    assert Circumstances(short, division, rollouts, nothing).causes(["nu"])[:-1] == (
        "there is nearly nothing to correct, so take a coarser solver",
        "training looks 3 steps ahead and these rollouts 20, so unroll more",
    )
    single = Circumstances(replace(short, method="NON"), division, rollouts, None).causes(["nu"])
    assert single[:-1] == ("training looks 1 step ahead and these rollouts 20, so train through the loop after it",)


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
