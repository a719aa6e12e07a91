"""The page of components has every one that settings may name by a short name, with its arguments and their defaults."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import deepzero_sim as dz
from deepzero_sim.cli.classify import CLASSIFIERS
from deepzero_sim.common.components import load
from deepzero_sim.common.short_names import COUPLINGS, LOSSES
from deepzero_sim.models.corrector import CORRECTORS
from deepzero_sim.training.active_set import LAYER_RATIOS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "components.md"

#: What a command passes by itself.
PASSED = {"spec", "classes", "optimiser"}

PRODUCTS = {
    name: value
    for name, value in ((name, getattr(dz.vjp, name)) for name in dz.vjp.__all__)
    if issubclass(value, dz.vjp.VectorJacobianProduct) and value is not dz.vjp.VectorJacobianProduct
}
ESTIMATORS = {
    name: getattr(dz, name) for name in ("CGE", "RGE", "CoCD", "GaussNewton", "EKI", "EvolutionStrategies", "BackPropagation")
}

COMPONENTS: dict[str, dict[str, Callable[..., Any]]] = {
    "Correctors": dict(CORRECTORS),
    "Classifiers": dict(CLASSIFIERS),
    "Vector-Jacobian products": PRODUCTS,
    "Losses": {name: load(path) for name, path in LOSSES.paths.items()},
    "Couplings": {name: load(path) for name, path in COUPLINGS.paths.items()},
    "Estimators": ESTIMATORS,
    "Layer ratios": dict(LAYER_RATIOS),
    "Schedules of the learning rate": {"deepzero_sim.warm_up_cosine": dz.warm_up_cosine},
}


def written(heading: str) -> dict[str, dict[str, str]]:
    """Arguments and defaults of the components in one section's table."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found: dict[str, dict[str, str]] = {}
    name = ""
    for row in re.findall(r"^\|(.*)\|$", section, re.MULTILINE)[2:]:
        first, argument, default, meaning = (cell.strip().replace("`", "") for cell in row.split("|"))
        name = first or name
        found.setdefault(name, {})
        assert meaning, row
        if argument != "none":
            found[name][argument] = default
    return found


def taken(component: Callable[..., Any]) -> dict[str, str]:
    """Arguments and defaults as the signature has them."""
    parameters = [one for one in inspect.signature(component).parameters.values() if one.name not in PASSED]
    return {one.name: "required" if one.default is one.empty else _words(one.default) for one in parameters}


def _words(default: object) -> str:
    return str(list(default)) if isinstance(default, tuple) else str(default)


@pytest.mark.parametrize("heading", COMPONENTS)
def test_arguments_and_defaults_are_those_of_the_signatures(heading: str) -> None:
    assert written(heading) == {name: taken(component) for name, component in COMPONENTS[heading].items()}


def test_every_estimator_that_is_public_is_listed() -> None:
    public = {name for name in dz.__all__ if inspect.isclass(getattr(dz, name)) and issubclass(getattr(dz, name), dz.Estimator)}
    assert public - {"Estimator"} == set(ESTIMATORS)
