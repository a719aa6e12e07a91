"""Learning curves: the loss of every update of a training, and the errors on rollouts that it did not see."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.cli.reports.figures import COLOURS, Figure, name_below, pyplot, save, styles
from deepzero_sim.cli.reports.layouts import plain
from deepzero_sim.errors import RunError
from deepzero_sim.training.runs.learning import Learning, read_history

#: Name of the figure, in the folder of the page that shows it.
FIGURE = "learning_curves.png"

#: Updates from which on a running median is drawn, over this share of them.
MANY_UPDATES, SHARE = 100, 0.02

#: Runs that the figure shows.
MOST_RUNS = 12


def draw_runs(folder: Path, runs: Mapping[str, Path]) -> list[Figure]:
    """Read the learning curves of runs and draw them, and return the figure written, or sentences on those that are damaged.

    Args:
        folder: Folder of the figure.
        runs: Run folders by name.
    """
    histories, missing = dict[str, dict[str, Learning]](), []
    for name, path in runs.items():
        try:
            histories[name] = read_history(path)
        except RunError as error:
            missing.append(Figure("", f"No learning curve of {name} is drawn: {error}"))
    return [*draw(folder, histories), *missing]


def draw(folder: Path, histories: Mapping[str, Mapping[str, Learning]]) -> list[Figure]:
    """Draw learning curves, one run after the other that it started from, and return the figure written; none without any.

    Args:
        folder: Folder of the figure.
        histories: Curves of a run and of those that it started from, the first one first, by the run's name.
    """
    logged = {name: {stage: one for stage, one in history.items() if one.loss} for name, history in histories.items()}
    known = {name: history for name, history in logged.items() if history and not _is_part_of_another(history, logged)}
    if not known:
        return []
    plot, shown = pyplot(), dict(list(known.items())[:MOST_RUNS])
    validated = any(one.validation for history in shown.values() for one in history.values())
    across = min(3, len(shown))
    rows, height = -(-len(shown) // across), 2 if validated else 1
    size = (max(7.0, 4.4 * across), 2.5 * rows * height + 0.8)
    figure, axes = plot.subplots(rows * height, across, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.set_axis_off()
    drawn: dict[str, Any] = {}
    for place, (name, history) in enumerate(shown.items()):
        row, column = divmod(place, across)
        panels = axes[row * height : (row + 1) * height, column]
        drawn |= _draw_run(panels, history, f"C{place}")
        panels[0].set_title(fill(plain(name), 50), fontsize=10, pad=18 if len(history) > 1 else 6)
    name_below(figure, drawn)
    save(plot, folder / FIGURE, figure)
    left = len(known) - len(shown)
    left_out = f"; {left} of {len(known)} runs are not drawn" if left else ""
    staged = ", one stage after the other" if any(len(history) > 1 for history in shown.values()) else ""
    seen = f", and the error on {_rollouts(shown)}" if validated else ""
    return [Figure(FIGURE, f"Learning curves: the loss of each method's training{staged}{seen}{left_out}")]


def _is_part_of_another(history: Mapping[str, Learning], histories: Mapping[str, Mapping[str, Learning]]) -> bool:
    """Tell whether a run is one of those that another one started from: its curves are drawn with that one's."""
    ours = list(history.values())
    return any(list(other.values())[: len(ours)] == ours for other in histories.values() if len(other) > len(ours))


def _rollouts(histories: Mapping[str, Mapping[str, Learning]]) -> str:
    """Name the rollouts of validations, with their length if that is known."""
    lengths = sorted({one.length for history in histories.values() for one in history.values() if one.length})
    return f"rollouts of {' or '.join(map(str, lengths))} steps" if lengths else "rollouts of its validation"


def _draw_run(panels: Sequence[Any], history: Mapping[str, Learning], other: str) -> dict[str, Any]:
    """Draw the stages of a run one after the other, losses above and errors below; return what is to be named."""
    begun, drawn, colours = 0, dict[str, Any](), {stage: line["color"] for stage, (line, _) in styles(history).items()}
    for ax in panels:
        ax.set_axis_on()
        ax.grid(alpha=0.3)
    for stage, one in history.items():
        name, colour = plain(stage), colours[stage] or other
        drawn[name] = _draw_losses(panels[0], one, begun, colour)
        if len(panels) > 1:
            drawn |= _draw_validation(panels[1], one, begun, colour)
        if len(history) > 1:
            _mark_begin(panels, begun, name)
        begun += one.loss[-1][0]
    panels[0].set_ylabel("loss", fontsize=9)
    panels[-1].set_xlabel("update" if len(history) == 1 else "update, counted over all stages", fontsize=9)
    if len(panels) > 1:
        panels[1].set_ylabel("relative error\nin validation", fontsize=9)
        panels[0].sharex(panels[1])
        panels[0].tick_params(labelbottom=False)
    for ax in panels:
        values = np.concatenate(
            [np.asarray(line.get_ydata(), dtype=float) for line in ax.get_lines() if line.get_gid()] or [np.ones(1)]
        )
        if (values > 0).all():
            _scale_logarithmically(ax, values)
    return drawn


def _mark_begin(panels: Sequence[Any], update: int, name: str) -> None:
    """Mark where a stage begins, with its name above the panels."""
    for ax in panels:
        ax.axvline(update, color="grey", linewidth=0.8, linestyle="-.")
    where = {"transform": panels[0].get_xaxis_transform(), "va": "bottom", "fontsize": 8}
    panels[0].text(update, 1.01, shorten(name, 24, placeholder=" ..."), **where)


def _scale_logarithmically(ax: Any, values: NDArray[np.float64]) -> None:
    """Set a logarithmic axis, with plain numbers between the powers of ten if there are few of these."""
    ax.set_yscale("log")
    if values.max() < 100 * values.min():
        for number in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
            number(lambda value, _: f"{value:.3g}")
        ax.tick_params(which="both", labelsize=8)
    if 5 * values.min() < values.max() < 100 * values.min():  # room for some of them
        ax.yaxis.set_minor_locator(pyplot().LogLocator(subs=(2.0, 3.0, 5.0)))


def _draw_losses(ax: Any, learning: Learning, begun: int, colour: str) -> Any:
    """Draw the loss of every update, and their running median if there are many."""
    steps, values = (np.array(column, dtype=float) for column in zip(*learning.loss, strict=True))
    many = len(values) >= MANY_UPDATES
    style = {"color": colour, "gid": "values"}
    marker = "." if len(values) < 3 else ""
    (line,) = ax.plot(begun + steps, values, alpha=0.3 if many else 1.0, linewidth=1, marker=marker, **style)
    if many:
        (line,) = ax.plot(begun + steps, running_median(values, math.ceil(SHARE * len(values))), linewidth=1.8, **style)
    return line


def _draw_validation(ax: Any, learning: Learning, begun: int, colour: str) -> dict[str, Any]:
    """Draw the errors of a stage's validation, and that of the solver alone as a line, if it is known."""
    if not learning.validation:
        return {}
    updates, errors = (np.array(column, dtype=float) for column in zip(*learning.validation, strict=True))
    marked = {"marker": "o", "markersize": 3, "linewidth": 1, "gid": "values"}
    ax.plot(begun + updates, errors, color=colour, **marked)
    if learning.source is not None and learning.source > 0:
        ends, line = [begun, begun + learning.loss[-1][0]], {"color": COLOURS["SRC"], "linestyle": "--", "gid": "values"}
        return {"SRC, the solver alone": ax.plot(ends, [learning.source] * 2, linewidth=1.2, **line)[0]}
    return {}


def running_median(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Compute the median over windows of so many values, shorter at both ends.

    Args:
        values: Values.
        width: Number of values in a window.
    """
    half = max(1, width // 2)
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])
