"""Loops that were trained, and folders that they are saved to."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepzero_sim.common.documents import write_yaml
from deepzero_sim.common.files import digest, write_text
from deepzero_sim.common.requirements import require_type
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.errors import ConfigError, RunError
from deepzero_sim.solver.spec import SolverSpec, entries_but_mask
from deepzero_sim.training.checkpoints import (
    CHECKPOINT,
    CONFIG,
    SAVED,
    STARTED,
    STATE,
    Checkpoint,
    RunIdentity,
    Start,
    load_checkpoint,
    save_checkpoint,
    save_start,
    storable_copies,
)
from deepzero_sim.training.preparation import PREPARATION, Entry, Preparation
from deepzero_sim.training.progress import Progress

if TYPE_CHECKING:
    from deepzero_sim.training.runs.comparison import Cost

#: Files that it writes.
_FILES = (CONFIG, CHECKPOINT, STATE, PREPARATION, STARTED)

#: Words in a checkpoint's state for the spec of the solver, and within it for the digest of its mask.
_SPEC, _MASK = "spec", "digest of the mask"


@dataclass(frozen=True)
class TrainingRecord:
    """Training that a loop comes from.

    Args:
        settings: Settings of its run, as config.yaml has them.
        start: Start of its run: the folder where relative names in the settings are found, and the code as it was.
        progress: Progress of its last stage.
        cost: Function that returns what the training cost, that of runs it started from included.
        unfinished: Clauses on what of the training is not done; empty if it is finished.
    """

    settings: Mapping[str, Any]
    start: Start
    progress: Progress
    cost: Callable[[], Cost]
    unfinished: str = ""


class TrainedLoop(SolverLoop):
    """Loop of a solver and the corrector that was trained for it, as `dz.train` and `dz.load_run` return it.

    Args:
        loop: Solver and corrector.
        record: Training that they come from; None of the solver alone.
    """

    def __init__(self, loop: SolverLoop, record: TrainingRecord | None) -> None:
        super().__init__(
            loop.solver,
            loop.corrector,
            loop.unroll,
            on_failure=loop.on_failure,
            coupling=loop.coupling,
            trained_params=loop.trained_params,
        )
        self._record = record

    @property
    def _gradient_words(self) -> str:
        """Training that the loop comes from: the gradient that it had there, in place of that which it has now."""
        if self._record is None:
            return super()._gradient_words
        settings, updates = self._record.settings, self._record.progress.step
        way = {"SolverLayer": "vjp", "ZO-SOL": "estimator"}.get(settings["method"])
        by = f" with {settings[way]['name'].rpartition('.')[2]}" if way else ""
        unfinished = f" (unfinished: {self._record.unfinished})" if self._record.unfinished else ""
        return f"trained by {settings['method']}{by}, {updates} updates{unfinished}"

    def save(self, path: str | Path) -> None:
        """Save the loop, with the network as it is now, in a folder that `dz.load_run` reads.

        The folder is a run that has ended, of what it takes to use it: settings, network and costs.

        Args:
            path: Folder; one that was saved before is replaced.

        Raises:
            RunError: The folder holds something else.
            ConfigError: There is nothing to save: the loop is the solver alone.
        """
        require_type(path, (str, Path), "path must be that of a folder")
        folder = Path(path).expanduser().resolve()
        if self._record is None:
            raise ConfigError("this loop is the solver alone, and nothing was trained: there is nothing to save.")
        _require_own(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            self._write(aside, self._record)
            if folder.exists():
                shutil.rmtree(folder)
            aside.replace(folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    def _write(self, folder: Path, record: TrainingRecord) -> None:
        spent, progress = record.cost(), record.progress
        origin = Path(record.start.folder or "").absolute()
        settings = {key: _absolute(key, value, origin) for key, value in record.settings.items()} | {"start": None}
        identity = RunIdentity({key: write_yaml(value, sort_keys=True) for key, value in settings.items()}, {})
        write_text(folder / CONFIG, write_yaml(settings))
        save_start(folder, record.start._replace(folder=str(origin), updates=settings["updates"]))
        before = spent.solver_steps - progress.solver_steps - progress.validation_steps
        entry = Entry("before the last stage's updates", before, spent.seconds, spent.found)
        Preparation(folder / PREPARATION, identity.name).add(entry)
        total = replace(progress, seconds=spent.seconds, failures=dict(spent.failures))
        tensors = {f"network.{name}": tensor for name, tensor in storable_copies(self.model.state_dict()).items()}
        state = {"progress": asdict(total), SAVED: True, _SPEC: _describe(self.solver.spec)}
        save_checkpoint(folder, Checkpoint(tensors, state), identity)


def _absolute(key: str, value: Any, origin: Path) -> Any:
    """Write paths of data, which are found from a folder, so that they are found from any other."""
    if key not in ("train_data", "validation_data") or value is None:
        return value
    if isinstance(value, Mapping):
        return {**value, "path": str((origin / value["path"]).resolve())}
    return str((origin / value).resolve())


def _describe(spec: SolverSpec) -> dict[str, Any]:
    """Write a spec as JSON holds it."""
    entries: dict[str, Any] = json.loads(json.dumps(entries_but_mask(spec), default=str))
    return {**entries, _MASK: digest([], [spec.active()])}


def differences_to_saved(checkpoint: Checkpoint, spec: SolverSpec) -> dict[str, tuple[Any, Any]] | None:
    """Return what a solver's spec says otherwise than that of a loop which was saved: both values, the saved one first.

    Args:
        checkpoint: Checkpoint of the folder that the loop was saved in.
        spec: Spec of the solver.

    Returns:
        Differences by the names of the fields; None if the checkpoint knows no spec.
    """
    saved = checkpoint.state.get(_SPEC)
    if not isinstance(saved, dict):
        return None
    ours = _describe(spec)
    return {key: (saved.get(key), ours.get(key)) for key in {**saved, **ours} if saved.get(key) != ours.get(key)}


def _require_own(folder: Path) -> None:
    """Refuse a folder that holds something else than a loop that was saved."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir() or not (folder / CHECKPOINT).is_file() or not load_checkpoint(folder).state.get(SAVED):
        raise RunError(f"{folder} holds something else than a loop that was saved: name another folder.")
    others = sorted(file.name for file in folder.iterdir() if file.name not in _FILES)
    if others:
        raise RunError(f"{folder} holds {others[0]} besides a loop that was saved: take it away, or name another folder.")
