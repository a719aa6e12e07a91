"""Panels of a figure: pictures with colours by the data, in rows and columns, with a bar for each scale of colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.cli.reports.layouts import plain
from deepzero_sim.cli.reports.placement import COLUMN_GAP, Grid, place
from deepzero_sim.cli.reports.views import Picture, View

#: Share of values at either end that may lie beyond the colours, where they lie far beyond.
OUTLIERS = 0.005

#: Share of the larger side of zero that the smaller one needs for a field to be one of both signs.
BOTH_SIGNS = 0.05

#: Grey of points where a state holds no value.
NO_VALUE = "#b0b0b0"

#: Colours of fields of both signs, of one sign, of errors, and of errors without a sign.
DIVERGING, SEQUENTIAL, ERRORS, SIZES = "RdBu_r", "viridis", "PuOr_r", "magma"

#: Inches: the longer side of a panel, the least width of a column, and the widest and the highest figure.
LONGER_SIDE, NARROWEST, WIDEST, HIGHEST = 2.6, 1.2, 18.0, 36.0


@dataclass(frozen=True)
class Scale:
    """Scale of colours.

    Args:
        low: Value of the first colour.
        high: Value of the last colour.
        colours: Name of matplotlib's colour map.
        label: Quantity with its unit.
    """

    low: float
    high: float
    colours: str
    label: str


def scale_of(pictures: Iterable[Picture], active: NDArray[np.bool_], label: str) -> Scale:
    """Return the scale of a field: symmetric about zero if it has both signs, from its least to its largest value if not.

    Args:
        pictures: Pictures that the scale is for; what is not finite does not count.
        active: True where they show a value.
        label: Quantity with its unit.
    """
    low, high = limits(pictures, active)
    if low < 0 < high and min(-low, high) >= BOTH_SIGNS * max(-low, high):
        limit = max(-low, high)
        return Scale(-limit, limit, DIVERGING, label)
    if low == high:  # a constant field, in the middle of the colours
        around = abs(low) * 1e-3 or 1e-3
        return Scale(low - around, high + around, SEQUENTIAL, label)
    return Scale(low, high, SEQUENTIAL, label)


def scale_of_errors(errors: Sequence[Picture], active: NDArray[np.bool_], label: str) -> Scale:
    """Return the scale of errors, symmetric about zero, by the first of them that is finite and not zero throughout."""
    for one in errors:
        low, high = limits([one], active)
        limit = max(-low, high)
        if limit > 0:
            return Scale(-limit, limit, ERRORS, label)
    return Scale(-1.0, 1.0, ERRORS, label)


def limits(pictures: Iterable[Picture], active: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the least and the largest value, of those that are not far outliers; two zeros if none is finite."""
    values = np.concatenate([values_of(one, active) for one in pictures] or [np.empty(0)])
    if not values.size:
        return 0.0, 0.0
    low, high = (float(value) for value in np.quantile(values, (OUTLIERS, 1 - OUTLIERS)))
    least, largest = float(values.min()), float(values.max())
    width = high - low
    if not width:
        return least, largest
    return (least if low - least <= width else low), (largest if largest - high <= width else high)


def values_of(picture: Picture, active: NDArray[np.bool_]) -> Picture:
    """Return the finite values that a picture shows."""
    values = picture[active]
    return np.asarray(values[np.isfinite(values)])


@dataclass(frozen=True, eq=False)
class Panel:
    """Picture in a place of a figure.

    Args:
        picture: Picture of a view.
        scale: Scale of its colours.
        note: Words above the picture, such as its mean; None for no words, not even on values that are not finite.
        empty: Word in the place of a picture without a finite value.
    """

    picture: Picture
    scale: Scale
    note: str | None = ""
    empty: str = "diverged"


def draw_grid(
    plot: Any, view: View, panels: Mapping[tuple[int, int], Panel], rows: Sequence[str], columns: Sequence[str], title: str
) -> Any:
    """Draw panels in rows and columns.

    Args:
        plot: Matplotlib's pyplot.
        view: View that all pictures are of.
        panels: Panels by row and column.
        rows: Name of each row.
        columns: Name of each column.
        title: Title of the figure.
    """
    width, height = _panel_size(view, len(rows), len(columns))
    cell = max(width, NARROWEST)  # columns keep room for the names of narrow panels
    figure, axes = plot.subplots(len(rows), len(columns), squeeze=False)
    for (row, column), ax in np.ndenumerate(axes):
        panel = panels.get((row, column))
        if panel is None:
            ax.set_axis_off()
            continue
        draw_picture(ax, view, panel)
        first = all((row, before) not in panels for before in range(column))
        last = all((below, column) not in panels for below in range(row + 1, len(rows)))
        ax.tick_params(labelsize=7, labelleft=first, labelbottom=last)
        ax.ticklabel_format(scilimits=(-3, 4))  # powers of ten once, at the end of the axis
        ax.locator_params(axis="x", nbins=3 if width < 1.6 else 5)
        ax.locator_params(axis="y", nbins=5)
    _name_rows_and_columns(axes, panels, rows, columns, view, (cell, height))
    bars: dict[tuple[int, ...], list[tuple[Any, list[int]]]] = {}
    for block, scale in _blocks(panels, len(rows)):
        shown = [panel.picture for (row, _), panel in panels.items() if row in block and panel.scale == scale]
        beyond = _beyond(scale, shown, view.active)
        bars.setdefault(tuple(block), []).append((_draw_bar(plot, figure, scale, beyond, height * len(block)), block))
    place(figure, Grid(axes, panels, width, height, max(cell, width + COLUMN_GAP)), list(bars.values()), title)
    return figure


def _draw_bar(plot: Any, figure: Any, scale: Scale, beyond: str, high: float) -> Any:
    """Draw a bar of colours next to rows that are so high together, in inches, and return its axes."""
    ax = figure.add_axes((0.0, 0.0, 0.1, 0.9), label="<colorbar>")
    colours = plot.cm.ScalarMappable(norm=plot.Normalize(scale.low, scale.high), cmap=scale.colours)
    bar = figure.colorbar(colours, cax=ax, extend=beyond, extendfrac=0.03)
    bar.set_label(fill(scale.label, max(12, int(11 * high))), fontsize=8)
    ax.tick_params(labelsize=7)
    bar.locator = plot.MaxNLocator(nbins=5 if high < 3 else 8)
    bar.update_ticks()
    return ax


def _blocks(panels: Mapping[tuple[int, int], Panel], rows: int) -> list[tuple[list[int], Scale]]:
    """Return rows that follow each other and have the same scales, with each of these."""
    blocks: list[tuple[list[int], list[Scale]]] = []
    for number in range(rows):
        scales = list(dict.fromkeys(panel.scale for (row, _), panel in panels.items() if row == number))
        if blocks and blocks[-1][1] == scales:
            blocks[-1][0].append(number)
        else:
            blocks.append(([number], scales))
    return [(block, scale) for block, scales in blocks for scale in scales]


def _panel_size(view: View, rows: int, columns: int) -> tuple[float, float]:
    """Return width and height of a panel in inches: as the picture's, and such that the figure is not too large."""
    ratio = min(6.0, max(0.25, view.ratio))
    width, height = (LONGER_SIDE, LONGER_SIDE / ratio) if ratio >= 1 else (LONGER_SIDE * ratio, LONGER_SIDE)
    factor = 1.6 if rows * columns <= 6 else 1.0
    factor = min(factor, WIDEST / (width * columns), HIGHEST / (height * rows))
    return width * factor, height * factor


def _beyond(scale: Scale, pictures: Sequence[Picture], active: NDArray[np.bool_]) -> str:
    """Return at which ends of a bar values lie beyond the colours."""
    values = np.concatenate([values_of(one, active) for one in pictures])
    below, above = bool((values < scale.low).any()), bool((values > scale.high).any())
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]


def _name_rows_and_columns(
    axes: Any,
    panels: Mapping[tuple[int, int], Panel],
    rows: Sequence[str],
    columns: Sequence[str],
    view: View,
    size: tuple[float, float],
) -> None:
    width, height = (max(10, int(12 * inches)) for inches in size)
    up = "" if view.up is None else view.up.label
    for column, name in enumerate(columns):
        places = [row for row in range(len(rows)) if (row, column) in panels]
        above = axes[places[0], column]
        above.set_title("\n".join(filter(None, (fill(plain(name), width), above.get_title()))), fontsize=9)
        axes[places[-1], column].set_xlabel(view.across.label, fontsize=8)
    for row, name in enumerate(rows):
        (first, *_) = [column for column in range(len(columns)) if (row, column) in panels]
        axes[row, first].set_ylabel(f"{fill(plain(name), height)}\n{up}".strip(), fontsize=8)


def draw_picture(ax: Any, view: View, panel: Panel) -> None:
    """Draw a picture with its axes upright as named; grey where there is no value, blank where one is not finite."""
    assert view.up is not None
    scale = panel.scale
    shown = np.where(view.active & np.isfinite(panel.picture), panel.picture, np.nan)
    _draw_cells(ax, view, shown, cmap=scale.colours, vmin=scale.low, vmax=scale.high)
    if not view.active.all():
        grey = np.where(view.active, np.nan, 0.0)
        _draw_cells(ax, view, grey, cmap=_single_colour(NO_VALUE), vmin=0, vmax=1)
    ax.set_aspect("equal" if view.to_scale else "auto")
    if view.points_down:
        ax.invert_yaxis()
    lost = int(np.count_nonzero(~np.isfinite(panel.picture[view.active])))
    words = panel.note or ""
    if lost == np.count_nonzero(view.active):
        ax.text(0.5, 0.5, panel.empty, transform=ax.transAxes, ha="center", va="center", fontsize=9, color="#a00000")
    elif lost and panel.note is not None:
        words = f"{words}\n{lost:,} points not finite".strip()
    ax.set_title(words, fontsize=7, pad=3)


def _draw_cells(ax: Any, view: View, values: Picture, **style: Any) -> None:
    """Draw a cell around each point."""
    assert view.up is not None
    across, up = view.across.edges, view.up.edges
    if view.across.is_uniform and view.up.is_uniform:
        extent = (across[0], across[-1], up[0], up[-1])
        between = "nearest" if max(values.shape) < 400 else "auto"
        ax.imshow(values, origin="lower", extent=extent, interpolation=between, **style)
    else:
        ax.pcolormesh(across, up, values, **style)


def _single_colour(colour: str) -> Any:
    from matplotlib.colors import ListedColormap  # noqa: PLC0415 - optional, and slow to import

    return ListedColormap([colour])
