"""Checkpoints of a training, and the schedule by which they are written: now and then, at the end, and when it is interrupted.

A checkpoint is one safetensors file with network, optimiser and counters. It names its run's settings and holds a checksum: a
changed number, a flipped bit or another run's file is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, final

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from deepzero_sim.common.documents import read_json, read_yaml, write_yaml
from deepzero_sim.common.files import digest, digest_of_named, read_text, replace_tensor_file, require_regular, write_text
from deepzero_sim.common.requirements import is_count, require_that
from deepzero_sim.common.types import NamedTensors
from deepzero_sim.errors import ConfigError, RunError
from deepzero_sim.training import file_names

CONFIG = file_names.CONFIG
CHECKPOINT = "checkpoint.safetensors"
STATE = "state.json"
SNAPSHOTS = "snapshots"
STARTED = "started.json"

#: Word in the state of a checkpoint that is of a loop which was saved, and of no run.
SAVED = "saved"


@dataclass(frozen=True)
class Checkpoint:
    """State of a training between two steps.

    Args:
        tensors: Tensors by name.
        state: Everything else, as JSON.
        run: Name of its run, if it was read.
    """

    tensors: NamedTensors
    state: dict[str, Any]
    run: str = ""


class RunIdentity(NamedTuple):
    """Identity of a run, as its checkpoints store it.

    Args:
        settings: Settings that change what is computed, each as YAML.
        contents: Digests of files that settings name.
    """

    settings: dict[str, str]
    contents: dict[str, str]

    @property
    def words(self) -> str:
        """Text of the identity."""
        return json.dumps(self, sort_keys=True)

    @property
    def name(self) -> str:
        """Digest of the identity."""
        return digest([self.words])


class Start(NamedTuple):
    """Start of a run, which is no part of its identity.

    Args:
        folder: Folder in which it was started, where relative names in its settings are found; None if it is not known.
        updates: Number of updates that it was started with: it may have been made longer.
        code: Digest of each file of code that its settings name, as it was then.
    """

    folder: str | None
    updates: int
    code: Mapping[str, str] = MappingProxyType({})


def save_start(path: Path, start: Start) -> None:
    """Note the start of a run in its folder."""
    said = start._asdict() if start.code else {"folder": start.folder, "updates": start.updates}
    write_text(path / STARTED, json.dumps(said) + "\n")


def read_start(path: Path) -> Start | None:
    """Read the start of a run; None if it was made before this was noted.

    Raises:
        RunError: It was changed.
    """
    file = path / STARTED
    if not file.exists():
        return None
    try:
        start = Start(**read_json(read_text(file, "the start of a run")))
    except (ConfigError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{file} was changed or damaged ({error}): restore what it was.") from error
    known = start.folder is None or (isinstance(start.folder, str) and Path(start.folder).is_absolute())
    known = known and isinstance(start.code, Mapping) and all(isinstance(digest, str) for digest in start.code.values())
    require_that(known and is_count(start.updates), f"{file} cannot say {start._asdict()!r}: restore what it was.", RunError)
    return start


def snapshot(path: Path, step: int) -> Path:
    """Name the folder of a checkpoint that a run keeps for good, which :func:`load_checkpoint` reads."""
    return path / SNAPSHOTS / f"{step:06d}"


def save_checkpoint(folder: Path, checkpoint: Checkpoint, identity: RunIdentity) -> None:
    """Replace the checkpoint of a folder; a kill at any moment leaves the old one or the new one.

    Raises:
        OSError: No space is left; the old one stands.
    """
    words = {"state": json.dumps(checkpoint.state), "run": identity.words}
    checksum = digest_of_named(list(words.values()), checkpoint.tensors)
    with replace_tensor_file(folder / CHECKPOINT, f"the checkpoint in {folder}") as aside:
        save_file(_encode(checkpoint.tensors), aside, metadata={**words, "sha256": checksum})
    write_text(folder / STATE, state_text(checkpoint))


#: Behind the name of a tensor of complex128, which safetensors has no word for: it is stored as real and imaginary parts.
_IN_PARTS = " (complex128)"


def _encode(tensors: NamedTensors) -> NamedTensors:
    parts = {f"{name}{_IN_PARTS}": torch.view_as_real(t) for name, t in tensors.items() if t.dtype == torch.complex128}
    return {name: tensor for name, tensor in tensors.items() if tensor.dtype != torch.complex128} | parts


def _decode(tensors: NamedTensors) -> NamedTensors:
    return {
        # a copy: the file's memory may not lie as torch needs it for numbers of 16 bytes, which ends the process
        name.removesuffix(_IN_PARTS): torch.view_as_complex(tensor.clone()) if name.endswith(_IN_PARTS) else tensor
        for name, tensor in tensors.items()
    }


def state_text(checkpoint: Checkpoint) -> str:
    """Write the counters of a checkpoint, for people."""
    return json.dumps(checkpoint.state, indent=2) + "\n"


def storable_copies(tensors: dict[str, torch.Tensor]) -> NamedTensors:
    """Copy tensors to contiguous main memory, as safetensors takes them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def load_checkpoint(path: Path) -> Checkpoint:
    """Load the checkpoint of a run folder, or of one of its snapshots.

    Raises:
        RunError: There is none, or it is damaged, foreign or another run's.
    """
    return load_with_identity(path)[0]


class CheckpointReader:
    """Reader of checkpoints that reads each one once."""

    def __init__(self) -> None:
        self._read: dict[Path, Checkpoint] = {}

    def __call__(self, path: Path) -> Checkpoint:
        """Read the checkpoint of a run folder.

        Raises:
            RunError: There is none, or it is damaged.
        """
        key = path.resolve()
        if key not in self._read:
            self._read[key] = load_checkpoint(path)
        return self._read[key]


def load_with_identity(path: Path) -> tuple[Checkpoint, RunIdentity]:
    """Load a checkpoint, and the identity of its run; see :func:`load_checkpoint`."""
    file = path / CHECKPOINT
    require_that(
        file.exists(),
        f"expected a trained run in {path}, but there is no {CHECKPOINT}: train it first, or check the path.",
        RunError,
    )
    require_regular(file)
    try:
        checkpoint, identity = _read(file)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise RunError(
            f"{file} is not a checkpoint of this package ({type(error).__name__}: {error}): "
            "delete it to train anew, or restore it."
        ) from error
    in_snapshot = path.parent.name == SNAPSHOTS
    folder = path.parents[1] if in_snapshot else path
    if (folder / CONFIG).exists():
        start = read_start(folder)
        longer = {} if start is None else {"updates": start.updates}
        _require_settings(file, identity, read_settings(folder) | longer)
    if in_snapshot and path.name.isdecimal() and _step(checkpoint) != int(path.name):
        raise RunError(f"{file} is a checkpoint of training step {_step(checkpoint)}, not {int(path.name)}: restore it.")
    return checkpoint, identity


def _read(file: Path) -> tuple[Checkpoint, RunIdentity]:
    with safe_open(file, framework="pt") as opened:
        tensors = _decode({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118 - not a dict
        metadata = opened.metadata() or {}
    state = read_json(metadata["state"])
    if "sha256" not in metadata:
        raise ValueError("it has no checksum, as those of earlier versions")
    if digest_of_named([metadata["state"], metadata["run"]], tensors) != metadata["sha256"]:
        raise ValueError("its content does not fit its checksum: it was changed or damaged")
    identity = RunIdentity(*read_json(metadata["run"]))
    return Checkpoint(tensors, state, identity.name), identity


def _require_settings(file: Path, identity: RunIdentity, settings: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that was not made with the settings of the folder it lies in."""
    for key, value in identity.settings.items():
        if write_yaml(settings.get(key), sort_keys=True) != value:
            raise RunError(
                f"{file} is of another run, it holds another {key} than {CONFIG} says ({read_yaml(value)!r}, not "
                f"{settings.get(key)!r}): restore the one or the other, or delete the checkpoint to train anew."
            )


def _step(checkpoint: Checkpoint) -> Any:
    progress = checkpoint.state.get("progress")
    return progress.get("step") if isinstance(progress, dict) else None


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings that a run folder was made with.

    Raises:
        RunError: It is no run folder, or its config.yaml is damaged.
    """
    config = path / CONFIG
    require_that(
        config.exists(), f"expected a run folder at {path}, but there is no config.yaml in it: check the path.", RunError
    )
    try:
        settings: dict[str, Any] = read_yaml(read_text(config, "the settings of a run"))
    except ConfigError as error:
        raise RunError(f"{config} cannot be read as YAML: {error}") from error
    except yaml.YAMLError as error:
        raise RunError(f"{config} cannot be read as YAML: restore it or delete the folder.") from error
    require_that(
        isinstance(settings, dict),
        f"{config} must hold settings as key: value lines, not {type(settings).__name__}: restore it.",
        RunError,
    )
    return settings


#: Seconds after which a checkpoint is written, however few training steps were done: it takes a fraction of one.
WRITE_SECONDS = 60.0

#: Seconds after which one is copied in memory: it takes a fraction of a hundredth.
COPY_SECONDS = 1.0


@final
class CheckpointSchedule:
    """Writer of one training's checkpoints; a context, which Ctrl-C leaves with the latest one written.

    Ctrl-C may come in the middle of an update, or while weights are moved for a query. So a copy that was made between two
    training steps is written then, at most a second of training old.

    Args:
        save: Function that writes a checkpoint.
        make: Function that copies the state of the training to a checkpoint.
        every: Number of training steps between those that are written; fewer where they take long.
    """

    def __init__(self, save: Callable[[Checkpoint], None], make: Callable[[], Checkpoint], every: int) -> None:
        self._save, self._make, self._every = save, make, every
        self._unwritten: Checkpoint | None = None
        self._written, self._copied = time.monotonic(), float("-inf")

    def __enter__(self) -> CheckpointSchedule:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt) and self._unwritten is not None:
            self._save(self._unwritten)

    def after_step(self, step: int, *, last: bool) -> None:
        """Write or copy a checkpoint if one is due after a training step, or if it was the last one; see :meth:`write`."""
        now = time.monotonic()
        if last or step % self._every == 0 or now - self._written > WRITE_SECONDS:
            self.write()
        elif now - self._copied > COPY_SECONDS:
            self._unwritten, self._copied = self._make(), now

    def write(self) -> None:
        """Write a checkpoint now, or raise an OSError if no space is left; the old one stands."""
        self._unwritten = self._make()
        self._save(self._unwritten)
        self._unwritten, self._written = None, time.monotonic()
