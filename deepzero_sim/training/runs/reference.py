"""The reference solver that a file of trajectories names, built again where its code is trusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deepzero_sim.common.components import Component, call_function
from deepzero_sim.common.hdf5_objects import json_of
from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.settings import read
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.metadata import ROUNDING
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, DataError
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepping import step_all
from deepzero_sim.solver.validation import check_states
from deepzero_sim.training.runs.trust import without_trust, words_of


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference solver with the initial states of the simulations.

    Args:
        solver: Reference solver.
        initial: Import path or `file.py:Name` of ``initial(spec, params)``.
        params: Parameters of the simulations, `(S, K)`, in the solver's dtype.
    """

    solver: Solver
    initial: str
    params: Array

    def steps(self, count: int) -> Callable[[], int]:
        """Make the initial states of the first simulations; return what advances them by a step and counts that.

        Raises:
            DeepZeroError: They cannot be made.
        """
        params = self.params[:count]
        states = call_function(self.initial, self.solver.spec, params)
        check_states(self.solver.spec, states, f"what {self.initial} returned", "check it on a few rows of params", batch=count)
        scenario = params if params.shape[1] else None

        def step() -> int:
            nonlocal states
            states, account = step_all(self.solver, states, scenario, FailurePolicy())
            return account.steps

        return step


def reference_of(data: Trajectories, spec: SolverSpec) -> Reference:
    """Build the reference solver that data were made with.

    Args:
        data: Trajectories of a file that says what it was made with.
        spec: Spec of the coarse solver, whose steps are as long.

    Raises:
        DeepZeroError: The data name none, or one that is not trusted, cannot be built, or takes other steps.
    """
    parts = _named_parts(data)
    untrusted = "; ".join(f"{key} {words_of(part)}" for key, part in without_trust(parts).items())
    require_data(
        not untrusted,
        f"the data were not made by you on this machine, and name code that would be imported or run ({untrusted}): make them "
        "here, with 'deepzero-sim generate'",
    )
    solver = build_solver(parts["reference"])
    require_data(
        math.isclose(solver.spec.dt, spec.dt, rel_tol=ROUNDING),
        f"a step of {solver.spec.name!r} is {solver.spec.dt:g} long, one of the coarse solver {spec.dt:g}",
    )
    return Reference(solver, parts["initial"].name, np.asarray(data.params, dtype=solver.spec.dtype))


def _named_parts(data: Trajectories) -> dict[str, Component]:
    """Read which reference and which initial states a file was made with."""
    made = json_of(data.attributes.get("settings"))
    simulations = made.get("simulations") if isinstance(made, dict) else None
    if not isinstance(simulations, dict) or not {"reference", "initial"} <= simulations.keys():
        raise DataError("the data do not say which solver they were made with")
    try:
        reference = read(Component, simulations["reference"], "reference")
        return {"reference": reference, "initial": Component(read(str, simulations["initial"], "initial"))}
    except ConfigError as error:
        raise DataError(f"what the data say of how they were made cannot be read ({error})") from error
