"""The solver's step from every frame of data in memory, stored in the run folder: asked for once, whoever starts a run again.

All rollouts begin with these steps, and they do not depend on the network. Steps from before a kill are read again, and so are
those that another run took of the same solver on the same data. Of the steps that are read, some are taken again and compared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from deepzero_sim.common.components import Component
from deepzero_sim.common.files import digest, digest_of_named, replace_tensor_file, require_regular
from deepzero_sim.common.types import Array
from deepzero_sim.connectors.bmi.solver import BMISolver
from deepzero_sim.connectors.per_state import PerStateCaller
from deepzero_sim.datasets.batches import CALL, advance_part
from deepzero_sim.datasets.trajectories import Trajectories, as_batch
from deepzero_sim.errors import RunError
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import Account, FailurePolicy, Incident, drop
from deepzero_sim.solver.spec import SolverSpec, entries_but_mask
from deepzero_sim.solver.stepping import step_with_policy
from deepzero_sim.training.checkpoints import CONFIG
from deepzero_sim.training.preparation import PREPARATION, Entry, Preparation
from deepzero_sim.training.run_folder import FIRST_STEPS, RunFolder

FORMAT = "deepzero-sim first steps 1"

#: Least time from one writing of the file to the next: in seconds, and in multiples of what it takes to write it.
WRITE_SECONDS, WRITE_SHARE = 1.0, 20.0


class _StoredSteps(NamedTuple):
    """Content of a file.

    Args:
        key: Digest of all that the steps depend on, as far as it can be told without asking the solver.
        advanced: States after the first `M` frames, simulation after simulation, `(M, C, *N)`; NaN where a step was dropped.
        incidents: Failures on the way.
    """

    key: str
    advanced: Array
    incidents: tuple[Incident, ...] = ()


class FirstSteps:
    """Steps of one solver from the frames of one training.

    Args:
        solver: Coarse solver.
        component: Component that it was built from.
        data: Reference frames.
        policy: Response to a step that fails. One that is dropped is NaN: no rollout starts there.

    Attributes:
        incidents: Failures that training is to count.
    """

    def __init__(self, solver: Solver, component: Component, data: Trajectories, policy: FailurePolicy) -> None:
        self._solver, self._policy = solver, policy
        self.incidents: tuple[Incident, ...] = ()
        self._on_disk = data.on_disk
        starts = data.frames[:, :0] if data.on_disk else data.frames[:, :-1]
        self._shape = starts.shape
        self._states, self._params = as_batch(starts, data.params)
        given = [self._states] if self._params is None else [self._states, self._params]
        self._key = digest([FORMAT, json.dumps(asdict(component), default=str), _spec_text(solver.spec)], given)
        at_once = _states_at_once(solver)
        self._size = CALL if at_once is None else min(CALL, 4 * at_once)  # a kill loses little
        self._together = CALL if at_once is None else 1

    def collect(
        self, path: Path, claim: Callable[[], RunFolder], elsewhere: Sequence[Path] = (), *, fresh: bool = True
    ) -> Array | None:
        """Read the steps that are stored here or in other runs, and take the others: `(S, T-1, C, *N)`.

        Frames that lie on disk because they are many are not all advanced: the steps would take as much disk, and as many of
        the solver's steps, although few rollouts are drawn. Then this is None, and every rollout takes its own first step,
        which training counts.

        Args:
            path: Run folder; it is not claimed before there is something to store.
            claim: Function that opens the run.
            elsewhere: Folders of other runs that may hold them.
            fresh: True if failures of earlier starts are to be noted: no checkpoint counts them.

        Raises:
            SolverError: A step failed, and the policy ends the run; what was taken before is stored.
            RunError: The stored steps were changed, or are of another solver or other data.
        """
        if self._on_disk:
            return None
        with ExitStack() as stack, single_threaded():
            store = _Store(path / FIRST_STEPS, claim, stack)
            stored = self._read_own(store) or self._copy_from(elsewhere, store) or _StoredSteps(self._key, self._states[:0])
            self.incidents += tuple(stored.incidents) if fresh else ()
            advanced = self._complete(stored, store)
        return np.reshape(advanced, self._shape)

    def _complete(self, stored: _StoredSteps, store: _Store) -> Array:
        """Take the steps that are not stored, a call after the other, and store them on the way."""
        advanced = np.concatenate([stored.advanced, np.empty_like(self._states[len(stored.advanced) :])])
        try:
            for first in range(len(stored.advanced), len(self._states), self._size):
                end = min(first + self._size, len(self._states))
                advanced[first:end], account = self._advance(first, end)
                self.incidents += account.incidents
                stored = stored._replace(advanced=advanced[:end], incidents=(*stored.incidents, *account.incidents))
                store.count(account.steps)
                if store.due:
                    store.write(stored)
        finally:
            store.write(stored)
        return advanced

    def _advance(self, first: int, end: int) -> tuple[Array, Account]:
        return advance_part(self._solver, self._states, self._params, slice(first, end), self._shape[1], self._policy)

    def _read_own(self, store: _Store) -> _StoredSteps | None:
        """Read the steps of this run.

        Raises:
            RunError: They were changed, or are of another solver or other data.
        """
        file = store.file
        if not file.exists():
            return None
        remedy = "restore what it was, or delete that file to have them taken anew"
        try:
            stored = _read(file)
        except _DAMAGE as error:
            raise RunError(
                f"{file} does not hold first steps of this package ({type(error).__name__}: {error}): {remedy}."
            ) from error
        if stored is None or not self._fits(stored):
            raise RunError(f"{file} holds the steps of another solver, or from other frames: {remedy}.")
        if self._solver.spec.deterministic and not self._agrees(stored.advanced, store):
            raise RunError(
                f"solver {self._solver.spec.name!r} gives other steps now than those that {file} holds: restore the solver "
                "that the run began with, or delete the folder to start afresh."
            )
        return stored

    def _copy_from(self, elsewhere: Sequence[Path], store: _Store) -> _StoredSteps | None:
        """Copy these steps from another run; nothing of a solver that need not give the same again."""
        if not self._solver.spec.deterministic:
            return None
        for folder in elsewhere:
            advanced = self._usable(folder / FIRST_STEPS)
            if len(advanced) and self._agrees(advanced, store):
                store.copy(_StoredSteps(self._key, advanced), folder)
                return _StoredSteps(self._key, advanced)
        return None

    def _usable(self, file: Path) -> Array:
        """Read the steps of another run's file up to the first that failed, in whole calls."""
        nothing = self._states[:0]
        try:
            stored = _read(file, self._key) if file.is_file() else None
        except _DAMAGE:  # somebody else's: reported when that run goes on
            return nothing
        if stored is None or not self._fits(stored):
            return nothing
        failed = np.flatnonzero(~_finite(stored.advanced))
        return stored.advanced[: failed[0] // self._together * self._together] if len(failed) else stored.advanced

    def _fits(self, stored: _StoredSteps) -> bool:
        """Tell whether a file holds these steps, in whole calls."""
        count, advanced = len(stored.advanced), stored.advanced
        whole = count == len(self._states) or (count < len(self._states) and count % self._together == 0)
        form = advanced.shape[1:] == self._states.shape[1:] and advanced.dtype == self._states.dtype
        return stored.key == self._key and form and whole

    def _agrees(self, advanced: Array, store: _Store) -> bool:
        """Take some of the steps again, and compare."""
        known = np.flatnonzero(_finite(advanced))
        if not len(known):
            return True
        places = sorted({int(known[0]), int(known[len(known) // 2])})
        again = self._step_again(places, store)
        if np.array_equal(again, advanced[places]):
            return True
        # last bits may depend on what is advanced together: ask as it was asked
        first = places[0] // self._together * self._together
        together = list(range(first, min(first + self._together, len(advanced))))
        return np.array_equal(self._step_again(together, store), advanced[together], equal_nan=True)

    def _step_again(self, places: list[int], store: _Store) -> Array:
        params = None if self._params is None else self._params[places]
        result = step_with_policy(self._solver, self._states[places], params, self._policy)
        self.incidents += result.incidents
        for place, error in sorted(result.failures.items()):
            where = "in a step that is taken again, to compare it with the one that is kept"
            self.incidents += (drop(error, self._policy, where),)
            result.states[place] = np.nan
        store.checked += result.steps
        return result.states


class _Store:
    """Writer of steps, and of what they took, into a run folder.

    Args:
        file: File of the steps.
        claim: Function that opens the run.
        stack: Context in which the folder is locked against others.
    """

    def __init__(self, file: Path, claim: Callable[[], RunFolder], stack: ExitStack) -> None:
        self.file, self._claim, self._stack = file, claim, stack
        self._preparation: Preparation | None = None
        self._asked, self.checked = 0, 0
        self._noted = self._written = time.perf_counter()
        self._writing = 0.0
        if (file.parent / CONFIG).exists():
            self._open()

    def _open(self) -> Preparation:
        if self._preparation is None:
            run = self._claim()
            self._stack.enter_context(run.in_use())
            self._preparation = Preparation(run.path / PREPARATION, run.name)
        return self._preparation

    def count(self, asked: int) -> None:
        """Count steps that were asked for."""
        self._asked += asked

    @property
    def due(self) -> bool:
        """True when it is time to write."""
        return time.perf_counter() - self._written > max(WRITE_SECONDS, WRITE_SHARE * self._writing)

    def copy(self, stored: _StoredSteps, folder: Path) -> None:
        """Write the steps that another run had taken."""
        self._note(Entry(f"first steps found in {folder}", found=len(stored.advanced)))
        self._save(stored)

    def write(self, stored: _StoredSteps) -> None:
        """Write steps and their number, if there are any; the number first, for they were asked whatever happens."""
        if self.checked:
            self._note(Entry("first steps taken again, to compare them", self.checked))
            self.checked = 0
        if self._asked:
            self._note(Entry("first steps", self._asked))
            self._asked = 0
            self._save(stored)

    def _note(self, entry: Entry) -> None:
        now = time.perf_counter()
        self._open().add(replace(entry, seconds=now - self._noted))
        self._noted = now

    def _save(self, stored: _StoredSteps) -> None:
        started = time.perf_counter()
        words = {"format": FORMAT, "key": stored.key, "incidents": json.dumps(stored.incidents)}
        arrays = {"advanced": np.ascontiguousarray(stored.advanced)}
        checksum = digest_of_named(list(words.values()), arrays)
        with replace_tensor_file(self.file, f"the first steps in {self.file}") as aside:
            save_file(arrays, aside, metadata={**words, "sha256": checksum})
        self._written = time.perf_counter()
        self._writing = self._written - started


#: Errors of reading a file that is none of ours, or damaged.
_DAMAGE = (SafetensorError, OSError, ValueError, KeyError, TypeError)


def _read(file: Path, key: str | None = None) -> _StoredSteps | None:
    """Read a file; None if it is for another key than the one that is looked for.

    Raises:
        SafetensorError, OSError, ValueError, KeyError, TypeError: The file is damaged, or none of ours.
    """
    require_regular(file)
    with safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata() or {}
        words = [metadata[name] for name in ("format", "key", "incidents")]
        if key not in (None, metadata["key"]):
            return None
        arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    if words[0] != FORMAT or digest_of_named(words, arrays) != metadata["sha256"]:
        raise ValueError("its content does not fit its checksum: it was changed or damaged")
    return _StoredSteps(metadata["key"], arrays["advanced"], tuple(Incident(*one) for one in json.loads(metadata["incidents"])))


def _finite(states: Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.asarray(np.isfinite(states).all(axis=tuple(range(1, states.ndim))))


def _states_at_once(solver: Solver) -> int | None:
    """Return the states that a solver advances at once, each by itself; None if states of one call may affect each other."""
    statewise = next((value for value in vars(solver).values() if isinstance(value, PerStateCaller)), None)
    if statewise is not None and not getattr(solver, "_batched", False):
        return statewise.at_once
    return 1 if solver.spec.max_batch == 1 or isinstance(solver, BMISolver) else None


def _spec_text(spec: SolverSpec) -> str:
    """Write a spec as text, its mask as digest."""
    return json.dumps([entries_but_mask(spec), digest([], [spec.active()])], default=str)


def other_runs(run: Path, start: Path | None) -> list[Path]:
    """List folders of other runs that may hold the same steps: the one that a run starts from, and those beside it."""
    beside = sorted(file.parent for file in run.parent.glob(f"*/{FIRST_STEPS}"))
    folders = dict.fromkeys([*([] if start is None else [start]), *beside])
    return [folder for folder in folders if folder.resolve() != run.resolve()]
