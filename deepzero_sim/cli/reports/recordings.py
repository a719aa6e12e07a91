"""First look at data: what a file holds in words and numbers, and its first pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.cli.reports.animation import NAME, animate, choose
from deepzero_sim.cli.reports.figures import Figure, pyplot, save
from deepzero_sim.cli.reports.layouts import Layout, layout_of_recording, plain, with_unit
from deepzero_sim.cli.reports.lines import draw_lines, draw_space_time
from deepzero_sim.cli.reports.panels import Panel, draw_grid, scale_of
from deepzero_sim.cli.reports.views import MOST_CHANNELS, Picture, View, views
from deepzero_sim.datasets.recording import Recording

#: Simulations and times that pictures show.
MOST_SIMULATIONS, MOST_TIMES = 4, 4

#: Bytes that are read for the numbers of a summary; of larger files, frames are chosen evenly.
MOST_BYTES = 256 * 2**20

#: Frames of a simulation that pictures of space and time, and curves over time, are made of.
MOST_FRAMES = 200

#: Colours of simulations.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers of each channel at some times, over all simulations and points that were read.

    Args:
        frames: Number of frames that were read.
        of: Number of all frames.
        places: Places of the times in a simulation, `(T,)`.
        counts: Number of finite values, `(T, C)`.
        missing: Number of values that are not finite, `(T, C)`.
        lows: Least finite value, `(T, C)`; infinite if there is none.
        highs: Largest finite value, `(T, C)`; minus infinite if there is none.
        shifts: Number subtracted from the values of each channel before they are summed, `(C,)`: it keeps squares exact.
        sums: Sum of finite values, `(T, C)`.
        squares: Sum of their squares, `(T, C)`.
    """

    frames: int
    of: int
    places: NDArray[np.int64]
    counts: NDArray[np.int64]
    missing: NDArray[np.int64]
    lows: NDArray[np.float64]
    highs: NDArray[np.float64]
    shifts: NDArray[np.float64]
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]

    def means(self) -> NDArray[np.float64]:
        """Compute the mean at each time, `(T, C)`; NaN where nothing is finite."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.sums / self.counts + self.shifts)

    def overall(self, channel: int) -> tuple[float, float, float, float]:
        """Compute least and largest value, mean and standard deviation of a channel; NaN if nothing is finite."""
        count = int(self.counts[:, channel].sum())
        if not count:
            return (np.nan,) * 4
        mean = float(self.sums[:, channel].sum()) / count
        variance = max(0.0, float(self.squares[:, channel].sum()) / count - mean**2)
        low, high = float(self.lows[:, channel].min()), float(self.highs[:, channel].max())
        return low, high, mean + float(self.shifts[channel]), variance**0.5


def measure(recording: Recording) -> Numbers:
    """Read frames one by one and measure them, all or so many that they stay below :data:`MOST_BYTES`.

    Args:
        recording: Data.
    """
    simulations, times, channels = recording.frames.shape[:3]
    size = int(np.prod(recording.frames.shape[2:])) * recording.frames.dtype.itemsize
    count = max(1, min(simulations * times, MOST_BYTES // max(1, size)))
    chosen = choose(simulations, simulations if count == simulations * times else max(1, int(count**0.5)))
    places = choose(times, min(MOST_FRAMES, max(1, count // len(chosen))))
    mask = layout_of_recording(recording).mask
    shape = (len(places), channels)
    numbers = Numbers(
        frames=len(chosen) * len(places),
        of=simulations * times,
        places=np.array(places),
        counts=np.zeros(shape, dtype=np.int64),
        missing=np.zeros(shape, dtype=np.int64),
        lows=np.full(shape, np.inf),
        highs=np.full(shape, -np.inf),
        shifts=np.full(channels, np.nan),
        sums=np.zeros(shape),
        squares=np.zeros(shape),
    )
    for simulation in chosen:
        for row, place in enumerate(places):
            frame = np.asarray(recording.frames[simulation, place])
            for channel, held in enumerate(mask):
                _count(numbers, row, channel, frame[channel][held].astype(np.float64))
    np.nan_to_num(numbers.shifts, copy=False)
    return numbers


def _count(numbers: Numbers, row: int, channel: int, values: NDArray[np.float64]) -> None:
    """Count the values of a channel at a time."""
    finite = values[np.isfinite(values)]
    numbers.missing[row, channel] += values.size - finite.size
    if not finite.size:
        return
    if np.isnan(numbers.shifts[channel]):
        numbers.shifts[channel] = finite.mean()
    place, moved = (row, channel), finite - numbers.shifts[channel]
    numbers.counts[place] += finite.size
    numbers.lows[place] = min(numbers.lows[place], finite.min())
    numbers.highs[place] = max(numbers.highs[place], finite.max())
    numbers.sums[place] += moved.sum()
    numbers.squares[place] += np.square(moved).sum()


def rows(recording: Recording) -> list[list[str]]:
    """Return the table of what the data are: a head, then a row a fact."""
    simulations, times, channels, *grid = recording.frames.shape
    total, held = channels * int(np.prod(grid)), int(layout_of_recording(recording).mask.sum())
    return [
        ["", plain(Path(recording.name).name)],
        ["simulations", f"{simulations:,}, each of {times:,} frames of {recording.frames.dtype}"],
        ["points", " x ".join(map(str, grid))],
        ["times", _span(recording.times, recording.time_unit)],
        *([f"axis {name}", _axis(recording, place)] for place, name in enumerate(recording.axes)),
        *([f"parameter {name}", words] for name, words in _parameters(recording)),
        *([["points without a value", f"{total - held:,} of {total:,} in every frame"]] if held < total else []),
    ]


def channel_rows(recording: Recording, numbers: Numbers) -> list[list[str]]:
    """Return the table of channels: a head, then a row a channel with its unit, its range, and values that are missing."""
    body = [
        [name, unit or "-", *map(_number, numbers.overall(c)), f"{int(numbers.missing[:, c].sum()):,}"]
        for c, (name, unit) in enumerate(zip(recording.channels, recording.channel_units, strict=True))
    ]
    return [["channel", "unit", "least", "largest", "mean", "std", "missing"], *body]


def _number(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else "-"


def _span(values: NDArray[np.float64] | None, unit: str) -> str:
    """Write where times or positions begin and end, and how far apart they lie."""
    if values is None:
        return "unknown"
    after = "" if unit in ("", "1") else f" {unit}"
    if len(values) < 2:
        return f"{values[0]:.6g}{after}"
    steps = np.diff(values)
    even = bool(np.allclose(steps, steps.mean(), rtol=1e-3, atol=0))
    return f"{values[0]:.6g} to {values[-1]:.6g}{after}, {f'{steps.mean():.6g} apart' if even else 'unevenly spaced'}"


def _axis(recording: Recording, place: int) -> str:
    count = recording.frames.shape[3 + place]
    around = {True: ", periodic", False: "", None: ""}[recording.periodic[place]]
    return f"{count} points, {_span(recording.coordinates[place], recording.axis_units[place])}{around}"


def _parameters(recording: Recording) -> list[tuple[str, str]]:
    found = []
    for k, (name, unit) in enumerate(zip(recording.parameters, recording.parameter_units, strict=True)):
        values = np.unique(recording.params[:, k])
        after = "" if unit in ("", "1") else f" {unit}"
        some = ", ".join(f"{value:.4g}" for value in values[:6])
        more = f" ... {values[-1]:.4g} ({len(values)} values)" if len(values) > 6 else ""
        found.append((name, f"{some}{more}{after}"))
    return found


# ---- figures


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
        figures.append(Figure(name, f"{view.title} of {_words(recording)} at several times"))
        if view.is_line and not view.is_unordered and recording.frames.shape[1] >= 8:
            name = f"space_time_{view.key}.png" if view.key else "space_time.png"
            save(plot, folder / name, _draw_space_time(plot, view, recording, layout))
            figures.append(Figure(name, f"{view.title} in space and time"))
    left = len(layout.channels) - MOST_CHANNELS
    if left > 0:
        figures.append(Figure("", f"{left} of {len(layout.channels)} channels are not drawn."))
    if len(numbers.places) > 1:
        save(plot, folder / "over_time.png", _draw_over_time(plot, recording, layout, numbers))
        figures.append(Figure("over_time.png", "Mean of each channel over time; light, its least and largest value"))
    return figures


def draw_animation(folder: Path, recording: Recording) -> list[Figure]:
    """Animate the first view of some simulations side by side, and return the figure written; none of a single frame."""
    times = recording.frames.shape[1]
    if times < 2:
        return []
    layout = layout_of_recording(recording)
    view, chosen = views(layout)[0], choose(times, 40)
    pictures = {_name(recording, layout, s): [_picture(view, recording, s, t) for t in chosen] for s in _simulations(recording)}
    animate(folder / NAME, view, pictures, [_time(recording, layout, t) for t in chosen], view.title)
    return [Figure(NAME, f"{view.title} of {_words(recording)} over time")]


def _simulations(recording: Recording) -> list[int]:
    return choose(len(recording.frames), MOST_SIMULATIONS)


def _words(recording: Recording) -> str:
    shown, total = len(_simulations(recording)), len(recording.frames)
    return f"{shown} of {total} simulations" if total > shown else "all simulations" if total > 1 else "the simulation"


def _name(recording: Recording, layout: Layout, simulation: int) -> str:
    """Name a simulation by its number and scenario."""
    scenario = layout.scenario(recording.params[simulation] if recording.params.shape[1] else None)
    return f"simulation {simulation + 1}" + (f", {scenario}" if scenario else "")


def _time(recording: Recording, layout: Layout, place: int) -> str:
    return f"frame {place + 1}" if recording.times is None else f"{layout.time(recording.times[place])} (frame {place + 1})"


def _picture(view: View, recording: Recording, simulation: int, time: int) -> Picture:
    return view.convert(np.asarray(recording.frames[simulation, time]))


def _draw_view(plot: Any, view: View, recording: Recording, layout: Layout) -> Any:
    times = choose(recording.frames.shape[1], MOST_TIMES)
    pictures = {_name(recording, layout, s): [_picture(view, recording, s, t) for t in times] for s in _simulations(recording)}
    columns = [_time(recording, layout, t) for t in times]
    if view.is_line:
        drawn = {name: {"color": _COLOURS[i % len(_COLOURS)]} for i, name in enumerate(pictures)}
        return draw_lines(plot, view, pictures, None, drawn, columns, view.title)
    scale = scale_of([one for series in pictures.values() for one in series], view.active, view.label)
    panels = {
        (row, column): Panel(picture, scale, empty="no finite value")
        for row, series in enumerate(pictures.values())
        for column, picture in enumerate(series)
    }
    return draw_grid(plot, view, panels, list(pictures), columns, view.title)


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
        return places + 1.0, "frame"
    return recording.times[places], with_unit("t", layout.time_unit)


def _draw_over_time(plot: Any, recording: Recording, layout: Layout, numbers: Numbers) -> Any:
    channels = range(min(len(layout.channels), MOST_CHANNELS))
    columns = min(3, len(channels))
    count = -(-len(channels) // columns)
    size = (4.8 * columns + 0.6, 3.0 * count)
    figure, axes = plot.subplots(count, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat[len(channels) :]:
        ax.set_axis_off()
    times, label = _times(recording, layout, numbers.places)
    means, empty = numbers.means(), numbers.counts == 0
    lows, highs = (np.where(empty, np.nan, values) for values in (numbers.lows, numbers.highs))
    for channel, ax in zip(channels, axes.flat, strict=False):
        ax.fill_between(times, lows[:, channel], highs[:, channel], color=_COLOURS[0], alpha=0.2, linewidth=0)
        ax.plot(times, means[:, channel], color=_COLOURS[0])
        ax.set(xlabel=label, ylabel=layout.label(channel))
        ax.grid(alpha=0.3)
    return figure


def notes(recording: Recording, numbers: Numbers) -> Sequence[str]:
    """Return sentences on what was left out or assumed, and on how much was read."""
    found = list(recording.notes)
    if numbers.frames < numbers.of:
        found.append(f"The numbers are those of {numbers.frames:,} of {numbers.of:,} frames, chosen evenly.")
    return found
