"""Readers of foreign data: each finds out what a file says of itself, and reads frames when they are asked for."""

from deepzero_sim.datasets.foreign.options import ReadingOptions
from deepzero_sim.datasets.foreign.reading import FORMATS, detect, read_recording

__all__ = ["FORMATS", "ReadingOptions", "detect", "read_recording"]
