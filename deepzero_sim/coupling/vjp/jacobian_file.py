"""File of measured Jacobians, found again by what they were measured at."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from deepzero_sim.common.documents import read_json
from deepzero_sim.common.files import digest, digest_of_named, replace_tensor_file, require_regular, require_writable
from deepzero_sim.common.requirements import LARGEST_COUNT, is_count, require, require_that
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.differences import Differences
from deepzero_sim.coupling.vjp.state_metric import farthest
from deepzero_sim.coupling.vjp.stored_arrays import StoredArrays
from deepzero_sim.errors import RunError
from deepzero_sim.solver.failure_policy import Account
from deepzero_sim.solver.spec import SolverSpec

if TYPE_CHECKING:
    from deepzero_sim.coupling.probes import SolverProbe

_FORMATS = "deepzero-sim jacobians "
FORMAT = f"{_FORMATS}2"


class JacobianFile:
    """Arrays by a digest of all they depend on, including steps of the solver, so that another solver's are never used.

    Args:
        path: Safetensors file, read if it exists; None to store nothing.
        count_found: True to count as many solver steps for an array that is found as its measurement took, so that a run costs
            the same, whoever paid; False where they were counted before.

    Raises:
        RunError: The file is damaged, none of this kind, of another version, or lies where nothing can be written.
    """

    def __init__(self, path: Path | None, *, count_found: bool = True) -> None:
        self._path, self._count_found = path, count_found
        self._arrays: dict[str, Array] = {}
        self._facts: dict[str, dict[str, str | int]] = {}  # by digest: solver steps, and the digest of the arrays themselves
        self._changed = False
        if path is not None:
            require_writable(path, "Jacobians")
            if path.exists():
                self._read(path)

    def _read(self, path: Path) -> None:
        try:
            require_regular(path)
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                _require_format(metadata.get("format", ""), path)
                self._arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            facts = read_json(metadata["facts"])
            _require_facts(facts)
            whole = digest([metadata["facts"]]) == metadata["sha256"]
            whole = whole and {name.partition(".")[0] for name in self._arrays} <= facts.keys()
            whole = whole and all(fact["content"] == digest_of_named([], self._of(key)) for key, fact in facts.items())
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path} must be a file of Jacobians of this package, but it is not, or damaged ({type(error).__name__}: "
                f"{error}): name another file, or remove it if nothing else needs it."
            ) from error
        require_that(whole, f"{path} holds Jacobians that were changed: remove it to have them measured anew.", RunError)
        self._facts = facts

    def get(
        self,
        settings: Sequence[str],
        at: Sequence[np.ndarray],
        probes: SolverProbe,
        measure: Callable[[], dict[str, Array]],
        check: Callable[[StoredArrays], object],
    ) -> dict[str, Array]:
        """Return the arrays of some settings at some states, and measure them if they are not there.

        Args:
            settings: Settings of the measurement, as text.
            at: Arrays that say where, and of which solver.
            probes: Counter of solver steps.
            measure: Function that measures the arrays by `probes`.
            check: Function that reads all arrays that were found, and so refuses what cannot be used.

        Raises:
            RunError: What was found cannot be used.
        """
        key = digest(settings, at)[:32]
        if key in self._facts:
            found = self._of(key)
            stored = StoredArrays(found, str(self._path), "remove it to have its Jacobians measured anew", RunError)
            check(stored)
            stored.require_no_others()
            if self._count_found:
                probes.count(Account(int(self._facts[key]["steps"])))
            return found
        before = probes.steps
        # the file holds arrays as they lie in memory, whatever their order of axes
        measured = {name: np.ascontiguousarray(array) for name, array in measure().items()}
        if self._path is not None:
            self._arrays |= {f"{key}.{name}": array for name, array in measured.items()}
            self._facts[key] = {"steps": probes.steps - before, "content": digest_of_named([], measured)}
            self._changed = True
        return measured

    def _of(self, key: str) -> dict[str, Array]:
        return {name.partition(".")[2]: array for name, array in self._arrays.items() if name.startswith(f"{key}.")}

    def save(self) -> None:
        """Write the file if there is something new.

        Raises:
            OSError: No space is left; the old file stands.
        """
        if self._path is None or not self._changed:
            return
        facts = json.dumps(self._facts)
        with replace_tensor_file(self._path, f"the Jacobians in {self._path}") as aside:
            save_file(self._arrays, aside, metadata={"format": FORMAT, "facts": facts, "sha256": digest([facts])})
        self._changed = False


def path_or_none(file: Path | str | None) -> Path | None:
    """Convert a user's name of a file of Jacobians.

    Raises:
        ConfigError: It is neither a path nor None.
    """
    fits = file is None or (isinstance(file, str | Path) and bool(str(file)))
    require(fits, "file must be a path, or None to keep nothing", file)
    return None if file is None else Path(file)


def fingerprint_direction(spec: SolverSpec) -> Array:
    """Draw the direction of random signs, `(C, *N)`, whose product tells a solver from others; always the same one."""
    signs = np.random.default_rng(0).choice([-1, 1], spec.state_shape)
    return np.where(spec.active(), signs, 0).astype(spec.dtype)


def identify(states: Array, params: Array | None, probes: SolverProbe, differences: Differences) -> list[np.ndarray]:
    """Return arrays that tell a solver and states of it from others, for two solver steps from the most extreme state.

    Args:
        states: Solver states, `(B, C, *N)`.
        params: Scenario parameters, `(B, K)`, or None.
        probes: Means of asking the solver for steps, which it counts.
        differences: Finite differences by which the solver is known.
    """
    at = slice(chosen := farthest(states, params), chosen + 1)  # a quiet state may hide what another solver does
    its, given = (None, []) if params is None else (params[at], [params])
    fingerprint = differences.pairs(probes, states[at], its, fingerprint_direction(probes.spec)[None])
    return [probes.spec.active(), states, *given, *fingerprint]


def _require_format(found: str, path: Path) -> None:
    """Refuse the files of other versions, which hold what cannot be read here but may be needed there.

    Raises:
        RunError: The file is of another version.
        ValueError: It is none of Jacobians.
    """
    if found == FORMAT:
        return
    if found.startswith(_FORMATS):
        raise RunError(
            f"{path} must hold Jacobians of this version of the package ({FORMAT!r}), not of another one ({found!r}): name "
            "another file, or remove it to have them measured anew."
        )
    raise ValueError(f"its format is {found!r}")


def _require_facts(facts: object) -> None:
    """Refuse what does not tell, by digest, the solver steps of each measurement and the digest of its arrays."""
    fits = isinstance(facts, dict) and all(
        isinstance(fact, dict)
        and fact.keys() == {"steps", "content"}
        and is_count(fact["steps"], least=0, most=LARGEST_COUNT)
        and isinstance(fact["content"], str)
        for fact in facts.values()
    )
    if not fits:
        raise ValueError("its facts tell no solver steps and digests")
