"""Products that measure the solver once: where a training keeps what they found, and what it says of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from problems import Burgers
from training_cases import assert_same_tensors, line_data, tensors, train_settings, without_seconds

from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.errors import RunError
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.run_folder import JACOBIANS
from deepzero_sim.training.runs.training import train
from deepzero_sim.training.trainer import Trainer

#: Arguments by name; a training as short as these would leave Auto too few steps to measure anything.
NAMES: dict[str, dict[str, Any]] = {"ReferenceJacobian": {}, "JacobianField": {}, "Auto": {"most_steps": 1000}}


class Counted(Burgers):
    """Counts the states that all of them advance."""

    steps = 0

    def step(self, states: Array, params: Array | None = None) -> Array:
        Counted.steps += len(states)
        return super().step(states, params)


class KilledError(Exception):
    """Ends a run before its first update."""


def product(name: str, **args: Any) -> Component:
    return Component(f"deepzero_sim.vjp.{name}", args)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return line_data(tmp_path / "line.h5")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_ends_before_its_first_update_measures_once(
    tmp_path: Path, data: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KilledError

    settings, whole = (
        train_settings(tmp_path / run, data, method="SolverLayer", vjp=product(name, **NAMES[name])) for run in ("a", "b")
    )
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Trainer, "train", killed)
        train(settings)
    measured = (settings.run / JACOBIANS).stat().st_mtime_ns
    resumed, undisturbed = train(settings), train(whole)
    assert (settings.run / JACOBIANS).stat().st_mtime_ns == measured, "written only when something was measured"
    assert without_seconds(vars(resumed)) == without_seconds(vars(undisturbed))
    assert_same_tensors(tensors(settings.run), tensors(whole.run))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_named_is_taken(tmp_path: Path, data: Path, name: str) -> None:
    named = tmp_path / "shared.safetensors"
    first, second = (
        train_settings(tmp_path / run, data, method="SolverLayer", vjp=product(name, file=str(named), **NAMES[name]))
        for run in ("a", "b")
    )
    progress = train(first)
    written = named.stat().st_mtime_ns
    assert without_seconds(vars(train(second))) == without_seconds(vars(progress)), "what is found counts like what is measured"
    assert named.stat().st_mtime_ns == written
    assert not (first.run / JACOBIANS).exists() and not (second.run / JACOBIANS).exists()
    assert_same_tensors(tensors(tmp_path / "a"), tensors(tmp_path / "b"))


def test_a_run_that_is_resumed_keeps_its_choice_and_measures_nothing_again(tmp_path: Path, data: Path) -> None:
    counted = Component(f"{__name__}.Counted")
    settings, whole = (
        train_settings(tmp_path / run, data, method="SolverLayer", vjp=product("Auto", most_steps=1000), solver=counted)
        for run in ("a", "b")
    )

    def kill(progress: Progress) -> None:
        if progress.step == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train(settings, kill)
    Counted.steps = 0
    resumed = train(settings)
    assert Counted.steps < 2 * 2 * 3 + 2 * 2 + 3, "two updates and two first steps"
    assert without_seconds(vars(resumed)) == without_seconds(vars(train(whole)))
    assert_same_tensors(tensors(settings.run), tensors(whole.run))


def test_without_a_product_a_training_chooses_one_for_at_most_half_of_its_own_steps(tmp_path: Path, data: Path) -> None:
    said: dict[int, list[str]] = {4: [], 40: []}
    for updates, sentences in said.items():
        changes: dict[str, Any] = {"method": "SolverLayer", "updates": updates, "unroll": 8, "batch_size": 4}
        settings = train_settings(tmp_path / str(updates), data, **changes)
        progress = train(settings, note=sentences.append)
        assert settings.vjp == product("Auto")
        assert progress.solver_steps <= updates * 4 * 7 + updates * 4 * 8 // 2
    (short,), (long,) = ([one for one in sentences if "was chosen" in one] for sentences in said.values())
    assert short == (
        "Auto of solver 'burgers': StraightThrough was chosen: to tell which suits takes 82, more than the 64 solver steps "
        "that are left of most_steps."
    )
    assert long.startswith("Auto of solver 'burgers': ")
    assert re.search(r" was chosen: cosine [01]\.\d{4} through 8 steps, \d+ solver steps to measure; the identity has ", long)


def test_a_training_says_once_what_a_field_found(tmp_path: Path, data: Path) -> None:
    settings = train_settings(tmp_path / "run", data, method="SolverLayer", vjp=product("JacobianField"))
    first: list[str] = []
    again: list[str] = []
    train(settings, note=first.append)
    train(settings, note=again.append)  # it has ended
    (about,) = (sentence for sentence in first if "JacobianField" in sentence)
    assert re.fullmatch(
        r"JacobianField of solver 'burgers': cosine [01]\.\d{4} through 1 step and .* solver steps; .*\.", about
    )
    assert not any("JacobianField" in sentence for sentence in again)


@pytest.mark.parametrize(("method", "refused"), [("STRAIGHT-THROUGH", False), ("SolverLayer", True)])
def test_a_run_of_an_earlier_default_goes_on_where_it_uses_no_product(
    tmp_path: Path, data: Path, method: str, refused: bool
) -> None:
    earlier = train_settings(tmp_path / "run", data, method=method, vjp=product("ReferenceJacobian"))
    train(earlier)
    settings = replace(earlier, vjp=product("Auto"), updates=earlier.updates + 1)
    if refused:
        with pytest.raises(RunError, match=r"vjp is .*ReferenceJacobian.* there, .*Auto.* here"):
            train(settings)
    else:
        train(settings)
