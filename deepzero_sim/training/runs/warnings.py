"""Sentences on data that make the errors on them say something else than they seem to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deepzero_sim.datasets.generation.ensembles import describe_identical
from deepzero_sim.datasets.source import DataSource, as_source
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.training.code_files import changed_code
from deepzero_sim.training.runs.folders import last_stage, origin_of
from deepzero_sim.training.runs.trained_run import run_settings


def data_warnings(data: Trajectories, source: str | Path | DataSource | Trajectories, runs: Mapping[str, Path]) -> list[str]:
    """Return sentences on data that were completed, that are those of training, that repeat themselves, or that stand still.

    Args:
        data: First frames and references.
        source: Origin of the data, for messages.
        runs: Run folder of each method that was trained.
    """
    return [*data.notes, *_of_training(source, runs), *_identical(data), *_still(data)]


def code_warnings(runs: Mapping[str, Path]) -> list[str]:
    """Return which files of a solver or network are not what they were when a run was started."""
    found = []
    for name, path in runs.items():
        changed = changed_code(last_stage(path), origin_of(last_stage(path)))
        found += [
            f"{file} is not what it was when {name} was started: what is computed now is of the file as it is now."
            for file in changed
        ]
    return found


def _of_training(source: str | Path | DataSource | Trajectories, runs: Mapping[str, Path]) -> list[str]:
    if isinstance(source, Trajectories):
        return []
    evaluated = as_source(source)
    same = [name for name, path in runs.items() if _shares_simulations(evaluated, as_source(run_settings(path).train_data))]
    if not same:
        return []
    return [
        f"{evaluated.path} is what {', '.join(same)} {'was' if len(same) == 1 else 'were'} trained on: errors on simulations "
        "that were kept out of training may be larger."
    ]


def _shares_simulations(one: DataSource, other: DataSource) -> bool:
    apart = one.simulations is not None and other.simulations is not None and not {*one.simulations} & {*other.simulations}
    return one.path.resolve() == other.path.resolve() and not apart


def _identical(data: Trajectories) -> list[str]:
    """Say which simulations are the same, if any are."""
    sentence = describe_identical(data.frames)
    return [sentence] if sentence else []


def _still(data: Trajectories) -> list[str]:
    frames = np.asarray(data.frames)
    if (frames == frames[:, :1]).all():
        return ["the reference data do not change with time: a solver that does nothing has no error."]
    return []
