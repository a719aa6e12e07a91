"""File of Jacobians: whose it is, where it may lie, and who may write it at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jacobians import advection, random_states
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from deepzero_sim import as_solver
from deepzero_sim.common.files import digest
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp import Auto, JacobianField, ReferenceJacobian
from deepzero_sim.coupling.vjp.base import VectorJacobianProduct
from deepzero_sim.errors import RunError

SOLVER = advection((8,), 1)
STATES = np.asarray(random_states(SOLVER, 4).numpy())


def measure(file: Path | str, number: int = 0) -> SolverProbe:
    probes = SolverProbe(SOLVER)
    ReferenceJacobian(2, file=file).prepare(STATES + number, None, probes)
    return probes


@pytest.mark.parametrize(
    "edit",
    [
        lambda facts: list(facts.values()),
        lambda facts: "text",
        lambda facts: {key: [] for key in facts},
        lambda facts: {key: {"content": fact["content"]} for key, fact in facts.items()},
        *(
            lambda facts, steps=steps: {key: fact | {"steps": steps} for key, fact in facts.items()}  # type: ignore[misc]
            for steps in (-5, 10**30, "4", 4.5, None, True)
        ),
        lambda facts: {key: fact | {"content": 4} for key, fact in facts.items()},
    ],
)
def test_facts_that_tell_no_solver_steps_are_refused(edit: Callable[[Any], Any], tmp_path: Path) -> None:
    file = tmp_path / "jacobians.safetensors"
    measure(file)
    with safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata()
    text = json.dumps(edit(json.loads(metadata["facts"])))
    save_file(load_file(file), file, metadata=metadata | {"facts": text, "sha256": digest([text])})
    before = file.read_bytes()
    with pytest.raises(RunError, match=r"must be a file of Jacobians .* its facts tell no solver steps and digests\): name an"):
        measure(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("deepzero-sim jacobians 1", r"of this version of the package \('deepzero-sim jacobians 2'\), not of another one \('"),
        ("deepzero-sim jacobians 3", r"name another file, or remove it to have them measured anew"),
        ("pt", r"must be a file of Jacobians of this package, but it is not, or damaged \(ValueError: its format is 'pt'\)"),
    ],
)
def test_a_file_of_another_version_or_kind_is_left_alone(name: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "jacobians.safetensors"
    save_file({"a": np.ones(3)}, file, metadata={"format": name, "facts": "{}", "sha256": digest(["{}"])})
    before = file.read_bytes()
    with pytest.raises(RunError, match=says):
        measure(file)
    assert file.read_bytes() == before


def test_arrays_that_no_measurement_gave_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "jacobians.safetensors"
    save_file({"a": np.ones(3)}, file, metadata={"format": "deepzero-sim jacobians 2", "facts": "{}", "sha256": digest(["{}"])})
    with pytest.raises(RunError, match="holds Jacobians that were changed"):
        measure(file)


@pytest.mark.parametrize("maker", [JacobianField, ReferenceJacobian, Auto])
@pytest.mark.parametrize("name", ["n" * 300, "n" * 250, "a\0b", "a\ud800b", "/proc/jacobians.safetensors"])
def test_a_path_that_cannot_be_written_is_refused_before_anything_is_measured(
    maker: type[VectorJacobianProduct], name: str, tmp_path: Path
) -> None:
    probes = SolverProbe(SOLVER)
    with pytest.raises(
        RunError, match=r"Jacobians cannot be kept in .*\): name a file in a folder that can be written"
    ) as raised:
        maker(file=tmp_path / name).prepare(STATES, None, probes)  # type: ignore[call-arg]
    assert str(raised.value).isprintable()
    assert probes.steps <= 4 + 2, "a step of each state, and those by which the solver is known"
    assert not list(tmp_path.iterdir())


def test_threads_write_one_file_at_once(tmp_path: Path) -> None:
    file, errors, barrier = tmp_path / "jacobians.safetensors", [], threading.Barrier(4)

    def use(first: int) -> None:
        try:
            for number in range(first, first + 5):
                barrier.wait(60)
                measure(file, number)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=use, args=(10 * first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    known = SolverProbe(as_solver(SOLVER.step, SOLVER.spec))
    ReferenceJacobian(2, file=file).prepare(STATES + 100, None, known)  # the file is whole
