"""A run folder: settings, metrics, checkpoint and results of one training, so that a killed run can go on.

config.yaml              the resolved settings; a folder is never used with others
metrics.jsonl            one line a training step
accuracy.jsonl           one line an epoch, of a classifier
failures.jsonl           one line a failure of a solver step: its kind, what was done, the query, the working folder kept
events.out.tfevents.*    the same for TensorBoard
checkpoint.safetensors   network, optimiser and counters, replaced as a whole
state.json               the counters of the checkpoint, for people to read
first_steps.safetensors  the solver's step from every frame of the data, with which all rollouts begin
preparation.jsonl        what was asked of the solver besides training steps, and how long it took
snapshots/<step>/        checkpoints of earlier training steps, if any were to be kept
jacobians.safetensors    what was measured of the solver, of runs with a ReferenceJacobian that names no other file
answers.jsonl            answers to the queries of a long gradient that is on its way
ratios.json              how the active coordinates are divided among layers, if not all are active
results.json, report.md  what `evaluate` found

What a run reads again says whose it is, and holds a checksum: a changed number, a flipped bit or another run's file is refused.
"""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from deepzero_sim.common.checksums import digest, digest_of_named
from deepzero_sim.common.documents import read_json, read_yaml, write_yaml
from deepzero_sim.common.files import read_text, replace_tensor_file, require_regular, write_text
from deepzero_sim.common.types import NamedTensors
from deepzero_sim.errors import ConfigError, RunError
from deepzero_sim.solver.failure_policy import Incident, as_line

CONFIG = "config.yaml"
CHECKPOINT = "checkpoint.safetensors"
STATE = "state.json"
FIRST_STEPS = "first_steps.safetensors"
METRICS = "metrics.jsonl"
ACCURACY = "accuracy.jsonl"
ANSWERS = "answers.jsonl"
FAILURES = "failures.jsonl"
JACOBIANS = "jacobians.safetensors"
SNAPSHOTS = "snapshots"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and everything else as JSON; of one that was read, the name of its run."""

    tensors: NamedTensors
    state: dict[str, Any]
    run: str = ""


class _Identity(NamedTuple):
    """What a run is, as its checkpoints say.

    Args:
        settings: each one that changes what is computed, as YAML.
        contents: digests of files that settings name.
    """

    settings: dict[str, str]
    contents: dict[str, str]

    @property
    def words(self) -> str:
        return json.dumps(self, sort_keys=True)

    @property
    def name(self) -> str:
        return digest([self.words])


class RunFolder:
    """One run's folder.

    Args:
        path: the folder; made if it is not there.
        settings: the run's resolved settings, plain values only.
        free: settings that may differ from those the folder was made with: they do not change what is computed.
        contents: digests of the files that settings name, by the setting: it is they that make the run, wherever they lie.

    Raises:
        RunError: the folder was made by a run with other settings.
    """

    def __init__(
        self,
        path: Path | str,
        settings: dict[str, Any],
        free: Collection[str] = (),
        contents: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        contents = dict(contents or {})
        settled = {key: _canonical(value) for key, value in settings.items() if key not in {*free, *contents}}
        self._identity = _Identity(settled, contents)
        self._claim(settings, free)

    @property
    def name(self) -> str:
        """A digest of all that the run computes depends on."""
        return self._identity.name

    def _claim(self, settings: dict[str, Any], free: Collection[str]) -> None:
        config = self.path / CONFIG
        text = write_yaml(settings)
        if not config.exists():
            if (self.path / CHECKPOINT).exists():
                raise RunError(
                    f"{self.path} holds a checkpoint but no config.yaml that says how it was made: restore that, "
                    "or name another folder with --run."
                )
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
        """Keep other processes from training in this folder; the system lets go when this one ends, however it does.

        Raises:
            RunError: another one does.
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
                file.writelines(json.dumps(as_line(step, one)) + "\n" for one in incidents)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; see :func:`read_metrics`."""
        return read_metrics(self.path / METRICS)

    def forget_metrics_after(self, step: int) -> None:
        """Drop what a killed run had logged beyond its checkpoint: those steps are done again.

        No training needs these files. Lines that are damaged are dropped, the file as it was is kept aside, and it is said.
        """
        for path in (self.path / METRICS, self.path / ACCURACY, self.path / FAILURES):
            if path.exists():
                lines, damaged = _lines(path)
                if damaged:
                    _set_aside(path, len(damaged))
                write_text(path, "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= step))

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint; a kill at any moment leaves the old one or the new one.

        Raises:
            OSError: no space is left; the old one stands.
        """
        _save(self.path, checkpoint, self._identity)

    def keep(self, checkpoint: Checkpoint, step: int) -> None:
        """Keep a checkpoint for good, beside the one to go on from."""
        _save(snapshot(self.path, step), checkpoint, self._identity)

    def load(self) -> Checkpoint | None:
        """The checkpoint, or None if there is none yet.

        Raises:
            RunError: it is damaged, or another run's, or was trained on other contents of the same files.
        """
        if not (self.path / CHECKPOINT).exists():
            return None
        checkpoint, identity = _load(self.path)
        for key, content in self._identity.contents.items():
            if identity.contents.get(key) != content:
                raise RunError(
                    f"the run in {self.path} was trained with a {key} that held something else than it does now: restore that "
                    "file, or name another folder with --run."
                )
        return checkpoint

    def heal_state(self, checkpoint: Checkpoint) -> None:
        """Write the counters for people anew where they are not the checkpoint's: a kill came between the two, or somebody."""
        path, text = self.path / STATE, _for_people(checkpoint)
        require_regular(path)
        if not path.exists() or path.read_bytes() != text.encode():
            write_text(path, text)


def snapshot(path: Path, step: int) -> Path:
    """The folder of a checkpoint that a run keeps for good, which :func:`load_checkpoint` reads."""
    return path / SNAPSHOTS / f"{step:06d}"


def _save(folder: Path, checkpoint: Checkpoint, identity: _Identity) -> None:
    words = {"state": json.dumps(checkpoint.state), "run": identity.words}
    checksum = digest_of_named(list(words.values()), checkpoint.tensors)
    with replace_tensor_file(folder / CHECKPOINT, f"the checkpoint in {folder}") as aside:
        save_file(_as_stored(checkpoint.tensors), aside, metadata={**words, "sha256": checksum})
    write_text(folder / STATE, _for_people(checkpoint))


#: Behind the name of a tensor of complex128, which safetensors has no word for: it is stored as real and imaginary parts.
_IN_PARTS = " (complex128)"


def _as_stored(tensors: NamedTensors) -> NamedTensors:
    return {
        f"{name}{_IN_PARTS}" if tensor.dtype == torch.complex128 else name: (
            torch.view_as_real(tensor) if tensor.dtype == torch.complex128 else tensor
        )
        for name, tensor in tensors.items()
    }


def _from_stored(tensors: NamedTensors) -> NamedTensors:
    return {
        # a copy: the file's memory may not lie as torch needs it for numbers of 16 bytes, which ends the process
        name.removesuffix(_IN_PARTS): torch.view_as_complex(tensor.clone()) if name.endswith(_IN_PARTS) else tensor
        for name, tensor in tensors.items()
    }


def _for_people(checkpoint: Checkpoint) -> str:
    return json.dumps(checkpoint.state, indent=2) + "\n"


def _set_aside(path: Path, damaged: int) -> None:
    aside = next(name for n in itertools.count() if not (name := path.with_name(f"{path.name}.damaged{n or ''}")).exists())
    path.replace(aside)
    warnings.warn(f"{damaged} lines of {path} were damaged and are left out; the file as it was is {aside}.", stacklevel=3)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of metrics; a last line that was cut off by a kill or a power cut is left out.

    Raises:
        RunError: it is damaged.
    """
    lines, damaged = _lines(path)
    if damaged:
        raise RunError(
            f"{path} must hold one JSON object a line, but it is damaged ({damaged[0]}): remove the lines that are not, or "
            "delete it; the checkpoint does not need it."
        )
    return lines


def _lines(path: Path) -> tuple[list[dict[str, Any]], list[ValueError]]:
    """The lines of a file of metrics but a torn last one, and what is wrong with those that are none."""
    require_regular(path)
    lines: list[dict[str, Any]] = []
    damaged: list[ValueError] = []
    written = [line for line in path.read_bytes().split(b"\n")[:-1] if line.strip()] if path.exists() else []
    for place, line in enumerate(written, start=1):
        try:
            lines.append(_metrics(line))
        except (ValueError, RecursionError) as error:
            if place < len(written):
                damaged.append(ValueError(str(error)))
    return lines, damaged


def _metrics(line: bytes) -> dict[str, Any]:
    metrics = json.loads(line.decode("utf-8"))
    if not isinstance(metrics, dict) or not isinstance(metrics.get("step"), int):
        raise ValueError(f"no training step in {line[:40]!r}")  # noqa: TRY004 - of a kind with what JSON raises
    return metrics


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint of a run folder, or of one of its snapshots.

    Raises:
        RunError: there is none, or it is damaged, foreign or another run's.
    """
    return _load(path)[0]


def _load(path: Path) -> tuple[Checkpoint, _Identity]:
    file = path / CHECKPOINT
    if not file.exists():
        raise RunError(f"expected a trained run in {path}, but there is no {CHECKPOINT}: train it first, or check the path.")
    require_regular(file)
    try:
        checkpoint, identity = _read(file)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise RunError(
            f"{file} is not a checkpoint of this package ({type(error).__name__}: {error}): "
            "delete it to train anew, or restore it."
        ) from error
    of_snapshot = path.parent.name == SNAPSHOTS
    folder = path.parents[1] if of_snapshot else path
    if (folder / CONFIG).exists():
        _require_settings(file, identity, read_settings(folder))
    if of_snapshot and path.name.isdecimal() and _step(checkpoint) != int(path.name):
        raise RunError(f"{file} is a checkpoint of training step {_step(checkpoint)}, not {int(path.name)}: restore it.")
    return checkpoint, identity


def _read(file: Path) -> tuple[Checkpoint, _Identity]:
    with safe_open(file, framework="pt") as opened:
        tensors = _from_stored({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118 - not a dict
        metadata = opened.metadata() or {}
    state = read_json(metadata["state"])
    if "sha256" not in metadata:
        raise ValueError("it has no checksum, as those of earlier versions")
    if digest_of_named([metadata["state"], metadata["run"]], tensors) != metadata["sha256"]:
        raise ValueError("its content does not fit its checksum: it was changed or damaged")
    identity = _Identity(*read_json(metadata["run"]))
    return Checkpoint(tensors, state, identity.name), identity


def _require_settings(file: Path, identity: _Identity, settings: Mapping[str, Any]) -> None:
    """Hold a checkpoint to the settings of the folder it lies in.

    Raises:
        RunError: it is another run's.
    """
    for key, value in identity.settings.items():
        if _canonical(settings.get(key)) != value:
            raise RunError(
                f"{file} is of another run, it holds another {key} than {CONFIG} says ({read_yaml(value)!r}, not "
                f"{settings.get(key)!r}): restore the one or the other, or delete the checkpoint to train anew."
            )


def _canonical(value: Any) -> str:
    return write_yaml(value, sort_keys=True)


def _step(checkpoint: Checkpoint) -> Any:
    progress = checkpoint.state.get("progress")
    return progress.get("step") if isinstance(progress, dict) else None


def read_settings(path: Path) -> dict[str, Any]:
    """The settings a run folder was made with.

    Raises:
        RunError: it is no run folder, or its config.yaml is damaged.
    """
    config = path / CONFIG
    if not config.exists():
        raise RunError(f"expected a run folder at {path}, but there is no config.yaml in it: check the path.")
    try:
        settings = read_yaml(read_text(config, "the settings of a run"))
    except ConfigError as error:
        raise RunError(f"{config} cannot be read as YAML: {error}") from error
    except yaml.YAMLError as error:
        raise RunError(f"{config} cannot be read as YAML: restore it or delete the folder.") from error
    if not isinstance(settings, dict):
        raise RunError(f"{config} must hold settings as key: value lines, not {type(settings).__name__}: restore it.")
    return settings


def peak_memory_gb() -> float:
    """Peak resident memory of this process and of its largest finished child, in GB; 0 where the system does not tell."""
    if os.name != "posix":
        return 0.0
    import resource  # noqa: PLC0415 - not on every platform

    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + child) * 1024 / 1e9


def detached(tensors: dict[str, torch.Tensor]) -> NamedTensors:
    """Contiguous copies in main memory, as safetensors takes them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
