"""Executors: where work is done, in this process, in others or on other machines."""

from deepzero_sim.execution.executors import open_executor

__all__ = ["open_executor"]
