"""Pictures of states: reference, source and corrected states side by side, with their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepzero_sim.cli.reports.figures import Figure, pyplot, save, styles
from deepzero_sim.cli.reports.layouts import layout_of_spec
from deepzero_sim.cli.reports.lines import differences, draw_lines, draw_space_time
from deepzero_sim.cli.reports.panels import Panel, draw_grid, scale_of, scale_of_errors
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
    """Draw states of the middle simulation at several times, each with its error, and return the figures written.

    The first view has `fields.png`, every other one `fields_<channel>.png`; lines also have a picture of space and time.

    Args:
        folder: Folder of the figures.
        comparison: Results.
    """
    plot = pyplot()
    layout = layout_of_spec(comparison.spec)
    figures = []
    for view in views(layout):
        shown = _select(view, comparison)
        name = f"fields_{view.key}.png" if view.key else "fields.png"
        save(plot, folder / name, _draw_view(plot, shown))
        figures.append(Figure(name, f"{view.title} of {_list_shown(shown, comparison)}, with errors, at several times"))
        if view.is_line and not view.is_unordered and shown.steps >= SPACE_TIME_STEPS:
            name = f"space_time_{view.key}.png" if view.key else "space_time.png"
            save(plot, folder / name, _draw_space_time(plot, shown))
            figures.append(Figure(name, f"{view.title} in space and time, with errors"))
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
        states: States of all steps by method, `(T, C, *N)`, the reference first.
        every: Numbers of the steps shown as panels, from 1.
        times: Name of each of these steps.
        dt: Length of a step.
    """

    view: View
    title: str
    states: Mapping[str, Any]
    every: Sequence[int]
    times: Sequence[str]
    dt: float

    @property
    def steps(self) -> int:
        """Number of steps of the rollout."""
        return len(self.states[REFERENCE])

    @property
    def methods(self) -> list[str]:
        """Names without the reference's."""
        return [name for name in self.states if name != REFERENCE]

    def pictures(self, name: str, steps: Sequence[int]) -> list[Picture]:
        """Return a method's pictures at some steps, counted from 1."""
        return [self.view.convert(np.asarray(self.states[name][step - 1])) for step in steps]

    def errors(self, name: str, steps: Sequence[int]) -> list[Picture]:
        """Return a method's pictures less those of the reference, at some steps."""
        return differences(self.pictures(name, steps), self.pictures(REFERENCE, steps))


def middle_simulation(comparison: Comparison) -> int:
    """Return the number of the simulation that pictures show."""
    return len(comparison.references) // 2


def title_of(comparison: Comparison, simulation: int) -> str:
    """Name a simulation and its scenario."""
    count = len(comparison.references)
    words = f"simulation {simulation} (of 0 to {count - 1})" if count > 1 else "one simulation"
    params = None if comparison.params is None else np.asarray(comparison.params)[simulation]
    scenario = layout_of_spec(comparison.spec).scenario(params)
    return f"{words}, {scenario}" if scenario else words


def shown_methods(comparison: Comparison) -> list[str]:
    """Return the methods that pictures have room for."""
    return list(comparison.methods)[:MOST_METHODS]


def _list_shown(shown: Shown, comparison: Comparison) -> str:
    left = len(comparison.methods) - len(shown.methods)
    words = "reference, solver and corrected solvers"
    return f"{words} ({left} of {len(comparison.methods)} methods are not drawn)" if left else words


def _select(view: View, comparison: Comparison) -> Shown:
    simulation, steps, dt = middle_simulation(comparison), comparison.references.shape[1], comparison.spec.dt
    layout = layout_of_spec(comparison.spec)
    states = {REFERENCE: comparison.references[simulation]}
    states |= {name: comparison.methods[name].evaluation.rollout[simulation] for name in shown_methods(comparison)}
    every = sorted({max(1, steps // 5), max(1, steps // 2), steps})
    times = [f"{layout.time(step * dt)} (step {step})" for step in every]
    return Shown(view, f"{view.title}: {title_of(comparison, simulation)}", states, every, times, dt)


def _draw_view(plot: Any, shown: Shown) -> Any:
    if shown.view.is_line:
        drawn = {name: line for name, (line, _) in styles(shown.states).items()}
        drawn[REFERENCE] = {"color": "grey", "linestyle": "--", "linewidth": 2.5}
        pictures = {name: shown.pictures(name, shown.every) for name in shown.states}
        return draw_lines(plot, shown.view, pictures, REFERENCE, drawn, shown.times, shown.title)
    return _draw_panels(plot, shown)


def _draw_panels(plot: Any, shown: Shown) -> Any:
    """Draw fields and errors: methods side by side if pictures are tall, one below the other if they are not."""
    view, tall = shown.view, shown.view.ratio < 1
    fields = {name: shown.pictures(name, shown.every) for name in shown.states}
    errors = {name: differences(fields[name], fields[REFERENCE]) for name in shown.methods}
    scale = scale_of(fields[REFERENCE], view.active, view.label)
    latest_first = [one for series in errors.values() for one in series[::-1]]
    error_scale = scale_of_errors(latest_first, view.active, f"error of {view.label}")
    panels = {}
    for place, name in enumerate(fields):
        for number, picture in enumerate(fields[name]):
            panels[_place(tall, place, number)] = Panel(picture, scale)
        for number, error in enumerate(errors.get(name, ())):
            panels[_place(tall, place, number, of_error=True)] = Panel(error, error_scale, _mean_size(error, view))
    if tall:
        rows = [words for time in shown.times for words in (time, f"error, {time}")]
        return draw_grid(plot, view, panels, rows, list(fields), shown.title)
    rows = [REFERENCE, *(words for name in shown.methods for words in (name, f"error of {name}"))]
    return draw_grid(plot, view, panels, rows, shown.times, shown.title)


def _place(tall: bool, method: int, time: int, *, of_error: bool = False) -> tuple[int, int]:
    """Return row and column of a panel."""
    if tall:
        return 2 * time + of_error, method
    return max(0, 2 * method - 1) + of_error, time


def _mean_size(error: Picture, view: View) -> str:
    """Write the mean size of an error; empty if it is not finite."""
    size = float(np.abs(error[view.active]).mean()) if view.active.any() else 0.0
    return f"mean |error| {size:.2g}" if np.isfinite(size) else ""


def _draw_space_time(plot: Any, shown: Shown) -> Any:
    steps = range(1, shown.steps + 1)
    fields = {name: np.stack(shown.pictures(name, steps)) for name in shown.states}
    errors = {name: np.stack(shown.errors(name, steps)) for name in shown.methods}
    return draw_space_time(plot, shown.view, shown.dt * np.array(steps), fields, errors, shown.title, "t")
