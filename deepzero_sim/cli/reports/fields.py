"""Pictures of states: reference, source and corrected states side by side, with their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.cli.reports.figures import Figure, pyplot, save, styles
from deepzero_sim.cli.reports.layouts import layout_of_comparison, plain
from deepzero_sim.cli.reports.lines import differences, draw_lines, draw_space_time
from deepzero_sim.cli.reports.panels import Panel, draw_grid, scale_of, scale_of_errors
from deepzero_sim.cli.reports.sentences import best_method
from deepzero_sim.cli.reports.views import MOST_CHANNELS, Picture, View, views

if TYPE_CHECKING:
    from deepzero_sim.training.runs.comparison import Comparison

#: Name of the reference in figures.
REFERENCE = "reference"

#: Methods that one figure shows.
MOST_METHODS = 8

#: Steps that a picture of space and time needs.
SPACE_TIME_STEPS = 8


def draw(folder: Path, comparison: Comparison) -> list[Figure]:
    """Draw states of a typical simulation at several times, each with its error, and return the figures written.

    The first view has `fields.png`, every other one `fields_<channel>.png`; lines also have a picture of space and time.

    Args:
        folder: Folder of the figures.
        comparison: Results.
    """
    plot = pyplot()
    layout = layout_of_comparison(comparison)
    figures = []
    for view in views(layout):
        shown = _select(view, comparison)
        name = f"fields_{view.key}.png" if view.key else "fields.png"
        save(plot, folder / name, _draw_view(plot, shown))
        caption = (
            f"{shown.title}; {_list_shown(shown, comparison)}, with errors, {'over' if view.is_point else 'at several'} times"
        )
        figures.append(Figure(name, caption))
        if view.has_space_time and len(shown.steps) >= SPACE_TIME_STEPS:
            name = f"space_time_{view.key}.png" if view.key else "space_time.png"
            save(plot, folder / name, _draw_space_time(plot, shown))
            figures.append(Figure(name, f"{shown.title}; in space and time, with errors"))
    if len(layout.channels) > MOST_CHANNELS:
        left = len(layout.channels) - MOST_CHANNELS
        first = figures[0]
        figures[0] = Figure(first.name, f"{first.caption}; {left} of {len(layout.channels)} channels are not drawn")
    return figures


@dataclass(frozen=True, eq=False)
class Shown:
    """Rollouts of one simulation that one figure shows.

    Args:
        view: View of the states.
        title: Title of the figure.
        states: States by method and step, the reference first.
        every: Numbers of the steps shown as panels; 0 is the first frame.
        names: Name of each of these steps.
        times: Times of all steps.
        time_label: Name of an axis of times.
    """

    view: View
    title: str
    states: Mapping[str, Mapping[int, Any]]
    every: Sequence[int]
    names: Sequence[str]
    times: NDArray[np.float64]
    time_label: str

    @property
    def steps(self) -> list[int]:
        """Numbers of all steps, from 0 if the first frame is known."""
        return list(self.states[REFERENCE])

    @property
    def methods(self) -> list[str]:
        """Names without the reference's."""
        return [name for name in self.states if name != REFERENCE]

    def pictures(self, name: str, steps: Sequence[int]) -> list[Picture]:
        """Return a method's pictures at some steps."""
        return [self.view.convert(np.asarray(self.states[name][step])) for step in steps]

    def errors(self, name: str, steps: Sequence[int]) -> list[Picture]:
        """Return a method's pictures less those of the reference, at some steps."""
        return differences(self.pictures(name, steps), self.pictures(REFERENCE, steps))


def typical_simulation(comparison: Comparison) -> tuple[int, str]:
    """Return the simulation that pictures show, and why: that of the median error of the best method.

    Args:
        comparison: Results.
    """
    count, best = len(comparison.references), best_method(comparison) or "SRC"
    errors = np.array(comparison.measure.of_simulations(comparison.methods[best].evaluation))
    order = np.argsort(errors, kind="stable")  # those that diverged come last
    return int(order[(count - 1) // 2]), f"the median error of {best}" if count > 1 else ""


def title_of(comparison: Comparison, simulation: int, why: str = "") -> str:
    """Name a simulation by its number in the file, why it is shown, and its scenario."""
    words = f"simulation {comparison.number(simulation)} of the file"
    words += f" ({plain(why)})" if why else ""
    params = None if comparison.params is None else np.asarray(comparison.params)[simulation]
    scenario = layout_of_comparison(comparison).scenario(params)
    return f"{words}, {scenario}" if scenario else words


def shown_methods(comparison: Comparison) -> list[str]:
    """Return the methods that pictures have room for."""
    return list(comparison.methods)[:MOST_METHODS]


def states_of(comparison: Comparison, simulation: int) -> dict[str, dict[int, Any]]:
    """Return the states of a simulation by method and step, the reference first; step 0 is the first frame, if it is known."""
    first = {} if comparison.initial is None else {0: comparison.initial[simulation]}
    series = {REFERENCE: comparison.references[simulation]}
    series |= {name: comparison.methods[name].evaluation.rollout[simulation] for name in shown_methods(comparison)}
    return {name: first | dict(enumerate(found, start=1)) for name, found in series.items()}


def name_of_step(comparison: Comparison, step: int) -> str:
    """Name a step by its time."""
    time = layout_of_comparison(comparison).time(comparison.time(step))
    return f"{time} (step {step})" if step else f"{time} (first frame)"


def _list_shown(shown: Shown, comparison: Comparison) -> str:
    left = len(comparison.methods) - len(shown.methods)
    words = "reference, solver and corrected solvers"
    return f"{words} ({left} of {len(comparison.methods)} methods are not drawn)" if left else words


def _select(view: View, comparison: Comparison) -> Shown:
    (simulation, why), last = typical_simulation(comparison), comparison.references.shape[1]
    states = states_of(comparison, simulation)
    every = sorted({*([0] if 0 in states[REFERENCE] else []), max(1, last // 5), max(1, last // 2), last})
    names = [name_of_step(comparison, step) for step in every]
    times = np.array([comparison.time(step) for step in states[REFERENCE]])
    title = f"{view.title}: {title_of(comparison, simulation, why)}"
    return Shown(view, title, states, every, names, times, layout_of_comparison(comparison).time_label)


def _draw_view(plot: Any, shown: Shown) -> Any:
    if not shown.view.is_line:
        return _draw_panels(plot, shown)
    drawn = {name: line for name, (line, _) in styles(shown.states).items()}
    drawn[REFERENCE] = {"color": "grey", "linestyle": "--", "linewidth": 2.5}
    if shown.view.is_point:
        view = shown.view.over_time(shown.times, shown.time_label)
        series = {name: [np.concatenate(shown.pictures(name, shown.steps))] for name in shown.states}
        return draw_lines(plot, view, series, REFERENCE, drawn, [""], shown.title)
    pictures = {name: shown.pictures(name, shown.every) for name in shown.states}
    return draw_lines(plot, shown.view, pictures, REFERENCE, drawn, shown.names, shown.title)


def _draw_panels(plot: Any, shown: Shown) -> Any:
    """Draw fields and errors: methods side by side if pictures are tall, one below the other if they are not."""
    view, tall = shown.view, shown.view.ratio < 1
    first = [step for step in shown.every if step == 0]  # which all methods have alike: it is shown once
    later = [step for step in shown.every if step > 0]
    fields = {name: shown.pictures(name, shown.every if name == REFERENCE else later) for name in shown.states}
    errors = {name: shown.errors(name, later) for name in shown.methods}
    scale = scale_of(fields[REFERENCE], view.active, view.label)
    latest_first = [one for series in errors.values() for one in series[::-1]]
    error_scale = scale_of_errors(latest_first, view.active, f"error of {view.label}")
    panels = {}
    for place, name in enumerate(fields):
        before = 0 if name == REFERENCE else len(first)
        for number, picture in enumerate(fields[name], start=before):
            panels[_place(tall, place, number, len(first))] = Panel(picture, scale)
        for number, error in enumerate(errors.get(name, ()), start=len(first)):
            panels[_place(tall, place, number, len(first), of_error=True)] = Panel(error, error_scale, _mean_size(error, view))
    if tall:
        rows = [words for time in shown.names[len(first) :] for words in (time, f"error, {time}")]
        return draw_grid(plot, view, panels, [*shown.names[: len(first)], *rows], list(fields), shown.title)
    rows = [REFERENCE, *(words for name in shown.methods for words in (name, f"error of {name}"))]
    return draw_grid(plot, view, panels, rows, shown.names, shown.title)


def _place(tall: bool, method: int, time: int, first: int, *, of_error: bool = False) -> tuple[int, int]:
    """Return row and column of a panel: a time of which there are errors has two rows, a method but the reference, too."""
    if tall:
        return max(0, 2 * time - first) + of_error, method
    return max(0, 2 * method - 1) + of_error, time


def _mean_size(error: Picture, view: View) -> str:
    """Write the mean size of an error; empty if it is not finite."""
    size = float(np.abs(error[view.active]).mean()) if view.active.any() else 0.0
    return f"mean |error| {size:.2g}" if np.isfinite(size) else ""


def _draw_space_time(plot: Any, shown: Shown) -> Any:
    fields = {name: np.stack(shown.pictures(name, shown.steps)) for name in shown.states}
    errors = {name: np.stack(shown.errors(name, shown.steps)) for name in shown.methods}
    return draw_space_time(plot, shown.view, shown.times, fields, errors, shown.title, shown.time_label)
