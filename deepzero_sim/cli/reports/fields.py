"""Pictures of states: reference, source and corrected states side by side, with their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepzero_sim.cli.reports.figures import Figure, pyplot, save, styles
from deepzero_sim.cli.reports.layouts import layout_of_spec
from deepzero_sim.cli.reports.lines import draw_lines, draw_space_time
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
        figures.append(Figure(name, f"{view.title} of {_listed(shown, comparison)}, with errors, at several times"))
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
    """Pictures that one figure is made of.

    Args:
        view: View of the states.
        title: Title of the figure.
        times: Name of each time.
        every: Numbers of the steps shown as panels, from 1.
        steps: Number of steps of the rollout.
        pictures: Pictures of all steps by method, the reference first.
        dt: Length of a step.
        time_label: Name of the axis of time.
    """

    view: View
    title: str
    times: Sequence[str]
    every: Sequence[int]
    steps: int
    pictures: Mapping[str, Sequence[Picture]]
    dt: float
    time_label: str

    def at_times(self, name: str) -> list[Picture]:
        """Return a method's pictures at the times shown."""
        return [self.pictures[name][step - 1] for step in self.every]

    def errors(self, name: str) -> list[Picture]:
        """Return a method's pictures less those of the reference, at all steps."""
        with np.errstate(invalid="ignore", over="ignore"):
            return [one - true for one, true in zip(self.pictures[name], self.pictures[REFERENCE], strict=True)]

    @property
    def methods(self) -> list[str]:
        """Names without the reference's."""
        return [name for name in self.pictures if name != REFERENCE]


def middle_simulation(comparison: Comparison) -> int:
    """Return the number of the simulation that pictures show."""
    return len(comparison.references) // 2


def title_of(comparison: Comparison, simulation: int) -> str:
    """Name a simulation and its scenario."""
    count = len(comparison.references)
    words = f"simulation {simulation + 1} of {count}" if count > 1 else "one simulation"
    params = None if comparison.params is None else np.asarray(comparison.params)[simulation]
    scenario = layout_of_spec(comparison.spec).scenario(params)
    return f"{words}, {scenario}" if scenario else words


def shown_methods(comparison: Comparison) -> list[str]:
    """Return the methods that pictures have room for."""
    return list(comparison.methods)[:MOST_METHODS]


def _listed(shown: Shown, comparison: Comparison) -> str:
    left = len(comparison.methods) - len(shown.methods)
    words = "reference, solver and corrected solvers"
    return f"{words} ({left} of {len(comparison.methods)} methods are not drawn)" if left else words


def _select(view: View, comparison: Comparison) -> Shown:
    simulation, steps, dt = middle_simulation(comparison), comparison.references.shape[1], comparison.spec.dt
    layout = layout_of_spec(comparison.spec)
    states = {REFERENCE: comparison.references[simulation]}
    states |= {name: comparison.methods[name].evaluation.rollout[simulation] for name in shown_methods(comparison)}
    every = sorted({max(1, steps // 5), max(1, steps // 2), steps})
    return Shown(
        view=view,
        title=f"{view.title}: {title_of(comparison, simulation)}",
        times=[f"{layout.time(step * dt)} (step {step})" for step in every],
        every=every,
        steps=steps,
        pictures={name: [view.convert(np.asarray(state)) for state in found] for name, found in states.items()},
        dt=dt,
        time_label="t",
    )


def _draw_view(plot: Any, shown: Shown) -> Any:
    if shown.view.is_line:
        drawn = {name: line for name, (line, _) in styles(shown.pictures).items()}
        drawn[REFERENCE] = {"color": "grey", "linestyle": "--", "linewidth": 2.5}
        pictures = {name: shown.at_times(name) for name in shown.pictures}
        return draw_lines(plot, shown.view, pictures, REFERENCE, drawn, shown.times, shown.title)
    return _draw_panels(plot, shown)


def _draw_panels(plot: Any, shown: Shown) -> Any:
    """Draw fields and errors: methods side by side if pictures are tall, one below the other if they are not."""
    view = shown.view
    scale = scale_of(shown.at_times(REFERENCE), view.active, view.label)
    errors = _errors_at_times(shown)
    error_scale = scale_of_errors([one for series in errors.values() for one in series[::-1]], view.active, _of_error(view))
    panels, count = {}, len(shown.every)
    tall = view.ratio < 1
    for place, name in enumerate(shown.pictures):
        for number, picture in enumerate(shown.at_times(name)):
            panels[_place(tall, place, number)] = Panel(picture, scale)
            if name in errors:
                error = errors[name][number]
                note = _mean_size(error, view)
                panels[_place(tall, place, number, of_error=True)] = Panel(error, error_scale, note)
    if tall:
        rows = [words for time in shown.times for words in (time, f"error, {time}")]
        return draw_grid(plot, view, panels, rows, list(shown.pictures), shown.title)
    rows = [REFERENCE, *(words for name in shown.methods for words in (name, f"error of {name}"))]
    assert count == len(shown.times)
    return draw_grid(plot, view, panels, rows, shown.times, shown.title)


def _errors_at_times(shown: Shown) -> dict[str, list[Picture]]:
    return {name: [shown.errors(name)[step - 1] for step in shown.every] for name in shown.methods}


def _place(tall: bool, method: int, time: int, *, of_error: bool = False) -> tuple[int, int]:
    """Return row and column of a panel."""
    if tall:
        return 2 * time + of_error, method
    return max(0, 2 * method - 1) + of_error, time


def _of_error(view: View) -> str:
    return f"error of {view.label}"


def _mean_size(error: Picture, view: View) -> str:
    size = float(np.abs(error[view.active]).mean()) if view.active.any() else 0.0
    return f"mean |error| {size:.2g}"


def _draw_space_time(plot: Any, shown: Shown) -> Any:
    fields = {name: np.stack(list(series)) for name, series in shown.pictures.items()}
    errors = {name: np.stack(shown.errors(name)) for name in shown.methods}
    times = shown.dt * np.arange(1, shown.steps + 1)
    return draw_space_time(plot, shown.view, times, fields, errors, shown.title, shown.time_label)
