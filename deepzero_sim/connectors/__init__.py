"""Solvers that are not Python functions: programs, services and models, as they are."""

from deepzero_sim.connectors.bmi.solver import BMISolver
from deepzero_sim.connectors.formats.base import Format
from deepzero_sim.connectors.http.tesseract import TesseractSolver
from deepzero_sim.connectors.http.umbridge import UMBridgeSolver
from deepzero_sim.connectors.programs.dakota import DakotaSolver
from deepzero_sim.connectors.programs.executable import ExecutableSolver

__all__ = ["BMISolver", "DakotaSolver", "ExecutableSolver", "Format", "TesseractSolver", "UMBridgeSolver"]
