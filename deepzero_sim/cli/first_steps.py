"""The solver's step from every frame of the data, kept in the run folder: asked for once, however often a run is started.

All rollouts begin with these steps, and they do not depend on the network. What was taken before a kill is read again, and so
is what another run took of the same solver on the same data: of what is read some steps are taken again and compared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from deepzero_sim.common.checksums import digest, digest_of_named
from deepzero_sim.common.components import Component
from deepzero_sim.common.files import replace_tensor_file, require_regular
from deepzero_sim.common.types import Array
from deepzero_sim.connectors import BMISolver
from deepzero_sim.connectors.per_state import PerStateCaller
from deepzero_sim.datasets.batches import CALL, advance_part
from deepzero_sim.datasets.trajectories import Trajectories, as_batch
from deepzero_sim.errors import RunError
from deepzero_sim.execution.executors import single_threaded
from deepzero_sim.solver.contract import Solver, SolverSpec
from deepzero_sim.solver.failure_policy import FailureLog, FailurePolicy, Incident
from deepzero_sim.solver.stepping import advance, leave_out
from deepzero_sim.training.checkpoint_file import CONFIG
from deepzero_sim.training.preparation import PREPARATION, Entry, Preparation
from deepzero_sim.training.run_folder import FIRST_STEPS, RunFolder

FORMAT = "deepzero-sim first steps 1"

#: Seconds from one writing of the file to the next, at least; and how many times as long as it takes to write it.
WRITE_SECONDS, WRITE_SHARE = 1.0, 20.0

#: Of steps that are read, those that are taken again.
CHECKED = 2


class _Kept(NamedTuple):
    """What a file holds.

    Args:
        key: a digest of all that the steps depend on, as far as it can be told without asking the solver.
        advanced: `(M, C, *N)`, of the first `M` frames, simulation after simulation; NaN where a step was left out.
        incidents: failures on the way.
    """

    key: str
    advanced: Array
    incidents: tuple[Incident, ...] = ()


class FirstSteps:
    """The steps of one solver from the frames of one training.

    Args:
        solver: the coarse one.
        component: it was made of.
        data: reference frames.
        policy: what is done about a step that fails. One that is dropped is NaN: no rollout starts there.
        log: where that is noted.
    """

    def __init__(
        self, solver: Solver, component: Component, data: Trajectories, policy: FailurePolicy, log: FailureLog
    ) -> None:
        self._solver, self._policy, self._log = solver, policy, log
        self._shape = data.frames[:, :-1].shape
        self._states, self._params = as_batch(data.frames[:, :-1], data.params)
        given = [self._states] if self._params is None else [self._states, self._params]
        self._key = digest([FORMAT, json.dumps(asdict(component), default=str), _words(solver.spec)], given)
        at_once = _apart(solver)
        self._size = CALL if at_once is None else min(CALL, 4 * at_once)  # a kill loses little
        self._together = CALL if at_once is None else 1

    def take(self, path: Path, claim: Callable[[], RunFolder], elsewhere: Sequence[Path] = (), *, fresh: bool = True) -> Array:
        """Read the steps that are kept, or found in other runs, and take those that are not: `(S, T-1, C, *N)`.

        Args:
            path: the run folder; it is not claimed before there is something to keep.
            claim: gives the run.
            elsewhere: folders of other runs that may hold them.
            fresh: whether failures that were met before are to be noted: no checkpoint counts them.

        Raises:
            SolverError: a step failed, and the policy ends the run; what was taken before is kept.
            RunError: what is kept was changed, or is of another solver or other data.
        """
        with ExitStack() as stack, single_threaded():
            keeper = _Keeper(path / FIRST_STEPS, claim, stack)
            kept = self._own(keeper) or self._found(elsewhere, keeper) or _Kept(self._key, self._states[:0])
            self._log.incidents += kept.incidents if fresh else ()
            advanced = self._taken(kept, keeper)
        return np.reshape(advanced, self._shape)

    def _taken(self, kept: _Kept, keeper: _Keeper) -> Array:
        """All steps: those that are not kept are taken, a call after the other, and kept on the way."""
        advanced = np.concatenate([kept.advanced, np.empty_like(self._states[len(kept.advanced) :])])
        try:
            for first in range(len(kept.advanced), len(self._states), self._size):
                happened = FailureLog()
                end = min(first + self._size, len(self._states))
                advanced[first:end] = self._advance(first, end, happened)
                self._log.incidents += happened.incidents
                kept = kept._replace(advanced=advanced[:end], incidents=(*kept.incidents, *happened.incidents))
                keeper.add(end - first + happened.extra_steps)
                if keeper.due:
                    keeper.write(kept)
        finally:
            keeper.write(kept)
        return advanced

    def _advance(self, first: int, end: int, log: FailureLog) -> Array:
        return advance_part(self._solver, self._states, self._params, slice(first, end), self._shape[1], self._policy, log)

    def _own(self, keeper: _Keeper) -> _Kept | None:
        """What this run kept.

        Raises:
            RunError: it was changed, or is of another solver or other data.
        """
        file = keeper.file
        if not file.exists():
            return None
        remedy = "restore what it was, or delete that file to have them taken anew"
        try:
            kept = _read(file)
        except _DAMAGE as error:
            raise RunError(
                f"{file} does not hold first steps of this package ({type(error).__name__}: {error}): {remedy}."
            ) from error
        if kept is None or not self._fits(kept):
            raise RunError(f"{file} holds the steps of another solver, or from other frames: {remedy}.")
        if self._solver.spec.deterministic and not self._agrees(kept.advanced, keeper):
            raise RunError(
                f"solver {self._solver.spec.name!r} gives other steps now than those that {file} holds: restore the solver "
                "that the run began with, or delete the folder to start afresh."
            )
        return kept

    def _found(self, elsewhere: Sequence[Path], keeper: _Keeper) -> _Kept | None:
        """What another run kept of these steps; nothing of a solver that need not give the same again."""
        if not self._solver.spec.deterministic:
            return None
        for folder in elsewhere:
            advanced = self._usable(folder / FIRST_STEPS)
            if len(advanced) and self._agrees(advanced, keeper):
                keeper.take_over(_Kept(self._key, advanced), folder)
                return _Kept(self._key, advanced)
        return None

    def _usable(self, file: Path) -> Array:
        """The steps of another run's file up to the first that failed, in whole calls."""
        nothing = self._states[:0]
        try:
            kept = _read(file, self._key) if file.is_file() else None
        except _DAMAGE:  # somebody else's: they are told when they go on
            return nothing
        if kept is None or not self._fits(kept):
            return nothing
        failed = np.flatnonzero(~_finite(kept.advanced))
        return kept.advanced[: failed[0] // self._together * self._together] if len(failed) else kept.advanced

    def _fits(self, kept: _Kept) -> bool:
        """Whether a file holds these steps, in whole calls."""
        count, advanced = len(kept.advanced), kept.advanced
        whole = count == len(self._states) or (count < len(self._states) and count % self._together == 0)
        form = advanced.shape[1:] == self._states.shape[1:] and advanced.dtype == self._states.dtype
        return kept.key == self._key and form and whole

    def _agrees(self, advanced: Array, keeper: _Keeper) -> bool:
        """Whether the solver gives some of the steps again."""
        known = np.flatnonzero(_finite(advanced))
        if not len(known):
            return True
        places = sorted({int(known[0]), int(known[len(known) // 2])})
        again = self._again(places, keeper)
        if np.array_equal(again, advanced[places]):
            return True
        # last bits may depend on what is advanced together: ask as it was asked
        first = places[0] // self._together * self._together
        together = list(range(first, min(first + self._together, len(advanced))))
        return np.array_equal(self._again(together, keeper), advanced[together], equal_nan=True)

    def _again(self, places: list[int], keeper: _Keeper) -> Array:
        happened = FailureLog()
        params = None if self._params is None else self._params[places]
        found = advance(self._solver, self._states[places], params, self._policy, happened)
        for place, error in sorted(found.failures.items()):
            leave_out(error, self._policy, happened, "in a step that is taken again, to compare it with the one that is kept")
            found.states[place] = np.nan
        self._log.incidents += happened.incidents
        keeper.checked += len(places) + happened.extra_steps
        return found.states


class _Keeper:
    """Writes steps into a run folder, and what they took.

    Args:
        file: where.
        claim: gives the run.
        stack: in which the folder is kept from others.
    """

    def __init__(self, file: Path, claim: Callable[[], RunFolder], stack: ExitStack) -> None:
        self.file, self._claim, self._stack = file, claim, stack
        self._preparation: Preparation | None = None
        self._asked, self.checked = 0, 0
        self._noted = self._written = time.perf_counter()
        self._writing = 0.0
        if (file.parent / CONFIG).exists():
            self._claimed()

    def _claimed(self) -> Preparation:
        if self._preparation is None:
            run = self._claim()
            self._stack.enter_context(run.in_use())
            self._preparation = Preparation(run.path / PREPARATION, run.name)
        return self._preparation

    def add(self, asked: int) -> None:
        """Count steps that were asked for."""
        self._asked += asked

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return time.perf_counter() - self._written > max(WRITE_SECONDS, WRITE_SHARE * self._writing)

    def take_over(self, kept: _Kept, folder: Path) -> None:
        """Write what another run had taken."""
        self._note(Entry(f"first steps found in {folder}", found=len(kept.advanced)))
        self._save(kept)

    def write(self, kept: _Kept) -> None:
        """Write what was taken and counted, if anything was; counted first, for it was asked whatever becomes of the file."""
        if self.checked:
            self._note(Entry("first steps taken again, to compare them", self.checked))
            self.checked = 0
        if self._asked:
            self._note(Entry("first steps", self._asked))
            self._asked = 0
            self._save(kept)

    def _note(self, entry: Entry) -> None:
        now = time.perf_counter()
        self._claimed().add(replace(entry, seconds=now - self._noted))
        self._noted = now

    def _save(self, kept: _Kept) -> None:
        started = time.perf_counter()
        words = {"format": FORMAT, "key": kept.key, "incidents": json.dumps(kept.incidents)}
        arrays = {"advanced": np.ascontiguousarray(kept.advanced)}
        checksum = digest_of_named(list(words.values()), arrays)
        with replace_tensor_file(self.file, f"the first steps in {self.file}") as aside:
            save_file(arrays, aside, metadata={**words, "sha256": checksum})
        self._written = time.perf_counter()
        self._writing = self._written - started


#: What reading a file may raise that is none of ours, or damaged.
_DAMAGE = (SafetensorError, OSError, ValueError, KeyError, TypeError)


def _read(file: Path, key: str | None = None) -> _Kept | None:
    """What a file holds; None if it is for another key than the one that is looked for.

    Raises:
        SafetensorError, OSError, ValueError, KeyError, TypeError: it is damaged, or none of ours.
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
    return _Kept(metadata["key"], arrays["advanced"], tuple(Incident(*one) for one in json.loads(metadata["incidents"])))


def _finite(states: Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.asarray(np.isfinite(states).all(axis=tuple(range(1, states.ndim))))


def _apart(solver: Solver) -> int | None:
    """How many states a solver advances at once, each by itself, so that it does not matter which; None if it may matter."""
    statewise = next((value for value in vars(solver).values() if isinstance(value, PerStateCaller)), None)
    if statewise is not None and not getattr(solver, "_batched", False):
        return statewise.at_once
    return 1 if solver.spec.max_batch == 1 or isinstance(solver, BMISolver) else None


def _words(spec: SolverSpec) -> str:
    """A spec in words, its mask as digest."""
    said = {field.name: getattr(spec, field.name) for field in fields(spec) if field.name != "mask"}
    return json.dumps([said, digest([], [spec.active()])], default=str)


def others(run: Path, start: Path | None) -> list[Path]:
    """Folders of other runs that may hold the same steps: the one that a run starts from, and those beside it."""
    beside = sorted(file.parent for file in run.parent.glob(f"*/{FIRST_STEPS}"))
    found = [*([] if start is None else [start]), *beside]
    return [folder for folder in dict.fromkeys(found) if folder.resolve() != run.resolve()]
