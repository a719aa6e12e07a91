"""`deepzero-sim bench`: measurements of this machine, and comparisons of methods."""

from __future__ import annotations

import json
import sys

from deepzero_sim.cli.console import console, print_table
from deepzero_sim.cli.options import Command
from deepzero_sim.cli.settings import BenchSettings, BenchWakeSettings

# the benchmarks are imported when they are called: they import commands themselves


def _bench_cge(settings: BenchSettings) -> None:
    from deepzero_sim.benchmarks.cge import bench_cge  # noqa: PLC0415

    sys.stdout.write(json.dumps(bench_cge(settings), indent=2) + "\n")


def _bench_wake(settings: BenchWakeSettings) -> None:
    from deepzero_sim.benchmarks.wake import bench_wake  # noqa: PLC0415

    print_table(bench_wake(settings))
    console.print(f"report: {settings.output / 'report.md'}")


COMMANDS = {"bench cge": Command(BenchSettings, _bench_cge), "bench wake": Command(BenchWakeSettings, _bench_wake)}
