"""Measured comparisons, each a command that prints one JSON object; never part of the tests."""

from deepzero_sim.benchmarks.cge import bench_cge
from deepzero_sim.benchmarks.plain_loop import PlainLoop

__all__ = ["PlainLoop", "bench_cge"]
