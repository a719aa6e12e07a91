"""A corrector network in the loop of a solver, and gradients through both."""

from deepzero_sim.coupling.evaluation import Evaluation, evaluate
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.coupling.rollout_loss import RolloutLoss

__all__ = ["Evaluation", "RolloutLoss", "SolverLayer", "SolverLoop", "evaluate"]
