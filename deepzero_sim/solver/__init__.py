"""The solver contract, what holds solvers to it, and what is done when a step fails."""

from deepzero_sim.solver.contract import DifferentiableSolver, Solver, as_solver
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.solver.spec import SolverSpec

__all__ = ["DifferentiableSolver", "FailurePolicy", "Solver", "SolverSpec", "as_solver"]
