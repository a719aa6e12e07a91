"""The solver contract, what holds solvers to it, and what is done when a step fails."""

from typing import TYPE_CHECKING

from deepzero_sim.common.public_names import Names as _Names

if TYPE_CHECKING:
    from deepzero_sim.solver.contract import DifferentiableSolver, Solver, as_solver
    from deepzero_sim.solver.failure_policy import FailurePolicy
    from deepzero_sim.solver.spec import SolverSpec
else:
    __getattr__ = _Names(
        __name__,
        {
            "deepzero_sim.solver.contract": ("DifferentiableSolver", "Solver", "as_solver"),
            "deepzero_sim.solver.failure_policy": ("FailurePolicy",),
            "deepzero_sim.solver.spec": ("SolverSpec",),
        },
    )
    __dir__ = __getattr__.listed

__all__ = ["DifferentiableSolver", "FailurePolicy", "Solver", "SolverSpec", "as_solver"]
