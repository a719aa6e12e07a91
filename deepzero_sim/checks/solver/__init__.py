"""Whether a solver keeps its contract, in words, and what it will cost to train through it."""

from deepzero_sim.checks.solver.gradient_costs import GradientCost, GradientCosts, gradient_costs
from deepzero_sim.checks.solver.solver_check import CheckInterruptedError, SolverCheck, check_made_solver, check_solver
from deepzero_sim.checks.solver.step_sizes import StepSizes
from deepzero_sim.checks.solver.subject import Subject, Training, subject_of
from deepzero_sim.checks.solver.timing import BatchTime
from deepzero_sim.checks.solver.verdict import Outcome, Verdict

__all__ = [
    "BatchTime",
    "CheckInterruptedError",
    "GradientCost",
    "GradientCosts",
    "Outcome",
    "SolverCheck",
    "StepSizes",
    "Subject",
    "Training",
    "Verdict",
    "check_made_solver",
    "check_solver",
    "gradient_costs",
    "subject_of",
]
