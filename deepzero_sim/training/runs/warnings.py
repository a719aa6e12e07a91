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
from deepzero_sim.training.runs.held_back import name_simulations, numbers_in_record, numbers_of
from deepzero_sim.training.runs.trained_run import run_settings


def data_warnings(data: Trajectories, source: str | Path | DataSource | Trajectories, runs: Mapping[str, Path]) -> list[str]:
    """Return sentences on data that are those of training, that repeat themselves, or that stand still.

    Args:
        data: First frames and references.
        source: Origin of the data, for messages.
        runs: Run folder of each method that was trained.
    """
    return [*_of_training(data, source, runs), *_identical(data), *_still(data)]


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


def _of_training(data: Trajectories, source: str | Path | DataSource | Trajectories, runs: Mapping[str, Path]) -> list[str]:
    if isinstance(source, Trajectories):
        return []
    evaluated = as_source(source)
    known = {name: _Overlap.of(evaluated.path, numbers_of(data), path) for name, path in runs.items()}
    methods: dict[_Overlap, list[str]] = {}
    for name, overlap in known.items():
        methods.setdefault(overlap, []).append(name)
    return [
        *(overlap.trained_sentence(evaluated, names) for overlap, names in methods.items() if overlap.trained),
        *(overlap.chosen_sentence(evaluated.path, name) for name, overlap in known.items() if overlap.held_back),
    ]


class _Overlap(NamedTuple):
    """Simulations of an evaluation, by what a training knew of them.

    Args:
        trained: Numbers of those that were trained on.
        held_back: Numbers of those that were held back, by which a network was chosen.
        unknown: Numbers of the others.
    """

    trained: tuple[int, ...] = ()
    held_back: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()

    @classmethod
    def of(cls, path: Path, numbers: Sequence[int], run: Path) -> _Overlap:
        trained_on = as_source(run_settings(run).train_data)
        if path.resolve() != trained_on.path.resolve():
            return cls(unknown=tuple(numbers))
        taken = numbers if trained_on.simulations is None else trained_on.simulations
        held_back = numbers_in_record(read_settings(last_stage(run)), trained_on.simulations or ())
        return cls(
            tuple(one for one in numbers if one in taken and one not in held_back),
            tuple(one for one in numbers if one in held_back),
            tuple(one for one in numbers if one not in taken and one not in held_back),
        )

    def trained_sentence(self, evaluated: DataSource, methods: Sequence[str]) -> str:
        """Say which simulations were trained on, and which were not."""
        were = f"{', '.join(methods)} {'was' if len(methods) == 1 else 'were'} trained on"
        if evaluated.simulations is None and not self.unknown:
            return f"{evaluated.path} is what {were}: errors on simulations that were kept out of training may be larger."
        which = f"{name_simulations(self.trained)} of {evaluated.path} {'is' if len(self.trained) == 1 else 'are'} what {were}"
        rest = f": evaluate {name_simulations(self.unknown)} alone" if self.unknown else ": evaluate others"
        return f"{which}, so that errors there say little of others{rest}."

    def chosen_sentence(self, path: Path, method: str) -> str:
        """Say by which simulations a network was chosen."""
        return (
            f"the network of {method} was chosen by its error on {name_simulations(self.held_back)} of {path}: errors on "
            "others may be a little larger."
        )


def _identical(data: Trajectories) -> list[str]:
    """Say which simulations are the same, if any are."""
    sentence = describe_identical(data.frames)
    return [sentence] if sentence else []


def _still(data: Trajectories) -> list[str]:
    frames = np.asarray(data.frames)
    if (frames == frames[:, :1]).all():
        return ["the reference data do not change with time: a solver that does nothing has no error."]
    return []
