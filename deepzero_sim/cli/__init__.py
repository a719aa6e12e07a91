"""The command line."""

from deepzero_sim.cli.main import main

__all__ = ["main"]
