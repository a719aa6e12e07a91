"""`deepzero-sim bench`: measurements of this machine, and comparisons of methods."""

from __future__ import annotations

import json
import sys

from deepzero_sim.benchmarks.cge import bench_cge
from deepzero_sim.benchmarks.flows.bench import bench_flows
from deepzero_sim.benchmarks.wake import bench_wake
from deepzero_sim.cli.console import console, print_table
from deepzero_sim.cli.settings.bench import BenchFlowsSettings, BenchSettings, BenchWakeSettings


def run_cge(settings: BenchSettings) -> None:
    """Measure coordinate-wise gradients, and print what was measured as JSON."""
    sys.stdout.write(json.dumps(bench_cge(settings), indent=2) + "\n")


def run_wake(settings: BenchWakeSettings) -> None:
    """Compare ways to train through the wake, with a report."""
    print_table(bench_wake(settings))
    console.print(f"report: {settings.output / 'report.md'}")


def run_flows(settings: BenchFlowsSettings) -> None:
    """Compare gradients past the solver on many flows, with a report."""
    for table in bench_flows(settings):
        print_table(table)
    console.print(f"report: {settings.output / 'report.md'}")
