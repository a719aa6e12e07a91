"""Which simulations are held back: within the others where the choice is free, named as in the file, the same ever after."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from problems import Burgers
from training_cases import assert_same_tensors, line_data, tensors, train_settings

from deepzero_sim.datasets import Trajectories, trajectories
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.errors import ConfigError, DataError
from deepzero_sim.training.checkpoints import CONFIG, read_settings
from deepzero_sim.training.run_folder import VALIDATION, read_metrics
from deepzero_sim.training.runs.circumstances import Circumstances
from deepzero_sim.training.runs.comparison import compare
from deepzero_sim.training.runs.defaults import resolve
from deepzero_sim.training.runs.held_back import choose, divide, outside, shared, suitable_count, suitable_held_back
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.stages import plan
from deepzero_sim.training.runs.start import claim_folder
from deepzero_sim.training.runs.training import train


def data_with(*params: Any, numbers: list[int] | None = None) -> Trajectories:
    values = np.array(params, dtype=np.float64).reshape(len(params), -1)
    return Trajectories(np.zeros((len(params), 3, 1, 4)), values, numbers=numbers)


def settings(run: Path, data: Any, **changes: Any) -> TrainSettings:
    return train_settings(run, data, method="NON", updates=6, held_back=changes.pop("held_back", 1), **changes)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return line_data(tmp_path / "line.h5", 6, 20)


@pytest.mark.parametrize("simulations", [3, 4, 5, 8, 12, 40])
@pytest.mark.parametrize("order", ["rising", "falling", "any"])
def test_the_choice_never_lies_outside_what_is_trained_on(simulations: int, order: str) -> None:
    values = np.linspace(0.5, 1.3, simulations)
    values = {"rising": values, "falling": values[::-1], "any": np.random.default_rng(3).permutation(values)}[order]
    chosen = choose(data_with(*values), suitable_held_back(simulations))
    trained = np.delete(values, chosen)
    assert len(set(chosen)) == suitable_held_back(simulations)
    assert trained.min() <= values[chosen].min() and values[chosen].max() <= trained.max()


def test_the_choice_is_spread_evenly_and_needs_no_parameters() -> None:
    without = Trajectories(np.zeros((12, 3, 1, 4)))
    assert choose(without, 2) == [4, 7] and choose(data_with(*range(12)), 2) == [4, 7]
    two = data_with((0, 0), (1, 9), (2, 1), (9, 2), (3, 3), (4, 4))  # the first is smallest in both; 1 and 3 are largest in one
    assert choose(two, 1) == [4] and choose(two, 2) == [2, 5]
    assert len(set(choose(data_with(1, 2, 3), 2))) == 2  # too few to leave both ends to training


def test_numbers_are_those_of_the_file_after_any_selection(tmp_path: Path, data: Path) -> None:
    source = DataSource(data, simulations=[5, 3, 1, 0])
    said: list[str] = []
    train(settings(tmp_path / "run", source), note=said.append)
    assert read_settings(tmp_path / "run")["held_back_simulations"] == [1]
    assert any(one.startswith("simulation 1 of 4 (numbered as in the file, from 0) is held back from training") for one in said)
    # all but that one are trained on, and that one alone is measured
    others = trajectories.load(data)
    numbers = [5, 3, 0]
    alone = replace(others, frames=others.frames[numbers], params=others.params[numbers])
    trajectories.save(tmp_path / "few.h5", alone, Burgers(dtype="float64").spec)
    train(settings(tmp_path / "elsewhere" / "few", tmp_path / "few.h5", held_back=0))
    ours, theirs = (
        {key: value for key, value in tensors(run).items() if key.startswith("network")}
        for run in (tmp_path / "run", tmp_path / "elsewhere" / "few")
    )
    assert_same_tensors(ours, theirs)


def test_simulations_that_are_named_are_taken(tmp_path: Path, data: Path) -> None:
    given = settings(tmp_path / "run", data, held_back=None, held_back_simulations=[5, 0])
    train(given)
    assert resolve(given).settings.held_back == 2
    recorded = read_settings(tmp_path / "run")
    assert (recorded["held_back"], recorded["held_back_simulations"]) == (2, [5, 0])
    with pytest.raises(ConfigError, match="held_back says 1, but held_back_simulations names 2 simulations"):
        train(settings(tmp_path / "b", data, held_back=1, held_back_simulations=[5, 0]))
    with pytest.raises(
        DataError, match=r"must be numbers of simulations of train_data \(0, 1, 2, 3, 4 and 5\), and \[7\] is none"
    ):
        train(settings(tmp_path / "b", data, held_back=None, held_back_simulations=[7]))
    with pytest.raises(DataError, match="held_back must leave a simulation to train on"):
        train(settings(tmp_path / "b", data, held_back=None, held_back_simulations=[0, 1, 2, 3, 4, 5]))
    assert not (tmp_path / "b").exists()


def test_whole_groups_of_shared_parameters_are_held_back() -> None:
    """Training sees nothing of the parameters that are held back, and those lie within the range of what it sees."""
    values = [value for value in (1.0, 2.0, 3.0, 4.0, 5.0) for _ in range(3)]
    given = data_with(*values)
    assert suitable_count(given) == 3 and choose(given, 3) == [6, 7, 8]
    assert choose(given, 6) == [3, 4, 5, 9, 10, 11]
    mixed = data_with(*values[::3], *values[::3], *values[::3])  # in another order
    assert choose(mixed, 3) == [2, 7, 12]
    uneven = data_with(1, 2, 2, 3, 4, 4, 4, 5)
    assert suitable_count(uneven) == 1 and choose(uneven, 1) == [3]
    assert suitable_held_back(15) == 3 and suitable_count(data_with(*range(15))) == 3


def test_parameters_that_are_trained_on_too_are_said() -> None:
    """Where groups are too few, or the number makes up no whole ones."""
    few, many = data_with(1, 1, 2, 2, 3, 3), data_with(*[value for value in range(5) for _ in range(3)])
    for data, count, numbers in ((few, 1, [3]), (many, 2, [5, 9])):
        made = settings(Path("run"), Path("data.h5"), held_back=count)
        division = divide(data, made, {})
        assert list(division.numbers) == numbers and division.held_back is not None
        assert shared(division.trained, division.held_back) == numbers
        (said,) = [one for one in Circumstances(made, division, division.held_back, None).notes(["nu"]) if "too" in one]
        assert said.endswith("with parameters that training does not see would).") and "nothing of values in between" in said
    whole = divide(many, settings(Path("run"), Path("data.h5"), held_back=3), {})
    assert whole.held_back is not None and not shared(whole.trained, whole.held_back)
    without = data_with([], [], [])
    assert not shared(without, without)


def test_a_run_that_was_begun_with_other_rules_keeps_its_choice(tmp_path: Path) -> None:
    given = data_with(*[value for value in range(5) for _ in range(3)])
    recorded = {"held_back": 3, "held_back_simulations": [3, 7, 11]}
    assert divide(given, settings(tmp_path, tmp_path / "d.h5", held_back=3), recorded).numbers == (3, 7, 11)


def test_parameters_outside_what_is_trained_on_are_said() -> None:
    division = divide(
        data_with(0.5, 0.7, 0.9, 1.3), settings(Path("r"), Path("d"), held_back=None, held_back_simulations=[3]), {}
    )
    assert division.held_back is not None
    assert outside(division.trained, division.held_back, ["speed"]) == (
        "simulation 3 lies outside what is trained on (speed 1.3, trained on 0.5 to 0.9)"
    )
    inside = divide(data_with(0.5, 0.7, 0.9, 1.3), settings(Path("r"), Path("d")), {})
    assert inside.held_back is not None and outside(inside.trained, inside.held_back, ["speed"]) == ""


def test_a_run_of_an_earlier_version_goes_on_with_the_last_simulations(tmp_path: Path, data: Path) -> None:
    """Its config.yaml names no simulations, nor how far a validation rolls out: the last ones, four times the unroll."""
    given = settings(tmp_path / "old", data, held_back=2)
    claim_folder(replace(resolve(given).settings, run=tmp_path / "old"))
    before = (tmp_path / "old" / CONFIG).read_text()
    assert "held_back: 2" in before and "held_back_simulations" not in before and "validate_steps" not in before
    train(given)
    assert (tmp_path / "old" / CONFIG).read_text() == before
    assert read_metrics(tmp_path / "old" / VALIDATION)[0]["length"] == 4 * 3
    train(replace(given, run=tmp_path / "b" / "same", held_back=None, held_back_simulations=[4, 5]))
    ours, theirs = (
        {key: value for key, value in tensors(run).items() if key.startswith("network")}
        for run in (tmp_path / "old", tmp_path / "b" / "same")
    )
    assert_same_tensors(ours, theirs)


def test_stages_go_on_with_what_the_first_one_held_back(tmp_path: Path, data: Path) -> None:
    stages = replace(settings(tmp_path / "run", data, held_back=None), method="suitable", stages=[{}, {"method": "DETACHED"}])
    planned = plan(stages)
    assert [one.settings.held_back_simulations for one in planned] == [
        [2],
    ] * 2
    old = replace(planned[0].settings, held_back_simulations=None, validate_steps=None)
    claim_folder(old)  # as an earlier version began it
    assert [one.settings.held_back_simulations for one in plan(stages)] == [[5], [5]]
    for one in plan(stages):
        train(one.settings)
    recorded = [read_settings(tmp_path / "run" / name) for name in ("1-NON", "2-DETACHED")]
    assert [one.get("held_back_simulations") for one in recorded] == [None, [5]]


def test_simulations_that_the_start_was_trained_on_are_said(tmp_path: Path, data: Path) -> None:
    first = settings(tmp_path / "first", data, held_back=0)
    train(first)
    said: list[str] = []
    second = settings(tmp_path / "second", data, start=first.run)
    train(second, say=said.append)
    assert f"simulation 2, held back here, was trained on by {first.run}, which this run goes on from" in said[0]
    # a third one in the chain holds back what the second did, and the first has seen it still
    said.clear()
    train(settings(tmp_path / "third", data, start=second.run), say=said.append)
    assert f"was trained on by {first.run}" in said[0]
    said.clear()
    train(settings(tmp_path / "fourth", data), say=said.append)
    train(settings(tmp_path / "fifth", data, start=tmp_path / "fourth"), say=said.append)
    assert not any("trained on by" in sentence for sentence in said)


def test_an_evaluation_on_what_was_held_back_is_not_one_on_what_was_trained_on(tmp_path: Path, data: Path) -> None:
    given = settings(tmp_path / "run", data, held_back=2)
    train(given)
    held = read_settings(given.run)["held_back_simulations"]

    def warnings(simulations: list[int] | None) -> str:
        return " ".join(compare({"NON": given.run}, DataSource(data, simulations=simulations), 3).warnings)

    assert "is what NON was trained on" in warnings(None) and "is what NON was trained on" in warnings([0, held[0]])
    assert (
        f"simulation 0 of {data} is what NON was trained on, so that errors there say little of others: evaluate others."
        in (warnings([held[0], 0]))
    )
    assert f"was chosen by its error on simulation {held[0]} of" in warnings([held[0], 0])
    assert "was trained on" not in warnings(held) and "was chosen by its error on simulations" in warnings(held)


def test_simulations_of_an_evaluation_that_were_trained_on_are_named(tmp_path: Path, data: Path) -> None:
    runs = {}
    for name, simulations in (("one", [0, 1, 2]), ("other", [0, 2, 4])):
        given = settings(tmp_path / name, DataSource(data, simulations=simulations), held_back=0)
        train(given)
        runs[name] = given.run

    def warnings(simulations: list[int] | None, *names: str) -> list[str]:
        found = compare({name: runs[name] for name in names}, DataSource(data, simulations=simulations), 3).warnings
        return [one for one in found if "trained on" in one]

    rest = "so that errors there say little of others: evaluate simulation"
    assert warnings([0, 3], "one") == [f"simulation 0 of {data} is what one was trained on, {rest} 3 alone."]
    assert warnings([2, 0, 5, 3], "one", "other") == [
        f"simulations 2 and 0 of {data} are what one, other were trained on, {rest}s 5 and 3 alone."
    ]
    assert [one.partition(" of ")[0] for one in warnings([0, 1, 5], "one", "other")] == ["simulations 0 and 1", "simulation 0"]
    assert warnings(None, "other")[0].startswith(f"simulations 0, 2 and 4 of {data} are what other was trained on, ")
    assert not warnings([3, 5], "one", "other")


def test_settings_of_a_run_can_be_given_again(tmp_path: Path, data: Path) -> None:
    given = settings(tmp_path / "run", data, held_back=2)
    train(given)
    text = yaml.safe_load((given.run / CONFIG).read_text())
    again = replace(given, held_back_simulations=text["held_back_simulations"], validate_steps=text["validate_steps"])
    assert train(again).step == 6
