"""States with one axis: lines with their errors below, and pictures of space and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.cli.reports.figures import name_below, note_within
from deepzero_sim.cli.reports.layouts import Axis, plain
from deepzero_sim.cli.reports.panels import Panel, draw_grid, limits, scale_of, scale_of_errors, values_of
from deepzero_sim.cli.reports.views import Picture, View

#: How many times a typical range an axis may leave it to hold a method whole, and how far it goes for one that is cut off.
FURTHEST, ROOM = 10.0, 0.3


def draw_lines(
    plot: Any,
    view: View,
    pictures: Mapping[str, Sequence[Picture]],
    reference: str | None,
    drawn: Mapping[str, Mapping[str, Any]],
    columns: Sequence[str],
    title: str,
    bounds: Mapping[str, Sequence[Picture]] | None = None,
) -> Any:
    """Draw lines of several methods over each other, in a column for each time, and in a second row their errors.

    Args:
        plot: Matplotlib's pyplot.
        view: View that all lines are of.
        pictures: Lines by method, one for each column.
        reference: Name of the method that errors are from; None for no errors.
        drawn: Style of each method's line.
        columns: Name of each column.
        title: Title of the figure.
        bounds: Lines that the axes have room for; those drawn if None.
    """
    bounds = bounds or pictures
    rows = 1 if reference is None or len(pictures) == 1 else 2
    size = (max(6.0, 3.0 * len(columns) + 0.8), 2.4 * rows + 1.3)
    figure, axes = plot.subplots(
        rows, len(columns), figsize=size, squeeze=False, sharex=True, sharey="row", layout="constrained"
    )
    order = sorted(pictures, key=lambda name: name == reference)  # the reference on top, dashed: what lies on it is still seen
    for column, ax in enumerate(axes[0]):
        ax.set_title(plain(columns[column]), fontsize=9)
        for name in order:
            draw_line(ax, view, pictures[name][column], name, drawn[name])
    typical = [one for series in bounds.values() for one in series] if reference is None else bounds[reference]
    note_within(axes[0, -1], _limit(axes[0, 0], bounds, typical, view))
    axes[0, 0].set_ylabel(view.label)
    if rows == 2:
        assert reference is not None
        _draw_errors(axes[1], view, pictures, reference, drawn)
        errors = {name: differences(bounds[name], bounds[reference]) for name in bounds if name != reference}
        note_within(
            axes[1, -1], _limit(axes[1, 0], errors, [*_typical(list(errors.values()), view), np.zeros(view.active.shape)], view)
        )
    for ax in axes[-1]:
        ax.set_xlabel(view.across.label)
    lines = dict(zip(*axes[0, -1].get_legend_handles_labels()[::-1], strict=True))
    places = sorted(range(len(order)), key=lambda i: list(pictures).index(order[i]))
    name_below(figure, {list(lines)[i]: list(lines.values())[i] for i in places})
    figure.suptitle(fill(title, max(40, int(size[0] * 9))), fontsize=11)
    return figure


def _draw_errors(
    axes: Sequence[Any],
    view: View,
    pictures: Mapping[str, Sequence[Picture]],
    reference: str,
    drawn: Mapping[str, Mapping[str, Any]],
) -> None:
    """Draw the errors of all methods, in a column for each time."""
    for column, ax in enumerate(axes):
        ax.axhline(0.0, color="grey", linestyle="--", linewidth=1)
        for name in pictures:
            if name != reference:
                (error,) = differences([pictures[name][column]], [pictures[reference][column]])
                draw_line(ax, view, error, name, drawn[name])
    axes[0].set_ylabel(f"error of {view.label}")


def draw_line(ax: Any, view: View, values: Picture, name: str, style: Mapping[str, Any]) -> None:
    """Draw a line, or points that no line should join; it has gaps where there is no value, or one that is not finite."""
    shown = np.where(view.active & np.isfinite(values), values, np.nan)
    finite = np.isfinite(values[view.active])
    label = plain(name) if finite.all() else f"{plain(name)} (diverged)"
    points = {"linestyle": "none", "marker": ".", "markersize": 2} if view.is_unordered else {}
    ax.plot(view.across.positions, shown, label=label, gid=name, **{**style, **points})


def differences(values: Sequence[Picture], others: Sequence[Picture]) -> list[Picture]:
    """Subtract pictures from each other; what is not finite stays so."""
    with np.errstate(invalid="ignore", over="ignore"):
        return [one - other for one, other in zip(values, others, strict=True)]


def _typical(errors: Sequence[Sequence[Picture]], view: View) -> Sequence[Picture]:
    """Return the errors of the first method that has finite ones that are not zero."""
    for series in errors:
        if limits(series, view.active) != (0.0, 0.0):
            return series
    return errors[0]


def _limit(ax: Any, series: Mapping[str, Sequence[Picture]], typical: Sequence[Picture], view: View) -> str:
    """Make room for all lines, but for what lies far beyond typical ones, and return words on what is cut off."""
    low, high = limits(typical, view.active)
    width = (high - low) or abs(low) or 1.0
    bottom, top, ends = low, high, dict[str, tuple[float, float]]()
    for name, pictures in series.items():
        values = np.concatenate([values_of(one, view.active) for one in pictures])
        if values.size:
            least, largest = ends[name] = float(values.min()), float(values.max())
            far = max(low - least, largest - high) > FURTHEST * width
            bottom = min(bottom, max(least, low - ROOM * width) if far else least)
            top = max(top, min(largest, high + ROOM * width) if far else largest)
    margin = 0.05 * (top - bottom) or 0.05 * width
    ax.set_ylim(bottom - margin, top + margin)
    cut = {name: (least, largest) for name, (least, largest) in ends.items() if least < bottom or largest > top}
    return "\n".join(f"{plain(name)} reaches {_furthest(*pair, bottom, top):.3g}" for name, pair in cut.items())


def _furthest(least: float, largest: float, bottom: float, top: float) -> float:
    """Return which of two values lies further outside of a range."""
    return least if bottom - least > largest - top else largest


def draw_space_time(
    plot: Any,
    view: View,
    times: NDArray[np.float64],
    fields: Mapping[str, Picture],
    errors: Mapping[str, Picture],
    title: str,
    time_label: str,
) -> Any:
    """Draw pictures with space across and time upwards (Hovmoeller), and errors below each.

    Args:
        plot: Matplotlib's pyplot.
        view: View of lines.
        times: Time of each line.
        fields: Lines of all times by method, `(T, across)`.
        errors: Errors of all times by method.
        title: Title of the figure.
        time_label: Name of the axis of time, with its unit.
    """
    active = np.broadcast_to(view.active, next(iter(fields.values())).shape)
    up = Axis(name=time_label, unit="", positions=times, known=True)
    plane = replace(view, up=up, active=active, may_be_to_scale=False)
    scale = scale_of([next(iter(fields.values()))], active, view.label)
    error_scale = scale_of_errors(list(errors.values()), active, f"error of {view.label}")
    columns = list(fields)
    panels = {(0, column): Panel(fields[name], scale) for column, name in enumerate(columns)}
    panels |= {(1, columns.index(name)): Panel(values, error_scale) for name, values in errors.items()}
    rows = ["", "error"] if errors else [""]
    return draw_grid(plot, plane, panels, rows, columns, title)
