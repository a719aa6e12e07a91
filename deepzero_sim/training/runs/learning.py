"""Learning curves of a run: the loss of every update, and the errors of its validation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepzero_sim.common.types import is_integer, is_number
from deepzero_sim.errors import RunError
from deepzero_sim.training.checkpoints import read_settings
from deepzero_sim.training.run_folder import METRICS, VALIDATION, read_metrics
from deepzero_sim.training.runs.folders import last_stage, start_of

#: Points of a curve that are kept for pages and figures.
MOST_POINTS = 200

#: Points of a curve, each a number of updates and a value.
Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Learning:
    """Learning curves of a run.

    Args:
        loss: Loss of each update, on its own batch; updates that were skipped have none.
        validation: Relative error on the rollouts of the validation, after a number of updates.
        source: Relative error of the solver alone on the same rollouts; None where it is not known.
        length: Solver steps of these rollouts; 0 where that is not known.
    """

    loss: Curve
    validation: Curve
    source: float | None = None
    length: int = 0


def read_learning(path: Path) -> Learning:
    """Read the learning curves of a run folder; a run that logged none has empty ones.

    Raises:
        RunError: A file of metrics is damaged.
    """
    measured = read_metrics(path / VALIDATION)
    sources = [value for line in measured if is_number(value := line.get("source")) and np.isfinite(value)]
    lengths = [value for line in measured if is_integer(value := line.get("length"))]
    return Learning(
        _curve(read_metrics(path / METRICS), "loss"),
        _curve(measured, "error"),
        float(sources[-1]) if sources else None,
        int(lengths[-1]) if lengths else 0,
    )


def read_history(path: Path) -> dict[str, Learning]:
    """Read the learning curves of a run and of those it started from, the first one first, by their methods.

    What a run started from is left out from where it is not there any more.

    Args:
        path: Run folder; of one with stages, the last of them.

    Raises:
        RunError: A file of metrics is damaged.
    """
    folders = [last_stage(path).resolve()]
    while (before := start_of(folders[-1])) is not None and before not in folders:
        folders.append(before)
    history: dict[str, Learning] = {}
    for folder in folders[::-1]:
        method = _method_of(folder)
        history[method if method not in history else f"{method}, {folder.name}"] = read_learning(folder)
    return history


def _method_of(folder: Path) -> str:
    with suppress(RunError):
        return str(read_settings(folder).get("method", folder.name))
    return folder.name


def _curve(lines: Sequence[dict[str, Any]], key: str) -> Curve:
    values = ((line["step"], line.get(key)) for line in lines)
    return [(step, float(value)) for step, value in values if is_number(value) and np.isfinite(value)]


def thin(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """Leave out points of a curve, evenly, and never the first or the last one."""
    if len(curve) <= most:
        return curve
    return [curve[place] for place in np.linspace(0, len(curve) - 1, most).round().astype(int)]
