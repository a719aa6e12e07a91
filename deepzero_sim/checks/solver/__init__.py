"""Check of a solver: does it keep its contract, and what will it cost to train through it?"""

from deepzero_sim.checks.solver.costs import gradient_costs
from deepzero_sim.checks.solver.results import (
    BatchTime,
    CheckInterruptedError,
    GradientCost,
    GradientCosts,
    Outcome,
    SolverCheck,
    StepSizes,
    Verdict,
)
from deepzero_sim.checks.solver.solver_check import check_made_solver, check_solver
from deepzero_sim.checks.solver.subject import Subject, Training, subject_of

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
