"""Vector-Jacobian products by short names in settings: what is recorded, and what is said of names that nothing has."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_cases import line_data, train_settings

import deepzero_sim as dz
from deepzero_sim.cli.main import main
from deepzero_sim.cli.settings.check_gradient import CheckSettings
from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import read, settings_to_dict
from deepzero_sim.common.short_names import PRODUCTS
from deepzero_sim.errors import ConfigError
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.training import train

GIVEN: dict[str, Any] = {"run": "r", "train_data": "d", "solver": {"name": "problems.Burgers"}}


def test_every_product_has_a_short_name() -> None:
    assert set(PRODUCTS.paths) == set(dz.vjp.__all__) - {"StepTaken", "VectorJacobianProduct"}


def test_a_short_name_is_recorded_as_the_import_path() -> None:
    short, whole = (
        read(TrainSettings, {**GIVEN, "vjp": {"name": name, "args": {"radius": 1}}})
        for name in ("Coloured", "deepzero_sim.vjp.Coloured")
    )
    assert settings_to_dict(short) == settings_to_dict(whole)
    assert short.vjp == Component("deepzero_sim.vjp.Coloured", {"radius": 1})


def test_a_list_of_a_check_takes_both_spellings() -> None:
    vjp = [{"name": "Detached"}, {"name": "deepzero_sim.vjp.Auto"}, {"name": "own.py:Mine"}]
    given = {"output": "o", "train_data": "d", "solver": {"name": "problems.Burgers"}, "vjp": vjp}
    settings = read(CheckSettings, given)
    assert [one.name for one in settings.vjp] == ["deepzero_sim.vjp.Detached", "deepzero_sim.vjp.Auto", "own.py:Mine"]


def test_a_run_goes_on_whichever_way_its_product_is_spelt(tmp_path: Path) -> None:
    line_data(tmp_path / "line.h5")
    whole = train_settings(
        tmp_path / "run", tmp_path / "line.h5", method="SolverLayer", vjp=Component("deepzero_sim.vjp.Coloured")
    )
    train(whole)
    train(replace(whole, vjp=Component("Coloured"), updates=5))
    assert "name: deepzero_sim.vjp.Coloured" in (tmp_path / "run" / "config.yaml").read_text()


TRAIN, CHECK = "train --run out", "check-gradient --output out"
TEXT = r"vjp must hold keys with values, such as \{name: Auto, args: \{\}\}, not auto"
UNKNOWN = r"vjp must name one of Auto, .* not 'auto' \(did you mean 'Auto'\?\)"


@pytest.mark.parametrize(
    ("command", "option", "value", "says"),
    [
        (TRAIN, "--config", "{vjp: auto}", TEXT),
        (TRAIN, "--vjp", "auto", TEXT),
        (TRAIN, "--vjp.name", "auto", UNKNOWN),
        (TRAIN, "--config", "{gradient: auto}", r"not 'gradient' \(did you mean 'vjp'\?\)"),
        (TRAIN, "--gradient", "auto", r"--gradient auto \(did you mean 'vjp'\?\)"),
        (CHECK, "--vjp", "[auto]", TEXT),
        (CHECK, "--vjp", "[{name: auto}]", UNKNOWN),
        (CHECK, "--config", "{gradient: auto}", r"not 'gradient' \(did you mean 'vjp'\?\)"),
    ],
)
def test_one_sentence_says_how_a_product_is_named(
    capsys: pytest.CaptureFixture[str], command: str, option: str, value: str, says: str
) -> None:
    assert main([*command.split(), "--train_data", "d", "--solver.name", "problems.Burgers", option, value]) == 2
    said = capsys.readouterr().err
    assert re.search(says, said), said
    assert said.count("\n") == 1


def test_python_says_what_is_meant() -> None:
    solver = dz.as_solver(lambda states: 0.5 * states, dz.SolverSpec(name="half", state_shape=(1, 8), dt=1.0))
    with pytest.raises(ConfigError, match=r"dz\.train may have .* not 'gradient' \(did you mean 'vjp'\?\)"):
        dz.train(solver, "d.h5", gradient="auto")
    with pytest.raises(ConfigError, match=r"vjp must name one of Auto, .* not 'auto' \(did you mean 'Auto'\?\)"):
        dz.train(solver, "d.h5", vjp="auto")
