"""Results, each kept in a sealed JSON file of its own: an interrupted benchmark goes on after the last of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deepzero_sim.benchmarks.flows.methods import collect_warnings
from deepzero_sim.cli.console import console
from deepzero_sim.common.documents import read_json
from deepzero_sim.common.files import digest, write_text
from deepzero_sim.errors import ConfigError, SolverError, WorkerLostError

#: Entry of a measurement that could not be made: a sentence on why.
WHY = "why"

#: Entry of a file of results that says whether it was changed.
SEAL = "sha256"


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
    found = {**found, "warnings": [*found.get("warnings", []), *sentences]}
    write_sealed(path, found)
    return found


def read_measurement(path: Path) -> dict[str, Any]:
    """Read a measurement that was kept.

    Raises:
        ConfigError: The file was changed, or is that of another measurement.
    """
    return read_sealed(path, "it is measured again")


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result into a JSON file of its own, with a digest of what it says and of its place among the results.

    Args:
        path: Path of the file, which ends with the kind of the result, the flow, and the result's name.
        content: Entries of the result.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({**content, SEAL: _seal(path, content)}, indent=1) + "\n")


def read_sealed(path: Path, again: str) -> dict[str, Any]:
    """Read a result that was written by :func:`write_sealed`.

    Args:
        path: Path of the file.
        again: Clause on what happens if the file is not there.

    Raises:
        ConfigError: The file was changed, or is that of another result.
    """
    try:
        found = read_json(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.pop(SEAL, None) != _seal(path, found):
        raise ConfigError(f"{path} was changed, or is of an earlier version: delete it, and {again}.")
    return found


def _seal(path: Path, content: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(content))  # keys that are numbers become text
    return digest([*path.parts[-3:], json.dumps(plain, sort_keys=True)])
