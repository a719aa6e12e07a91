"""The reference solver that a file of trajectories names, built again where its code is trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepzero_sim.common.components import Component
from deepzero_sim.common.hdf5_objects import json_of
from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.settings import read
from deepzero_sim.datasets.generation.ensembles import Member, ensemble, initial_state
from deepzero_sim.datasets.generation.simulations import Simulations
from deepzero_sim.datasets.times import ROUNDING
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DataError
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepped_inputs import with_inputs_at_rest
from deepzero_sim.solver.stepping import step_all
from deepzero_sim.training.runs.folders import within
from deepzero_sim.training.runs.trust import without_trust, words_of


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference solver of a file's simulations, which are begun again.

    Args:
        solver: Reference solver.
        initial: Name of the function of initial states.
        members: Simulations of the file.
        folder: Folder where relative names are found; None for the current one.
    """

    solver: Solver
    initial: str
    members: Sequence[Member]
    folder: Path | None = None

    def steps(self, count: int) -> Callable[[], int]:
        """Make the initial states of the first simulations; return what advances them by a step and counts that.

        Raises:
            DeepZeroError: They cannot be made.
        """
        with within(self.folder):
            starts = [initial_state(self.initial, self.solver.spec, member) for member in self.members[:count]]
        states, params = (np.concatenate(arrays) for arrays in zip(*starts, strict=True))
        scenario = params if params.shape[1] else None

        def step() -> int:
            nonlocal states
            states, account = step_all(self.solver, states, scenario, FailurePolicy())
            return account.steps

        return step


@dataclass
class _Made:
    """Settings that a file of trajectories says it was made with."""

    simulations: Simulations
    params: list[list[float]]
    starts: int | None = None
    seed: int = 0


def reference_of(data: Trajectories, spec: SolverSpec, folders: Sequence[Path] = ()) -> Reference:
    """Build the reference solver that data were made with.

    Args:
        data: Trajectories of a file that says what it was made with.
        spec: Spec of the coarse solver, whose steps are as long.
        folders: Folders besides the current one where the data may have been made: relative names are found in the first one in
            which the code is trusted.

    Raises:
        DeepZeroError: The data name none, or one that is not trusted, cannot be built, or takes other steps.
    """
    made = _settings_of(data)
    simulations = made.simulations
    places = (None, *folders)
    left = [without_trust(parts_of_simulations(simulations), place) for place in places]
    folder, parts = next((found for found in zip(places, left, strict=True) if not found[1]), (None, left[0]))
    untrusted = "; ".join(f"{key} {words_of(part)}" for key, part in parts.items())
    require_data(
        not untrusted,
        f"the data were not made by you in this folder{' or that of the run' if folders else ''}, and name code that would be "
        f"imported or run ({untrusted}): make them here with 'deepzero-sim generate'.",
    )
    with within(folder):
        solver = with_inputs_at_rest(build_solver(simulations.reference))
    require_data(
        math.isclose(solver.spec.dt, spec.dt, rel_tol=ROUNDING),
        f"a step of {solver.spec.name!r} is {solver.spec.dt:g} long, one of the coarse solver {spec.dt:g}.",
    )
    with within(folder):
        members = ensemble(made.params, made.starts, made.seed, solver.spec, simulations.initial)
    return Reference(solver, simulations.initial, members, folder)


def parts_of_simulations(simulations: Simulations) -> dict[str, Component]:
    """Return the parts of simulations that are built again to time their reference."""
    return {"reference": simulations.reference, "initial": Component(simulations.initial)}


def _settings_of(data: Trajectories) -> _Made:
    """Read what a file was made with."""
    made = json_of(data.attributes.get("settings"))
    if not isinstance(made, dict) or "simulations" not in made:
        raise DataError("the data do not say which solver they were made with.")
    try:
        known: _Made = read(_Made, made)
    except ConfigError as error:
        raise DataError(f"what the data say of how they were made cannot be read ({error}).") from error
    return known
