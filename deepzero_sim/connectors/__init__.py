"""Solvers that are not Python functions: programs, services and models, as they are."""

from deepzero_sim.connectors.bmi import BMISolver
from deepzero_sim.connectors.dakota import DakotaSolver
from deepzero_sim.connectors.executable import ExecutableSolver
from deepzero_sim.connectors.formats import Format
from deepzero_sim.connectors.tesseract import TesseractSolver
from deepzero_sim.connectors.umbridge import UMBridgeSolver

__all__ = ["BMISolver", "DakotaSolver", "ExecutableSolver", "Format", "TesseractSolver", "UMBridgeSolver"]
