"""Maps of where errors are: the mean absolute error of every point over time and simulations, of each method."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from deepzero_sim.cli.reports.fields import shown_methods
from deepzero_sim.cli.reports.figures import Figure, name_below, pyplot, save, styles
from deepzero_sim.cli.reports.layouts import layout_of_comparison, plain
from deepzero_sim.cli.reports.lines import draw_line
from deepzero_sim.cli.reports.panels import SIZES, Panel, Scale, draw_grid, limits
from deepzero_sim.cli.reports.views import Picture, View, channel_views
from deepzero_sim.common.words import count_of

if TYPE_CHECKING:
    from deepzero_sim.training.runs.comparison import Comparison


def draw(folder: Path, comparison: Comparison) -> list[Figure]:
    """Draw a map of every channel's mean absolute error, and return the figures written, the first channel's first.

    Args:
        folder: Folder of the figures.
        comparison: Results.
    """
    plot, figures = pyplot(), list[Figure]()
    for view in channel_views(layout_of_comparison(comparison)):
        if view.is_point:
            continue
        name = f"error_map_{view.key}.png" if figures else "error_map.png"
        maps = {name: mean_error(view, comparison, name) for name in shown_methods(comparison)}
        title = f"mean |error| of {view.title} over {_over(comparison)}"
        save(plot, folder / name, _draw_lines(plot, view, maps, title) if view.is_line else _draw_maps(plot, view, maps, title))
        figures.append(Figure(name, f"Mean absolute error of {view.title} at every point, over {_over(comparison)}"))
    return figures


def mean_error(view: View, comparison: Comparison, name: str) -> tuple[Picture, str]:
    """Return a method's mean absolute error over simulations and steps, and how many simulations were left out.

    Simulations that did not stay finite are left out; the map is not finite if none is left.

    Args:
        view: View of the errors.
        comparison: Results.
        name: Method.
    """
    rollout, sums, count = comparison.methods[name].evaluation.rollout, np.zeros(view.active.shape), 0
    simulations, steps = comparison.references.shape[:2]
    for simulation in range(simulations):
        one = np.zeros(view.active.shape)
        with np.errstate(invalid="ignore", over="ignore"):
            for step in range(steps):
                state, true = (np.asarray(states[simulation, step]) for states in (rollout, comparison.references))
                one += np.abs(view.convert(state) - view.convert(true))
        if np.isfinite(one[view.active]).all():
            sums, count = sums + one, count + 1
    note = "" if count == simulations else f"{simulations - count} of {simulations} diverged"
    return (sums / (count * steps) if count else np.full(view.active.shape, np.nan)), note


def _over(comparison: Comparison) -> str:
    return f"{comparison.horizon} of {count_of(len(comparison.references), 'simulation')}"


def _draw_maps(plot: Any, view: View, maps: dict[str, tuple[Picture, str]], title: str) -> Any:
    """Draw maps side by side, all with one scale, by the first method that is finite: the solver alone."""
    tops = (limits([picture], view.active)[1] for picture, _ in maps.values())
    scale = Scale(0.0, next((top for top in tops if top > 0), 1.0), SIZES, f"mean |error| of {view.label}")
    columns = min(4, len(maps)) if view.ratio >= 1 else len(maps)
    panels = {}
    for place, (name, (picture, note)) in enumerate(maps.items()):
        panels[divmod(place, columns)] = Panel(picture, scale, "\n".join(word for word in (plain(name), note) if word))
    rows = -(-len(maps) // columns)
    return draw_grid(plot, view, panels, [""] * rows, [""] * columns, title)


def _draw_lines(plot: Any, view: View, maps: dict[str, tuple[Picture, str]], title: str) -> Any:
    figure, ax = plot.subplots(figsize=(7, 4), layout="constrained")
    drawn = styles(maps)
    for name, (picture, note) in maps.items():
        draw_line(ax, view, picture, f"{name}, {note}" if note else name, drawn[name][0])
    ax.set(xlabel=view.across.label, ylabel=f"mean |error| of {view.label}", ylim=(0, None))
    ax.set_title(fill(title, 70), fontsize=11)
    ax.grid(alpha=0.3)
    name_below(figure, dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True)))
    return figure
