"""Solvers, and the loss of what is trained through them, offered to others over HTTP by the UM-Bridge protocol."""

from deepzero_sim.serving.model import ServedModel
from deepzero_sim.serving.network import ServedLoss, ServedParameters
from deepzero_sim.serving.server import serve
from deepzero_sim.serving.steps import ServedLoop, ServedSolver

__all__ = ["ServedLoop", "ServedLoss", "ServedModel", "ServedParameters", "ServedSolver", "serve"]
