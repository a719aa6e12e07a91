"""A run folder: settings, metrics, checkpoint and results of one training, so that a killed run can go on.

config.yaml              the resolved settings; a folder is never used with others
metrics.jsonl            one line a training step
accuracy.jsonl           one line an epoch, of a classifier
failures.jsonl           one line a failure of a solver step: its kind, what was done, the query, the working folder kept
events.out.tfevents.*    the same for TensorBoard
checkpoint.safetensors   network, optimiser and counters, replaced as a whole
state.json               the counters of the checkpoint, for people to read
snapshots/<step>/        checkpoints of earlier training steps, if any were to be kept
jacobians.safetensors    what was measured of the solver, of runs with a ReferenceJacobian that names no other file
answers.jsonl            answers to the queries of a long gradient that is on its way
ratios.json              how the active coordinates are divided among layers, if not all are active
results.json, report.md  what `evaluate` found
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from deepzero_sim.errors import RunError
from deepzero_sim.failures import Incident, as_line
from deepzero_sim.files import replacing, write_text
from deepzero_sim.types import NamedTensors

CONFIG = "config.yaml"
CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
ACCURACY = "accuracy.jsonl"
ANSWERS = "answers.jsonl"
FAILURES = "failures.jsonl"
JACOBIANS = "jacobians.safetensors"
SNAPSHOTS = "snapshots"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and everything else as JSON."""

    tensors: NamedTensors
    state: dict[str, Any]


class RunFolder:
    """One run's folder.

    Args:
        path: the folder; made if it is not there.
        settings: the run's resolved settings, plain values only.
        free: settings that may differ from those the folder was made with: they do not change what is computed.

    Raises:
        RunError: the folder was made by a run with other settings.
    """

    def __init__(self, path: Path | str, settings: dict[str, Any], free: Collection[str] = ()) -> None:
        self.path = Path(path)
        self._claim(settings, free)

    def _claim(self, settings: dict[str, Any], free: Collection[str]) -> None:
        config = self.path / CONFIG
        text = yaml.safe_dump(settings, sort_keys=False)
        if not config.exists():
            if (self.path / CHECKPOINT).exists():
                raise RunError(
                    f"{self.path} holds a checkpoint but no config.yaml that says how it was made: restore that, "
                    "or name another folder with --run."
                )
            write_text(config, text)
            return
        known = read_settings(self.path)
        given = yaml.safe_load(text)
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
        """Drop what a killed run had logged beyond its checkpoint: those steps are done again."""
        for path in (self.path / METRICS, self.path / ACCURACY, self.path / FAILURES):
            if path.exists():
                kept = [line for line in read_metrics(path) if line["step"] <= step]
                write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint; a kill at any moment leaves the old one or the new one.

        Raises:
            OSError: no space is left; the old one stands.
        """
        _save(self.path, checkpoint)

    def keep(self, checkpoint: Checkpoint, step: int) -> None:
        """Keep a checkpoint for good, beside the one to go on from."""
        _save(snapshot(self.path, step), checkpoint)

    def load(self) -> Checkpoint | None:
        """The checkpoint, or None if there is none yet."""
        return load_checkpoint(self.path) if (self.path / CHECKPOINT).exists() else None


def snapshot(path: Path, step: int) -> Path:
    """The folder of a checkpoint that a run keeps for good, which :func:`load_checkpoint` reads."""
    return path / SNAPSHOTS / f"{step:06d}"


def _save(folder: Path, checkpoint: Checkpoint) -> None:
    state = json.dumps(checkpoint.state)
    with replacing(folder / CHECKPOINT) as aside:
        try:
            save_file(checkpoint.tensors, aside, metadata={"state": state})
        except SafetensorError as error:  # its name for an input/output error
            raise OSError(f"the checkpoint in {folder} cannot be written ({error})") from error
    write_text(folder / "state.json", json.dumps(checkpoint.state, indent=2) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of metrics; a last line that was cut off by a kill is left out.

    Raises:
        RunError: it is damaged.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        return [_metrics(line) for line in lines if line.strip()]
    except ValueError as error:
        raise RunError(
            f"{path} must hold one JSON object a line, but it is damaged ({error}): remove the lines that are not, or "
            "delete it; the checkpoint does not need it."
        ) from error


def _metrics(line: str) -> dict[str, Any]:
    metrics = json.loads(line)
    if not isinstance(metrics, dict) or not isinstance(metrics.get("step"), int):
        raise ValueError(f"no training step in {line[:40]!r}")  # noqa: TRY004 - of a kind with what JSON raises
    return metrics


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint of a run folder.

    Raises:
        RunError: there is none, or it is damaged or foreign.
    """
    file = path / CHECKPOINT
    if not file.exists():
        raise RunError(f"expected a trained run in {path}, but there is no {CHECKPOINT}: train it first, or check the path.")
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
            metadata = opened.metadata() or {}
        return Checkpoint(tensors, json.loads(metadata["state"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(
            f"{file} is not a checkpoint of this package ({type(error).__name__}: {error}): "
            "delete it to train anew, or restore it."
        ) from error


def read_settings(path: Path) -> dict[str, Any]:
    """The settings a run folder was made with.

    Raises:
        RunError: it is no run folder, or its config.yaml is damaged.
    """
    config = path / CONFIG
    if not config.exists():
        raise RunError(f"expected a run folder at {path}, but there is no config.yaml in it: check the path.")
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
