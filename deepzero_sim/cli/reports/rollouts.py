"""Report on a comparison of rollouts: `results.json`, figures, and a page of Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepzero_sim.cli.reports import curves, error_maps, fields, layer_ratios, learning_curves, spectra, tables
from deepzero_sim.cli.reports.figures import Figure, markdown
from deepzero_sim.cli.reports.html import HTML, PAGE, write_html
from deepzero_sim.cli.reports.ownership import write_page
from deepzero_sim.cli.reports.results import results
from deepzero_sim.cli.reports.sentences import (
    answer,
    few_simulations,
    first_step_sentences,
    speed_sentences,
)
from deepzero_sim.common.documents import markdown_table, write_yaml
from deepzero_sim.common.files import write_text
from deepzero_sim.common.words import count_of
from deepzero_sim.errors import MissingExtraError, RunError
from deepzero_sim.training.ratios_file import RatiosRecord
from deepzero_sim.training.runs.learning import Learning, read_history
from deepzero_sim.training.runs.measure import explain_measure

if TYPE_CHECKING:
    from deepzero_sim.training.runs.comparison import Comparison, MethodResult

#: File of the results.
RESULTS = "results.json"

#: Names of all files of a report.
FILES = (
    RESULTS,
    PAGE,
    HTML,
    "fields*.png",
    "space_time*.png",
    "over_time.png",
    "error_*.png",
    "paired_errors.png",
    "speed.png",
    "spectra.png",
    "learning_curves.png",
    layer_ratios.FIGURE,
    "animation.gif",
)


def publish(folder: Path, title: str, comparison: Comparison, settings: Mapping[str, Any], more: Sequence[Figure] = ()) -> None:
    """Write `results.json`, `report.md` and its figures.

    Args:
        folder: Folder of the page.
        title: Title of the page.
        comparison: Results.
        settings: Settings that are listed.
        more: Figures that lie in the folder already, and that the page shows, too.

    Raises:
        MissingExtraError: Matplotlib is not installed; results and page are written all the same, without figures.
    """
    histories, damaged = _read_histories(comparison)
    learning = {name: list(history.values())[-1] for name, history in histories.items()}
    found = results(comparison, settings, learning)
    found["warnings"] += damaged
    page = _Page(title, comparison, settings, learning, found["warnings"])
    try:
        figures = _draw(folder, comparison, histories)
    except MissingExtraError as error:
        _write(folder, page.text([Figure("", str(error))]), found)
        raise
    _write(folder, page.text([*figures, *more]), found)


def _write(folder: Path, text: str, found: Mapping[str, Any]) -> None:
    """Write the page as Markdown and as one file of HTML, and the results."""
    write_page(folder / PAGE, text)
    write_html(folder, PAGE)
    write_text(folder / RESULTS, json.dumps(found, indent=2) + "\n")


def _read_histories(comparison: Comparison) -> tuple[dict[str, dict[str, Learning]], list[str]]:
    """Read the learning curves of the runs and what they started from, and a sentence for each whose files are damaged."""
    histories, damaged = dict[str, dict[str, Learning]](), list[str]()
    for name, path in comparison.runs.items():
        try:
            histories[name] = read_history(path)
        except RunError as error:
            damaged.append(f"the learning curve of {name} is left out: {error}")
    return histories, damaged


def _draw(folder: Path, comparison: Comparison, histories: Mapping[str, Mapping[str, Learning]]) -> list[Figure]:
    """Draw all figures, those that say most first."""
    modules = (curves, fields, error_maps, spectra)
    figures = [figure for module in modules for figure in module.draw(folder, comparison)]
    figures += learning_curves.draw(folder, histories)
    curves.draw_ratios(folder, ratios_of(comparison.methods))
    return figures


#: Names that the literature gives to methods (List et al. 2024, arXiv 2402.12971; EGA: arXiv 2311.10665).
_ELSEWHERE = {"NON": "ONE", "DETACHED": "NOG", "FO-SOL": "WIG", "STRAIGHT-THROUGH": "EGA"}


def names_of_literature(methods: Iterable[str]) -> str:
    """Say what the literature calls those of some methods that it has names for; empty for none of them."""
    known = [f"{name} is {_ELSEWHERE[name]}" for name in methods if name in _ELSEWHERE]
    return f"In the literature, {', '.join(known)}." if known else ""


#: Explanation of the table of pairs.
_TEST = (
    "Errors over {horizon}. A negative difference is an improvement; its spread is the standard deviation over the "
    "simulations. The last column is that of an exact two-sided sign test, ties left out."
)


@dataclass(frozen=True, eq=False)
class _Page:
    """Page of Markdown, from the answer to the settings.

    Args:
        title: Title of the page.
        comparison: Results.
        settings: Settings that are listed.
        learning: Learning curves by method.
        warnings: Sentences on what may mislead.
    """

    title: str
    comparison: Comparison
    settings: Mapping[str, Any]
    learning: Mapping[str, Learning]
    warnings: Sequence[str]

    def text(self, figures: Sequence[Figure]) -> str:
        """Write the page with these figures."""
        ratios = layer_ratios.section(ratios_of(self.comparison.methods)).strip()
        parts = [
            f"# {self.title}",
            answer(self.comparison),
            self._what_is_measured(),
            markdown_table(tables.rows(self.comparison)),
            *first_step_sentences(self.comparison),
            *self.comparison.choices,
            *_section("Warnings", "\n".join(f"- {sentence}" for sentence in self.warnings)),
            *_section("Figures", markdown(figures).rstrip()),
            *self._details(),
            *([ratios] if ratios else []),
            *_section("Data", f"```yaml\n{write_yaml(self.comparison.data)}```"),
            *_section("Settings", f"```yaml\n{write_yaml(dict(self.settings))}```"),
        ]
        return "\n\n".join(parts) + "\n"

    def _what_is_measured(self) -> str:
        simulations = count_of(len(self.comparison.references), "simulation")
        measured = "Relative error" if self.comparison.measure.is_relative else "Mean absolute error"
        sentences = (
            f"{measured} of the state over {self.comparison.horizon} of {simulations}.",
            explain_measure(self.comparison.spec),
            "Solver steps and seconds are those of training, the run each method started from included; SRC is the solver "
            "alone.",
            names_of_literature(self.comparison.methods),
        )
        return "\n".join(filter(None, sentences))

    def _details(self) -> Iterator[str]:
        """Yield errors by channel and by simulation, pairs, times of steps, and learning curves."""
        comparison, count = self.comparison, len(self.comparison.references)
        left = count - tables.MOST_SIMULATIONS
        channels = _table(tables.channel_rows(comparison))
        yield from _section(
            "Channels", *([channels, f"Means over {comparison.horizon} of all simulations."] if channels else [])
        )
        yield from _section(
            "Simulations",
            f"The {comparison.measure.label} of each simulation over {comparison.horizon}, numbered from 0 as in the file.",
            _table(tables.simulation_rows(comparison)),
            f"The other {left} simulations are in `{RESULTS}`." if left > 0 else "",
        )
        pairs = _table(tables.pair_rows(comparison))
        yield from _section(
            "Simulation by simulation",
            *([pairs, _TEST.format(horizon=comparison.horizon), few_simulations(count)] if pairs else []),
        )
        yield from _section("Speed", _table(tables.speed_rows(comparison)), *speed_sentences(comparison))
        yield from _section("Learning", _table(tables.learning_rows(self.learning)))


def _section(head: str, *texts: str) -> Iterator[str]:
    """Yield a section; nothing if it is empty."""
    if any(texts):
        yield "\n\n".join([f"## {head}", *filter(None, texts)])


def _table(table: tables.Table) -> str:
    """Write a table; nothing if it has only a head."""
    return markdown_table(table) if len(table) > 1 else ""


def ratios_of(methods: Mapping[str, MethodResult]) -> dict[str, RatiosRecord]:
    """Return the layer ratios of the methods that have them."""
    return {name: result.ratios for name, result in methods.items() if result.ratios is not None}
