"""Solvers that are not Python functions: programs, services and models, as they are."""

from deepzero_sim.connectors.dakota import DakotaSolver
from deepzero_sim.connectors.executable import ExecutableSolver
from deepzero_sim.connectors.formats import Format

__all__ = ["DakotaSolver", "ExecutableSolver", "Format"]
