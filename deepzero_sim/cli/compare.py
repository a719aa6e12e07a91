"""`deepzero-sim compare`: trained runs side by side, correctors on unseen data or classifiers as they ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deepzero_sim.cli.console import console, print_table
from deepzero_sim.cli.reports import classification, rollouts
from deepzero_sim.cli.settings.compare import CompareSettings
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.training.runs.comparison import Comparison, by_name, compare


def run(settings: CompareSettings) -> None:
    """Compare trained runs, with a report."""
    if settings.data is None:
        classification.report(settings.output, "Classifiers compared", settings.runs)
        return
    comparison = compare(by_name(settings.runs), settings.data, settings.steps, settings.data_may_differ)
    report(settings.output, "Correctors compared", comparison, settings_to_dict(settings))


def report(folder: Path, title: str, comparison: Comparison, settings: Mapping[str, object]) -> None:
    """Write a comparison's report into a folder, and show its table."""
    rollouts.publish(folder, title, comparison, settings)
    print_table(rollouts.rows(comparison.methods))
    for sentence in rollouts.failure_sentences(comparison.methods):
        console.print(sentence)
    console.print(f"report: {folder / 'report.md'}")
