"""First pictures of data: states at several times, in space and time, channels over time, an animation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.cli.reports.animation import MOST_FRAMES as MOST_ANIMATED
from deepzero_sim.cli.reports.animation import NAME, animate, choose
from deepzero_sim.cli.reports.figures import LINES, Figure, pyplot, save
from deepzero_sim.cli.reports.layouts import Layout, layout_of_recording
from deepzero_sim.cli.reports.lines import draw_lines, draw_space_time
from deepzero_sim.cli.reports.panels import Panel, draw_grid, scale_of
from deepzero_sim.cli.reports.recordings import MOST_FRAMES, Numbers
from deepzero_sim.cli.reports.views import MOST_CHANNELS, Picture, View, views
from deepzero_sim.datasets.recording import Recording

#: Simulations and times that pictures show.
MOST_SIMULATIONS, MOST_TIMES = 4, 4

#: Fewest frames of a picture of space and time.
FEWEST_FRAMES = 8

#: Colours of simulations.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def draw(folder: Path, recording: Recording, numbers: Numbers) -> list[Figure]:
    """Draw the first pictures of data, and return the figures written.

    Args:
        folder: Folder of the figures.
        recording: Data.
        numbers: Numbers of the channels.
    """
    plot, layout = pyplot(), layout_of_recording(recording)
    figures = []
    for view in views(layout):
        name = f"fields_{view.key}.png" if view.key else "fields.png"
        save(plot, folder / name, _draw_view(plot, view, recording, layout))
        when = "over time" if view.is_point else "at several times"
        figures.append(Figure(name, f"{view.title} of {_words(recording)} {when}"))
        if view.has_space_time and recording.frames.shape[1] >= FEWEST_FRAMES:
            name = f"space_time_{view.key}.png" if view.key else "space_time.png"
            save(plot, folder / name, _draw_space_time(plot, view, recording, layout))
            figures.append(Figure(name, f"{view.title} of {_words(recording)} in space and time"))
    left = len(layout.channels) - MOST_CHANNELS
    if left > 0:
        figures.append(Figure("", f"{left} of {len(layout.channels)} channels are not drawn."))
    if len(numbers.places) > 1:
        save(plot, folder / "over_time.png", _draw_over_time(plot, recording, layout, numbers))
        words = "Mean of each channel over time, of all simulations and points; light, its least and largest value"
        figures.append(Figure("over_time.png", f"{words}{f'; {left} channels are not drawn' if left > 0 else ''}"))
    return figures


def draw_animation(folder: Path, recording: Recording) -> list[Figure]:
    """Animate the first view of some simulations side by side, and return the figure written.

    There is none of a single frame, or of states of one point.
    """
    times, layout = recording.frames.shape[1], layout_of_recording(recording)
    view, chosen = views(layout)[0], choose(times, MOST_ANIMATED)
    if times < 2 or view.is_point:
        return []
    pictures = {_name(recording, layout, s): [_picture(view, recording, s, t) for t in chosen] for s in _simulations(recording)}
    animate(folder / NAME, view, pictures, [_time(recording, layout, t) for t in chosen], view.title)
    return [Figure(NAME, f"{view.title} of {_words(recording)} over time")]


def _simulations(recording: Recording) -> list[int]:
    return choose(len(recording.frames), MOST_SIMULATIONS)


def _words(recording: Recording) -> str:
    shown, total = len(_simulations(recording)), len(recording.frames)
    return (
        f"{shown} of {total} simulations, chosen evenly,"
        if total > shown
        else "all simulations"
        if total > 1
        else "the simulation"
    )


def _name(recording: Recording, layout: Layout, simulation: int) -> str:
    """Name a simulation by its number and scenario."""
    scenario = layout.scenario(recording.params[simulation] if recording.params.shape[1] else None)
    return f"simulation {simulation}" + (f", {scenario}" if scenario else "")


def _time(recording: Recording, layout: Layout, place: int) -> str:
    return f"frame {place}" if recording.times is None else f"{layout.time(recording.times[place])} (frame {place})"


def _picture(view: View, recording: Recording, simulation: int, time: int) -> Picture:
    return view.convert(np.asarray(recording.frames[simulation, time]))


def _draw_view(plot: Any, view: View, recording: Recording, layout: Layout) -> Any:
    if view.is_point:
        return _draw_point(plot, view, recording, layout)
    times = choose(recording.frames.shape[1], MOST_TIMES)
    pictures = {_name(recording, layout, s): [_picture(view, recording, s, t) for t in times] for s in _simulations(recording)}
    columns = [_time(recording, layout, t) for t in times]
    if view.is_line:
        return draw_lines(plot, view, pictures, None, _lines(pictures), columns, view.title)
    scale = scale_of([one for series in pictures.values() for one in series], view.active, view.label)
    panels = {
        (row, column): Panel(picture, scale, empty="no finite value")
        for row, series in enumerate(pictures.values())
        for column, picture in enumerate(series)
    }
    return draw_grid(plot, view, panels, list(pictures), columns, view.title)


def _lines(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return how the line of each simulation is drawn."""
    return {name: {"color": _COLOURS[i % len(_COLOURS)], "linestyle": LINES[i % len(LINES)]} for i, name in enumerate(names)}


def _draw_point(plot: Any, view: View, recording: Recording, layout: Layout) -> Any:
    """Draw the values of a single point over time."""
    places = choose(recording.frames.shape[1], MOST_FRAMES)
    series = {
        _name(recording, layout, simulation): [np.concatenate([_picture(view, recording, simulation, t) for t in places])]
        for simulation in _simulations(recording)
    }
    times, label = _times(recording, layout, np.array(places))
    return draw_lines(plot, view.over_time(times, label), series, None, _lines(series), [""], view.title)


def _draw_space_time(plot: Any, view: View, recording: Recording, layout: Layout) -> Any:
    places = choose(recording.frames.shape[1], MOST_FRAMES)
    fields = {
        _name(recording, layout, simulation): np.stack([_picture(view, recording, simulation, place) for place in places])
        for simulation in _simulations(recording)
    }
    times, label = _times(recording, layout, np.array(places))
    return draw_space_time(plot, view, times, fields, {}, view.title, label)


def _times(recording: Recording, layout: Layout, places: NDArray[np.int64]) -> tuple[NDArray[np.float64], str]:
    """Return times of frames, or their numbers where no times are known, and the name of their axis."""
    if recording.times is None:
        return places.astype(np.float64), "frame"
    return recording.times[places], layout.time_label


def _draw_over_time(plot: Any, recording: Recording, layout: Layout, numbers: Numbers) -> Any:
    channels = range(min(len(layout.channels), MOST_CHANNELS))
    columns = min(3, len(channels))
    count = -(-len(channels) // columns)
    size = (4.2 * columns + 0.6, 2.8 * count)
    figure, axes = plot.subplots(count, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat[len(channels) :]:
        ax.set_axis_off()
    times, label = _times(recording, layout, numbers.places)
    means = numbers.means()
    empty = np.isnan(means)
    lows, highs = (np.where(empty, np.nan, values) for values in (numbers.lows, numbers.highs))
    for channel, ax in zip(channels, axes.flat, strict=False):
        ax.fill_between(times, lows[:, channel], highs[:, channel], color=_COLOURS[0], alpha=0.2, linewidth=0)
        ax.plot(times, means[:, channel], color=_COLOURS[0])
        ax.set_xlabel(label, fontsize=9)
        ax.set_ylabel(layout.label(channel), fontsize=9)
        ax.grid(alpha=0.3)
    return figure
