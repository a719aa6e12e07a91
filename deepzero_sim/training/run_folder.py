"""Run folder: settings, metrics, checkpoint and results of one training, so that a killed run can go on.

config.yaml              the resolved settings; a folder is never used with others
started.json             the folder in which the run was started, and the number of updates it had then
metrics.jsonl            one line a training step
validation.jsonl         one line a measurement of the network on rollouts that training does not see
accuracy.jsonl           one line an epoch, of a classifier
failures.jsonl           one line a failure of a solver step: its kind, what was done, the query, the working folder kept
events.out.tfevents.*    the same for TensorBoard
checkpoint.safetensors   network, optimiser and counters, replaced as a whole
state.json               the counters of the checkpoint, for people to read
first_steps.safetensors  the solver's step from every frame of the data, with which all rollouts begin
preparation.jsonl        what was asked of the solver besides training steps, and how long it took
snapshots/<step>/        checkpoints of earlier training steps, if any were to be kept
jacobians.safetensors    what Auto, a ReferenceJacobian or JacobianField measured of the solver, if it names no other file
answers.jsonl            answers to the queries of a long gradient that is on its way
ratios.json              how the active coordinates are divided among layers, if not all are active
results.json, report.md  what `evaluate` found

Files that a run reads again name their run and hold a checksum: a changed number, a flipped bit or another run's is refused.
"""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepzero_sim.common.documents import read_yaml, write_yaml
from deepzero_sim.common.files import require_regular, write_text
from deepzero_sim.common.requirements import require_that
from deepzero_sim.errors import RunError
from deepzero_sim.solver.failure_policy import Incident, incident_to_dict
from deepzero_sim.training.checkpoints import (
    CHECKPOINT,
    CONFIG,
    STATE,
    Checkpoint,
    RunIdentity,
    Start,
    load_with_identity,
    read_settings,
    read_start,
    save_checkpoint,
    save_start,
    snapshot,
    state_text,
)
from deepzero_sim.training.code_files import digests_of_code
from deepzero_sim.training.preparation import PREPARATION
from deepzero_sim.training.ratios_file import RATIOS

FIRST_STEPS = "first_steps.safetensors"
METRICS = "metrics.jsonl"
ACCURACY = "accuracy.jsonl"
ANSWERS = "answers.jsonl"
FAILURES = "failures.jsonl"
JACOBIANS = "jacobians.safetensors"
VALIDATION = "validation.jsonl"

#: Files that a run writes when it has its settings, and that nothing else protects.
_FILES = (CHECKPOINT, STATE, METRICS, VALIDATION, ACCURACY, FAILURES, PREPARATION, ANSWERS, RATIOS)

#: Setting that may change in a run that may be made longer.
UPDATES = "updates"


class RunFolder:
    """Folder of one run.

    Args:
        path: Path of the folder; made if it is not there.
        settings: Resolved settings of the run, plain values only.
        free: Settings that may differ from those the folder was made with: they do not change what is computed.
        contents: Digests of the files that settings name, by the setting: they make the run, wherever the files lie.
        may_grow: True if the number of `updates` may be another one than the folder was made with: see :meth:`resize`.

    Attributes:
        first_updates: Number of updates that the run was started with, if it may grow; None if it may not.

    Raises:
        RunError: The folder was made by a run with other settings.
    """

    def __init__(
        self,
        path: Path | str,
        settings: dict[str, Any],
        free: Collection[str] = (),
        contents: Mapping[str, str] | None = None,
        *,
        may_grow: bool = False,
    ) -> None:
        self.path = Path(path)
        self.first_updates: int | None = None
        contents = dict(contents or {})
        self._settings = dict(settings)
        self._require_free()
        if may_grow:
            self._start(settings)
            free = (*free, UPDATES)
        self._claim(settings, free)
        named = settings if self.first_updates is None else {**settings, UPDATES: self.first_updates}
        omitted = {*free, *contents} - ({UPDATES} if may_grow else set())
        fixed = {key: write_yaml(value, sort_keys=True) for key, value in named.items() if key not in omitted}
        self._identity = RunIdentity(fixed, contents)

    def _require_free(self) -> None:
        """Refuse a folder that is no run, but has files of a run's names: they would be written anew, or read as its own."""
        there = next((name for name in _FILES if os.path.lexists(self.path / name)), None)
        require_that(
            there is None or (self.path / CONFIG).exists(),
            f"{self.path} holds {'a checkpoint' if there == CHECKPOINT else there} but no config.yaml that says how it was "
            "made: restore that, or name another folder with --run.",
            RunError,
        )

    def _start(self, settings: dict[str, Any]) -> None:
        """Note where and for how many updates the run is started, or read it."""
        known = read_start(self.path)
        if known is None and (self.path / CONFIG).exists():  # made before this was noted
            updates = read_settings(self.path).get(UPDATES)
            known = Start(None, updates if isinstance(updates, int) else settings[UPDATES])
        elif known is None:
            known = Start(str(Path.cwd()), settings[UPDATES], digests_of_code(settings))
            if not (self.path / CHECKPOINT).exists():
                save_start(self.path, known)
        self.first_updates = known.updates

    def resize(self) -> None:
        """Write down that the run has another number of updates now; the caller has looked that no more were done."""
        if self.first_updates is None or read_settings(self.path).get(UPDATES) == self._settings[UPDATES]:
            return
        if read_start(self.path) is None:
            save_start(self.path, Start(None, self.first_updates))
        write_text(self.path / CONFIG, write_yaml(self._settings))

    @property
    def name(self) -> str:
        """Digest of everything that the run's results depend on."""
        return self._identity.name

    def _claim(self, settings: dict[str, Any], free: Collection[str]) -> None:
        config = self.path / CONFIG
        text = write_yaml(settings)
        if not config.exists():
            write_text(config, text)
            return
        known = read_settings(self.path)
        given = read_yaml(text)
        changed = sorted(key for key in {*known, *given} - {*free} if known.get(key) != given.get(key))
        if changed:
            key = changed[0]
            raise RunError(
                f"{self.path} holds a run with other settings ({key} is {known.get(key)!r} there, {settings.get(key)!r} here): "
                "name another folder with --run, use the settings of its config.yaml, or delete it to start afresh."
            )

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep other processes from training in this folder; the system lifts the lock when this one ends, however it does.

        Raises:
            RunError: Another process trains here.
        """
        if os.name != "posix":
            yield
            return
        import fcntl  # noqa: PLC0415 - not on every platform

        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(folder)
            raise RunError(
                f"another process is training in {self.path}: wait for it, end it, or name another folder with --run."
            ) from error
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            os.close(folder)

    def append_metrics(self, metrics: dict[str, Any], name: str = METRICS) -> None:
        """Add a line to a file of metrics."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def append_failures(self, step: int, incidents: Sequence[Incident]) -> None:
        """Append to `failures.jsonl` what happened in a training step, if anything did."""
        if incidents:
            with (self.path / FAILURES).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(incident_to_dict(step, one)) + "\n" for one in incidents)

    def metrics(self) -> list[dict[str, Any]]:
        """Read the lines of `metrics.jsonl`; see :func:`read_metrics`."""
        return read_metrics(self.path / METRICS)

    def rewrite_metrics(self, lines: Sequence[dict[str, Any]], name: str) -> None:
        """Write a file of metrics anew where it does not hold these lines: a kill came between, or somebody changed it."""
        path = self.path / name
        if not path.exists() or read_metrics(path) != lines:
            write_text(path, "".join(json.dumps(line) + "\n" for line in lines))

    def drop_metrics_after(self, step: int) -> None:
        """Drop what a killed run had logged beyond its checkpoint: those steps are done again.

        No training needs these files. Damaged lines are dropped with a warning, and the file as it was is set aside.
        """
        for path in (self.path / name for name in (METRICS, ACCURACY, VALIDATION, FAILURES)):
            if path.exists():
                lines, damaged = _lines(path)
                if damaged:
                    _set_aside(path, len(damaged))
                write_text(path, "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= step))

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint; a kill at any moment leaves the old one or the new one.

        Raises:
            OSError: No space is left; the old one stands.
        """
        save_checkpoint(self.path, checkpoint, self._identity)

    def save_snapshot(self, checkpoint: Checkpoint, step: int) -> None:
        """Keep a checkpoint for good, besides the one to go on from."""
        save_checkpoint(snapshot(self.path, step), checkpoint, self._identity)

    def load(self) -> Checkpoint | None:
        """Load the checkpoint; None if there is none yet.

        Raises:
            RunError: It is damaged, or another run's, or was trained on other contents of the same files.
        """
        if not (self.path / CHECKPOINT).exists():
            return None
        checkpoint, identity = load_with_identity(self.path)
        for key, content in self._identity.contents.items():
            require_that(
                identity.contents.get(key) == content,
                f"the run in {self.path} was trained with a {key} that held something else than it does now: restore that "
                "file, or name another folder with --run.",
                RunError,
            )
        return checkpoint

    def rewrite_state(self, checkpoint: Checkpoint) -> None:
        """Write the counters for people anew where they are not the checkpoint's: a kill came between the two, or somebody."""
        path, text = self.path / STATE, state_text(checkpoint)
        require_regular(path)
        if not path.exists() or path.read_bytes() != text.encode():
            write_text(path, text)


def _set_aside(path: Path, damaged: int) -> None:
    aside = next(name for n in itertools.count() if not (name := path.with_name(f"{path.name}.damaged{n or ''}")).exists())
    path.replace(aside)
    warnings.warn(f"{damaged} lines of {path} were damaged and are left out; the file as it was is {aside}.", stacklevel=3)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a file of metrics; a last line that was cut off by a kill or a power cut is left out.

    Raises:
        RunError: The file is damaged.
    """
    lines, damaged = _lines(path)
    if damaged:
        raise RunError(
            f"{path} must hold one JSON object a line, but it is damaged ({damaged[0]}): remove the lines that are not, or "
            "delete it; the checkpoint does not need it."
        )
    return lines


def _lines(path: Path) -> tuple[list[dict[str, Any]], list[ValueError]]:
    """Read the lines of a file of metrics except a torn last one, and the errors of those that are damaged."""
    require_regular(path)
    lines: list[dict[str, Any]] = []
    damaged: list[ValueError] = []
    written = [line for line in path.read_bytes().split(b"\n")[:-1] if line.strip()] if path.exists() else []
    for place, line in enumerate(written, start=1):
        try:
            lines.append(_parse_metrics(line))
        except (ValueError, RecursionError) as error:
            if place < len(written):
                damaged.append(ValueError(str(error)))
    return lines, damaged


def _parse_metrics(line: bytes) -> dict[str, Any]:
    metrics = json.loads(line.decode("utf-8"))
    if not isinstance(metrics, dict) or not isinstance(metrics.get("step"), int):
        raise ValueError(f"no training step in {line[:40]!r}")  # noqa: TRY004 - handled like what JSON raises
    return metrics
