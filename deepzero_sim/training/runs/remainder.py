"""Trainings that have not come to their end: what of them is still to be done."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepzero_sim.common.documents import read_json
from deepzero_sim.common.files import read_text, write_text
from deepzero_sim.errors import ConfigError, RunError
from deepzero_sim.training.checkpoints import CONFIG, SAVED, Checkpoint, load_checkpoint
from deepzero_sim.training.progress import progress_of
from deepzero_sim.training.runs.defaults import Resolved
from deepzero_sim.training.runs.folders import last_stage
from deepzero_sim.training.runs.trained_run import run_settings

#: File of a run with stages that lists all of them, those that have not begun, too.
STAGES = "stages.json"


@dataclass(frozen=True)
class Remainder:
    """Rest of a training that was planned and is not done.

    Args:
        run: Folder of the run.
        method: Method of the training that was begun last.
        done: Number of its updates that are done.
        planned: Number of its updates.
        stages: Methods of the stages after it, none of which has begun.
        is_saved: True of a loop that was saved before its training was done.
    """

    run: Path
    method: str
    done: int
    planned: int
    stages: Sequence[str] = ()
    is_saved: bool = False

    @property
    def words(self) -> str:
        """Clauses on what is done, and what has not begun."""
        updates = f"{self.done:,} of {self.planned:,} planned updates of {self.method} are done"
        one = len(self.stages) == 1
        stages = f"the stage{'' if one else 's'} {', '.join(self.stages)} {'has' if one else 'have'} not begun"
        said = [*([updates] if self.done < self.planned else []), *([stages] if self.stages else [])]
        return ", and ".join(said)

    @property
    def sentence(self) -> str:
        """Sentence on what is done, and how to go on."""
        if self.is_saved:
            return (
                f"The loop in {self.run} was saved before its training was finished ({self.words}): finish that, and save it "
                "again."
            )
        return (
            f"The training of {self.run} is not finished: {self.words}; go on by the same call of 'deepzero-sim train' or "
            "dz.train."
        )


def remainder_of(path: Path, load: Callable[[Path], Checkpoint] = load_checkpoint) -> Remainder | None:
    """Return what of a run's training is not done; None if nothing is left, or nothing is trained.

    Args:
        path: Run folder; of one with stages, the folder of all or of one of them.
        load: Function that reads the checkpoint of a folder.

    Raises:
        RunError: There is no trained run, or its list of stages was changed.
    """
    folder = last_stage(path)
    settings = run_settings(folder)
    if settings.method == "SRC":
        return None
    checkpoint = load(folder)
    names = _stages_with(folder)
    done, stages = progress_of(checkpoint, folder).step, _stages_after(folder, names)
    if done >= settings.updates and not stages:
        return None
    return Remainder(
        folder.parent if names else path, settings.method, done, settings.updates, stages, bool(checkpoint.state.get(SAVED))
    )


def note_stages(planned: Sequence[Resolved]) -> None:
    """Write down which stages a run is to have, so that one that was interrupted is known to be.

    Args:
        planned: Settings of its stages; of a run without stages nothing is written.
    """
    names = [stage.settings.run.name for stage in planned]
    if names != [f"{number}-{stage.settings.method}" for number, stage in enumerate(planned, start=1)]:
        return
    folder = planned[0].settings.run.parent
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"stages": names}) + "\n"
    if not (folder / STAGES).exists() or read_text(folder / STAGES, "the stages of a run") != text:
        write_text(folder / STAGES, text)


def _stages_after(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Return the methods of the stages after one, if none of them has begun.

    Args:
        folder: Folder of a stage.
        names: Names of all stages; empty of a run that is none.
    """
    after = names[names.index(folder.name) + 1 :] if names else []
    if any((folder.parent / name / CONFIG).exists() for name in after):
        return ()
    return tuple(name.partition("-")[2] for name in after)


def _stages_with(folder: Path) -> list[str]:
    """Return the names of all stages of the run that a folder is a stage of; none if it is none, or nobody wrote them down."""
    file = folder.parent / STAGES
    names = _read_stages(file) if file.exists() else []
    return names if folder.name in names else []


def _read_stages(file: Path) -> list[str]:
    try:
        names = read_json(read_text(file, "the stages of a run"))["stages"]
    except (ConfigError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(f"{file} was changed or damaged ({error}): restore what it was, or delete it.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RunError(f"{file} must hold a list of the stages' names, not {names!r}: restore what it was, or delete it.")
    return names
