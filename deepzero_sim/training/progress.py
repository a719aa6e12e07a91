"""Progress of a training as its checkpoint tells it, and the checkpoint's network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from deepzero_sim.common.types import NamedTensors, is_integer, is_number
from deepzero_sim.errors import RunError
from deepzero_sim.models.corrector import take_form_of
from deepzero_sim.training.checkpoints import Checkpoint


@dataclass(frozen=True)
class Progress:
    """Progress of a training.

    Args:
        step: Number of training steps done.
        loss: Loss of the last batch, before its step.
        queries: Number of losses asked for so far.
        solver_steps: Number of states advanced by one step so far.
        seconds: Seconds spent so far.
        failures: Failures of solver steps so far, by kind and what was done, such as `{"timeout dropped": 3}`.
        validation_steps: Number of states advanced by one step to validate the network, not counted above.
    """

    step: int = 0
    loss: float = float("nan")
    queries: int = 0
    solver_steps: int = 0
    seconds: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)
    validation_steps: int = 0


#: Progress of a training that has not begun.
AT_START = Progress()


def progress_of(checkpoint: Checkpoint, path: Path) -> Progress:
    """Read the progress of the training that left a checkpoint.

    Raises:
        RunError: The checkpoint does not say it.
    """
    try:
        return _require_possible(Progress(**checkpoint.state["progress"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"the checkpoint in {path} does not say how far it is ({error}): restore it, or train anew.") from error


def require_within(progress: Progress, steps: int, path: Path) -> None:
    """Refuse a checkpoint that says that more was done than a run has to do."""
    if progress.step > steps:
        raise RunError(
            f"the checkpoint in {path} says that {progress.step} training steps were done, but the run has {steps}: restore "
            "it, delete it to train anew, or train that many."
        )


def _require_possible(progress: Progress) -> Progress:
    """Refuse numbers of a file that cannot be, by a ValueError."""
    counts = {name: getattr(progress, name) for name in ("step", "queries", "solver_steps", "validation_steps")}
    if not isinstance(progress.failures, dict):
        raise ValueError(f"failures cannot be {progress.failures!r}")  # noqa: TRY004 - of a kind with the others
    for name, count in {**counts, **progress.failures}.items():
        if not is_integer(count) or count < 0:
            raise ValueError(f"{name} cannot be {count!r}")
    if not is_number(progress.seconds) or not 0 <= progress.seconds < float("inf"):
        raise ValueError(f"seconds cannot be {progress.seconds!r}")
    if not is_number(progress.loss):
        raise ValueError(f"the loss cannot be {progress.loss!r}")
    return progress


def tensors_of(part: str, checkpoint: Checkpoint) -> NamedTensors:
    """Select the tensors of a part, ``"network"``, ``"optimiser"`` or ``"oracle"``, by their names there."""
    return {name.removeprefix(f"{part}."): t for name, t in checkpoint.tensors.items() if name.startswith(f"{part}.")}


def restore_network(model: torch.nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Load a checkpoint's network; refuse another network's."""
    tensors = tensors_of("network", checkpoint)
    take_form_of(model, tensors)
    expected = {name: t.shape for name, t in model.state_dict().items()}
    if {name: t.shape for name, t in tensors.items()} != expected:
        raise RunError(
            f"the checkpoint in {path} holds another network ({len(tensors)} tensors, expected {len(expected)} "
            "of certain shapes): use the solver and network settings it was trained with."
        )
    model.load_state_dict(tensors)
