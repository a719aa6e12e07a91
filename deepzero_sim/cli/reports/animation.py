"""Animations of states as GIF: pictures or lines of several methods or simulations side by side, with errors below."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepzero_sim.cli.reports.fields import REFERENCE, name_of_step, states_of, title_of, typical_simulation
from deepzero_sim.cli.reports.figures import Figure, pyplot, styles
from deepzero_sim.cli.reports.layouts import layout_of_comparison, plain
from deepzero_sim.cli.reports.lines import differences, draw_lines
from deepzero_sim.cli.reports.ownership import MARK
from deepzero_sim.cli.reports.panels import Panel, draw_grid, scale_of, scale_of_errors
from deepzero_sim.cli.reports.views import Picture, View, views
from deepzero_sim.common.files import replace_file

if TYPE_CHECKING:
    from deepzero_sim.training.runs.comparison import Comparison

#: Name of the file, in the folder of the page that shows it.
NAME = "animation.gif"

#: Most pictures of an animation, milliseconds that each of them is shown, and the last one, and dots an inch.
MOST_FRAMES, MILLISECONDS, LAST, DPI = 40, 150, 1500, 72


def draw(folder: Path, comparison: Comparison) -> list[Figure]:
    """Animate a typical simulation of a comparison, and return the figure that was written; none of states of one point.

    Args:
        folder: Folder of the figure.
        comparison: Results.
    """
    view = views(layout_of_comparison(comparison))[0]
    if view.is_point:
        return []
    simulation, why = typical_simulation(comparison)
    states = states_of(comparison, simulation)
    steps = list(states[REFERENCE])
    chosen = [steps[place] for place in choose(len(steps))]
    pictures = {name: [view.convert(np.asarray(found[step])) for step in chosen] for name, found in states.items()}
    times = [name_of_step(comparison, step) for step in chosen]
    title = f"{view.title}: {title_of(comparison, simulation, why)}"
    animate(folder / NAME, view, pictures, times, title, REFERENCE)
    return [Figure(NAME, f"{title}; over time, with errors below")]


def choose(frames: int, most: int = MOST_FRAMES) -> list[int]:
    """Return the places of frames that are shown: all, or so many, evenly, the first and the last one among them."""
    return [int(place) for place in np.unique(np.linspace(0, frames - 1, min(frames, most)).round())]


def animate(
    path: Path,
    view: View,
    pictures: Mapping[str, Sequence[Picture]],
    times: Sequence[str],
    title: str,
    reference: str | None = None,
) -> None:
    """Write an animation, whole or not at all.

    Args:
        path: Path of the GIF.
        view: View of all pictures.
        pictures: Pictures by name, one for each time.
        times: Name of each time.
        title: Title of the animation.
        reference: Name of those that errors of all others are from; None for no errors.
    """
    plot = pyplot()
    draw_all = _lines if view.is_line else _panels
    figure, show = draw_all(plot, view, pictures, title, reference)
    figure.set_dpi(DPI)
    heading = figure._suptitle

    words = heading.get_text()
    heading.set_text(f"{words}\n{plain(times[0])}")
    figure.canvas.draw()
    figure.set_layout_engine("none")  # so that nothing moves
    part = _part_drawn(figure)

    def frames() -> Iterator[Any]:
        for place, time in enumerate(times):
            show(place)
            heading.set_text(f"{words}\n{plain(time)}")
            yield _image(figure, part)

    _write_gif(path, list(frames()))
    plot.close(figure)


def _part_drawn(figure: Any) -> tuple[slice, slice]:
    """Return the rows and columns of pixels that a figure draws on, with a margin."""
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    width, height = (int(inches * figure.dpi) for inches in figure.get_size_inches())
    left, bottom, right, top = (round(inches * figure.dpi) for inches in box.extents)
    margin = 8
    rows = slice(max(0, height - top - margin), min(height, height - bottom + margin))
    return rows, slice(max(0, left - margin), min(width, right + margin))


def _image(figure: Any, part: tuple[slice, slice]) -> Any:
    """Render a part of a figure as an image of 256 colours."""
    from PIL import Image  # noqa: PLC0415 - matplotlib needs it, too, and is optional

    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3][part]
    return Image.fromarray(np.ascontiguousarray(pixels)).quantize(256, dither=Image.Dither.NONE)


def _write_gif(path: Path, shown: Sequence[Any]) -> None:
    durations = [MILLISECONDS] * (len(shown) - 1) + [LAST]
    with replace_file(path) as aside:
        shown[0].save(aside, format="GIF", save_all=True, append_images=shown[1:], duration=durations, loop=0, comment=MARK)


def _panels(
    plot: Any, view: View, pictures: Mapping[str, Sequence[Picture]], title: str, reference: str | None
) -> tuple[Any, Callable[[int], None]]:
    """Draw panels side by side; return the figure and the function that shows another time."""
    names = list(pictures)
    scale = scale_of(next(iter(pictures.values())) if reference else _all(pictures), view.active, view.label)
    errors = _errors(pictures, reference)
    error_scale = scale_of_errors(
        [one for series in errors.values() for one in series[::-1]], view.active, f"error of {view.label}"
    )
    series = {(0, names.index(name)): (found, scale) for name, found in pictures.items()}
    series |= {(1, names.index(name)): (found, error_scale) for name, found in errors.items()}
    empty = "diverged" if reference else "no finite value"
    first = {place: Panel(found[0], colours, note=None, empty="") for place, (found, colours) in series.items()}
    figure = draw_grid(plot, view, first, ["", "error"] if errors else [""], names, title)
    axes = {place: figure.axes[place[0] * len(names) + place[1]] for place in series}
    in_middle = {"ha": "center", "va": "center", "fontsize": 9, "color": "#a00000"}
    words = {place: ax.text(0.5, 0.5, "", transform=ax.transAxes, **in_middle) for place, ax in axes.items()}

    def show(time: int) -> None:
        for place, (found, _) in series.items():
            finite = view.active & np.isfinite(found[time])
            cells = (*axes[place].images, *axes[place].collections)[0]
            cells.set_array(np.where(finite, found[time], np.nan))
            words[place].set_text("" if finite.any() else empty)

    return figure, show


def _lines(
    plot: Any, view: View, pictures: Mapping[str, Sequence[Picture]], title: str, reference: str | None
) -> tuple[Any, Callable[[int], None]]:
    """Draw lines over each other; return the figure and the function that shows another time."""
    drawn = {name: line for name, (line, _) in styles(pictures).items()}
    errors = _errors(pictures, reference)
    if reference:
        drawn[reference] = {"color": "grey", "linestyle": "--", "linewidth": 2.5}
    first = {name: found[:1] for name, found in pictures.items()}
    figure = draw_lines(plot, view, first, reference, drawn, [""], title, bounds=pictures)
    upper, lower = figure.axes[0], figure.axes[1] if errors else None

    def show(time: int) -> None:
        for ax, series in ((upper, pictures), (lower, errors)):
            for line in () if ax is None else ax.get_lines():
                if line.get_gid() in series:
                    values = series[line.get_gid()][time]
                    line.set_ydata(np.where(view.active & np.isfinite(values), values, np.nan))

    return figure, show


def _errors(pictures: Mapping[str, Sequence[Picture]], reference: str | None) -> dict[str, list[Picture]]:
    if reference is None:
        return {}
    return {name: differences(found, pictures[reference]) for name, found in pictures.items() if name != reference}


def _all(pictures: Mapping[str, Sequence[Picture]]) -> list[Picture]:
    return [one for found in pictures.values() for one in found]
