"""Measurements, each kept in a JSON file of its own: an interrupted benchmark goes on after the last of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepzero_sim.benchmarks.flows.methods import collect_warnings
from deepzero_sim.cli.console import console
from deepzero_sim.common.files import write_text
from deepzero_sim.errors import ConfigError, SolverError, WorkerLostError

#: Entry of a measurement that could not be made: a sentence on why.
WHY = "why"


def measure_once(path: Path, title: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Measure and keep what was found with what was warned of, unless it is there; who refuses says why in their own words.

    Args:
        path: File to keep it in.
        title: Words on what is measured, which are printed.
        measure: Function that measures; an error of the package's is kept as the sentence under :data:`WHY`.
    """
    if path.exists():
        return read_measurement(path)
    console.print(title)
    with collect_warnings(title) as sentences:
        try:
            found = measure()
        except (ConfigError, SolverError, WorkerLostError) as error:
            console.print(f"{title}: {error}")
            found = {WHY: str(error)}
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {**found, "warnings": [*found.get("warnings", []), *sentences]}
    write_text(path, json.dumps(found, indent=1) + "\n")
    return found


def read_measurement(path: Path) -> dict[str, Any]:
    """Read a measurement that was kept.

    Raises:
        ConfigError: The file was changed.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} was changed: delete it, and it is measured again.")
    return found
