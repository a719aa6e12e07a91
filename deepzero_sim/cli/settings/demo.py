"""Settings of `deepzero-sim demo`: a coarse wake solver, corrected through its own loop without its gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deepzero_sim.cli.options import Command
from deepzero_sim.common.settings import Settings
from deepzero_sim.training.runs.settings import Workers


@dataclass
class DemoSettings(Settings):
    """The demonstration.

    Args:
        run: Folder of its data, runs and report.
        workers: Workers that answer queries and run simulations.
    """

    run: Path = Path("runs/demo")
    workers: Workers = field(default_factory=Workers)


COMMANDS = {"demo": Command(DemoSettings, "demo.demo")}
