"""Trust in runs of others, asked of a person at a terminal."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.prompt import Confirm

from deepzero_sim.cli.console import console
from deepzero_sim.training.runs.trained_run import parts_without_trust, trust
from deepzero_sim.training.runs.trust import words_of


def ask_for_trust(run: Path, trusting: bool) -> None:
    """Ask, at a terminal, whether what a run of somebody else names may be imported and run; without a yes it is not."""
    parts = parts_without_trust(run)
    if parts and not trusting and sys.stdin.isatty() and console.is_terminal:
        for key, part in parts.items():
            console.print(f"{run} was not made by you on this machine, and would import or run this {key}: {words_of(part)}")
        trusting = Confirm.ask("Do you trust that?", console=console, default=False)
    if trusting:
        trust(run)
