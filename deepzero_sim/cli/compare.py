"""`deepzero-sim compare`: trained runs side by side, correctors on unseen data or classifiers as they ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deepzero_sim.cli.console import console, print_table, progress_bar
from deepzero_sim.cli.reports import classification, rollouts, sentences, tables
from deepzero_sim.cli.reports.html import PAGE
from deepzero_sim.cli.reports.ownership import require_own_folder
from deepzero_sim.cli.settings.compare import CompareSettings
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.training.runs.comparison import Comparison, by_name, compare


def run(settings: CompareSettings) -> None:
    """Compare trained runs, with a report."""
    files = classification.FILES if settings.data is None else rollouts.FILES
    require_own_folder(settings.output, files, "--output")
    if settings.data is None:
        classification.report(settings.output, "Classifiers compared", settings.runs)
        return
    comparison = compare(by_name(settings.runs), settings.data, settings.steps, settings.data_may_differ, progress_bar)
    report(settings.output, "Correctors compared", comparison, settings_to_dict(settings))


def report(folder: Path, title: str, comparison: Comparison, settings: Mapping[str, object]) -> None:
    """Write a comparison's report into a folder, and show its tables, its warnings and its answer."""
    rollouts.publish(folder, title, comparison, settings)
    print_report(folder, comparison)


def print_report(folder: Path, comparison: Comparison) -> None:
    """Show tables, warnings and answer of a comparison whose report lies in a folder."""
    for sentence in sentences.unfinished_sentences(comparison):
        console.print(sentence)
    print_table(tables.rows(comparison))
    if comparison.measure.is_relative:
        print_table(tables.channel_rows(comparison))
    for sentence in comparison.choices:
        console.print(sentence)
    for sentence in sentences.all_notes(comparison):
        console.print(f"note: {sentence}")
    for sentence in sentences.all_warnings(comparison):
        console.print(f"warning: {sentence}")
    console.print(f"report: {folder / PAGE}")
    console.print(sentences.answer(comparison))
