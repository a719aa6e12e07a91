"""Sentences on data that make the errors on them say something else than they seem to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepzero_sim.datasets.generation.ensembles import describe_identical
from deepzero_sim.datasets.source import DataSource, as_source
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.training.checkpoints import read_settings
from deepzero_sim.training.code_files import changed_code
from deepzero_sim.training.runs.folders import last_stage, origin_of
from deepzero_sim.training.runs.held_back import name_simulations, numbers_in_record
from deepzero_sim.training.runs.trained_run import run_settings


def data_warnings(data: Trajectories, source: str | Path | DataSource | Trajectories, runs: Mapping[str, Path]) -> list[str]:
    """Return sentences on data that are those of training, that repeat themselves, or that stand still.

    Args:
        data: First frames and references.
        source: Origin of the data, for messages.
        runs: Run folder of each method that was trained.
    """
    return [*_of_training(source, runs), *_identical(data), *_still(data)]


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
    known = {name: _Overlap.of(evaluated, path) for name, path in runs.items()}
    same = [name for name, overlap in known.items() if overlap.trained]
    trained = [
        f"{evaluated.path} is what {', '.join(same)} {'was' if len(same) == 1 else 'were'} trained on: errors on simulations "
        "that were kept out of training may be larger."
    ]
    chosen = [
        f"the network of {name} was chosen by its error on {name_simulations(overlap.held_back)} of {evaluated.path}: errors "
        "on others may be a little larger."
        for name, overlap in known.items()
        if overlap.held_back and not overlap.trained
    ]
    return [*(trained if same else []), *chosen]


class _Overlap(NamedTuple):
    """Part of data that a training knew.

    Args:
        trained: True if some of their simulations were trained on.
        held_back: Numbers of those that were held back, by which a network was chosen.
    """

    trained: bool = False
    held_back: Sequence[int] = ()

    @classmethod
    def of(cls, evaluated: DataSource, run: Path) -> _Overlap:
        trained_on = as_source(run_settings(run).train_data)
        if evaluated.path.resolve() != trained_on.path.resolve():
            return cls()
        held_back = numbers_in_record(read_settings(last_stage(run)), trained_on.simulations or ())
        if evaluated.simulations is None:
            return cls(True, held_back)
        others = [one for one in evaluated.simulations if one not in held_back]
        trained = [one for one in others if trained_on.simulations is None or one in trained_on.simulations]
        return cls(bool(trained), [one for one in evaluated.simulations if one in held_back])


def _identical(data: Trajectories) -> list[str]:
    """Say which simulations are the same, if any are."""
    sentence = describe_identical(data.frames)
    return [sentence] if sentence else []


def _still(data: Trajectories) -> list[str]:
    frames = np.asarray(data.frames)
    if (frames == frames[:, :1]).all():
        return ["the reference data do not change with time: a solver that does nothing has no error."]
    return []
