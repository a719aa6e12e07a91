"""Networks that compared runs started from, evaluated like the runs themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from deepzero_sim.coupling.evaluation import Evaluation
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.training.checkpoints import Checkpoint
from deepzero_sim.training.runs.folders import last_stage
from deepzero_sim.training.runs.trained_run import parts_without_trust, run_settings, trained_loop


class Start(NamedTuple):
    """Network that a run started from, evaluated like the others.

    Args:
        name: Name of the run it is from.
        evaluation: Errors of its rollouts.
    """

    name: str
    evaluation: Evaluation


def _folders(runs: Mapping[str, Path]) -> dict[Path, str]:
    """Return the names of runs by the folders of their last stages."""
    return {last_stage(path).resolve(): name for name, path in runs.items()}


def find_starts(runs: Mapping[str, Path]) -> tuple[dict[str, Path], list[str]]:
    """Find the runs that runs started from, by their names; say for which of them that is not possible."""
    starts, unknown = dict[str, Path](), list[str]()
    for name, path in runs.items():
        given = run_settings(path).start
        if given is None:
            continue
        if parts_without_trust(given):
            unknown.append(f"{name} cannot be compared with {given}, which it started from: that run was not made by you here.")
            continue
        starts[name] = given
    return starts, unknown


def loops_of_others(
    origins: Mapping[str, Path],
    loops: Mapping[str, SolverLoop],
    runs: Mapping[str, Path],
    load: Callable[[Path], Checkpoint],
) -> dict[Path, SolverLoop]:
    """Build the loops of what runs started from, by their folders, except those that are compared anyway."""
    made, known = dict[Path, SolverLoop](), _folders(runs)
    for name, given in origins.items():
        start = last_stage(given).resolve()
        if start not in known and start not in made:
            made[start] = trained_loop(start, load).with_solver(loops[name].solver, on_failure=loops[name].on_failure)
    return made


def name_starts(
    origins: Mapping[str, Path],
    runs: Mapping[str, Path],
    evaluations: Mapping[str, Evaluation],
    others: Mapping[Path, Evaluation],
) -> dict[str, Start]:
    """Name what runs started from, with its evaluation: that of the run itself if it is compared, too.

    Args:
        origins: Folders that runs started from, by the names of the runs.
        runs: Run folder of each method that was trained.
        evaluations: Evaluations of these.
        others: Evaluations of the other runs, by their folders.
    """
    known = {folder: Start(name, evaluations[name]) for folder, name in _folders(runs).items()}
    starts = dict[str, Start]()
    for name, given in origins.items():
        start = last_stage(given).resolve()
        if start not in known:
            known[start] = Start(_name_of_start(given, known.values()), others[start])
        starts[name] = known[start]
    return starts


def _name_of_start(path: Path, others: Iterable[Start]) -> str:
    """Name a run by its method, and by its path where that is taken."""
    method = run_settings(path).method
    return f"{method}, {path}" if method in [other.name for other in others] else method
