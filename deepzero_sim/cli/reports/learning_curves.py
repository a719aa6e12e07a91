"""Learning curves: the loss of every update of a training, and the errors on rollouts that it did not see."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.cli.reports.figures import Figure, pyplot, save, styles
from deepzero_sim.cli.reports.layouts import plain
from deepzero_sim.errors import RunError
from deepzero_sim.training.runs.learning import Learning, read_learning

if TYPE_CHECKING:
    from deepzero_sim.training.runs.comparison import Comparison

#: Name of the figure, in the folder of the page that shows it.
FIGURE = "learning_curves.png"

#: Updates from which on a running median is drawn, over this share of them.
MANY_UPDATES, SHARE = 100, 0.02

#: Runs that the figure shows.
MOST_RUNS = 12


def draw(folder: Path, comparison: Comparison) -> list[Figure]:
    """Draw the learning curves of a comparison's runs; see :func:`draw_runs`."""
    return draw_runs(folder, comparison.runs)


def draw_runs(folder: Path, runs: Mapping[str, Path]) -> list[Figure]:
    """Draw the learning curves of runs in a panel each, and return the figure written, or sentences on those that are damaged.

    Args:
        folder: Folder of the figure.
        runs: Run folders by name.
    """
    curves, missing = dict[str, Learning](), []
    for name, path in runs.items():
        try:
            curves[name] = read_learning(path)
        except RunError as error:
            missing.append(Figure("", f"No learning curve of {name} is drawn: {error}"))
    curves = {name: one for name, one in curves.items() if one.loss}
    return [*_draw(folder, curves), *missing] if curves else missing


def _draw(folder: Path, curves: Mapping[str, Learning]) -> list[Figure]:
    plot, shown = pyplot(), dict(list(curves.items())[:MOST_RUNS])
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    size = (5.2 * columns, 3.2 * rows) if len(shown) > 1 else (8, 4)
    figure, axes = plot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    drawn = styles(shown)
    for place, (name, one) in enumerate(shown.items()):
        ax = axes.flat[place]
        _draw_run(ax, one, drawn[name][0]["color"] or f"C{place}")
        ax.set_title(fill(plain(name), 60), fontsize=10)
    save(plot, folder / FIGURE, figure)
    left = len(curves) - len(shown)
    left_out = f"; {left} of {len(curves)} runs are not drawn" if left else ""
    validated = any(one.validation for one in shown.values())
    seen = ", and the error on rollouts that it did not see" if validated else ""
    return [Figure(FIGURE, f"Learning curves: the loss of each method's training{seen}{left_out}")]


def _draw_run(ax: Any, learning: Learning, colour: str) -> None:
    steps, values = (np.array(column, dtype=float) for column in zip(*learning.loss, strict=True))
    many = len(values) >= MANY_UPDATES
    ax.plot(steps, values, color=colour, alpha=0.3 if many else 1.0, linewidth=1, marker="." if len(values) < 3 else "")
    if many:
        ax.plot(steps, running_median(values, math.ceil(SHARE * len(values))), color=colour, linewidth=1.8)
    ax.set(xlabel="update", ylabel="loss", yscale="log" if (values > 0).all() else "linear")
    ax.grid(alpha=0.3)
    if learning.validation:
        updates, errors = (np.array(column, dtype=float) for column in zip(*learning.validation, strict=True))
        right = ax.twinx()
        right.plot(updates, errors, color="black", marker="o", markersize=3, linewidth=0.8, linestyle=":")
        right.set_ylabel("validation error (dotted)", fontsize=9)
        right.set_yscale("log" if (errors > 0).all() else "linear")


def running_median(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Compute the median over windows of so many values, shorter at both ends.

    Args:
        values: Values.
        width: Number of values in a window.
    """
    half = max(1, width // 2)
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])
