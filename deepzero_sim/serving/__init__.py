"""Solvers, and the loss of what is trained through them, offered to others over HTTP by the UM-Bridge protocol."""

from deepzero_sim.serving.model import ServedModel
from deepzero_sim.serving.network_models import ServedLoss, ServedParameters
from deepzero_sim.serving.server import serve
from deepzero_sim.serving.solver_models import ServedLoop, ServedSolver

__all__ = ["ServedLoop", "ServedLoss", "ServedModel", "ServedParameters", "ServedSolver", "serve"]
