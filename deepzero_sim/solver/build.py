"""Solvers that settings name."""

from __future__ import annotations

from deepzero_sim.common.components import Component, Kind, call, load_factory
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec

#: Objects that the settings of a solver may name.
SOLVER = Kind.of(Solver, "a deepzero_sim.Solver")


def build_solver(component: Component) -> Solver:
    """Build the solver that settings name: by a class or function that makes one, or one that is there already.

    Raises:
        ConfigError: The solver cannot be made, or is no solver.
    """
    named = load_factory(component.name, SOLVER)
    solver = named if isinstance(named, Solver) and not component.args else call(named, component)
    if not isinstance(solver, Solver):
        raise ConfigError(
            f"solver {component.name!r} must make a deepzero_sim.Solver, not {type(solver).__name__}: derive its class from it."
        )
    if not isinstance(getattr(solver, "spec", None), SolverSpec):
        raise ConfigError(f"solver {component.name!r} must set self.spec to a deepzero_sim.SolverSpec when it is made.")
    return solver
