"""Learning curves of a run: the loss of every update, and the errors of its validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepzero_sim.common.types import is_number
from deepzero_sim.training.run_folder import METRICS, VALIDATION, read_metrics

#: Points of a curve that are kept for pages and figures.
MOST_POINTS = 200

#: Points of a curve, each a number of updates and a value.
Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Learning:
    """Learning curves of a run.

    Args:
        loss: Loss of each update, on its own batch; updates that were skipped have none.
        validation: Relative error on simulations held back from training, after a number of updates.
    """

    loss: Curve
    validation: Curve


def read_learning(path: Path) -> Learning:
    """Read the learning curves of a run folder; a run that logged none has empty ones.

    Raises:
        RunError: A file of metrics is damaged.
    """
    return Learning(_curve(read_metrics(path / METRICS), "loss"), _curve(read_metrics(path / VALIDATION), "error"))


def _curve(lines: Sequence[dict[str, Any]], key: str) -> Curve:
    values = ((line["step"], line.get(key)) for line in lines)
    return [(step, float(value)) for step, value in values if is_number(value) and np.isfinite(value)]


def thin(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """Leave out points of a curve, evenly, and never the first or the last one."""
    if len(curve) <= most:
        return curve
    return [curve[place] for place in np.linspace(0, len(curve) - 1, most).round().astype(int)]
