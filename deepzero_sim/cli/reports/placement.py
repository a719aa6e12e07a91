"""Places of panels and bars in a figure, in inches.

All panels have one size, so that words need measuring only at the left and lower edge of the grid and at its bars. Matplotlib's
own layouts measure every panel several times, which takes seconds with dozens of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

#: Inches: between rows, between columns, around the figure, next to a bar, across it, and below axes that end within the grid.
GAP, COLUMN_GAP, EDGE, BESIDE_BAR, BAR, NAMED_AXIS = 0.12, 0.2, 0.08, 0.14, 0.14, 0.3

#: Inches: a line of the title, of the words above panels, and the narrowest figure that has room for a title.
TITLE_LINE, LINE, NARROWEST_FIGURE = 0.2, 0.155, 4.2

#: Longest bar, in inches and as a share of its rows.
LONGEST_BAR, SHARE_OF_ROWS = 5.0, 0.95


@dataclass(frozen=True, eq=False)
class Grid:
    """Axes in rows and columns.

    Args:
        axes: Axes by row and column.
        shown: Places of the axes that have a picture.
        width: Width of a panel in inches.
        height: Height of a panel in inches.
        pitch: Width of a column in inches.
    """

    axes: Any
    shown: Collection[tuple[int, int]]
    width: float
    height: float
    pitch: float

    def row_tops(self) -> list[float]:
        """Return how far the upper edge of each row lies below the words above the first one."""
        tops, below = list[float](), 0.0
        for row in range(len(self.axes)):
            below += self._words_above(row) if row == 0 else GAP + self._words_above(row) + self._axis_above(row)
            tops.append(below)
            below += self.height
        return tops

    def _words_above(self, row: int) -> float:
        """Return the room for the words above the panels of a row; those below an empty place have room there."""
        places = [column for column in self._columns(row) if row == 0 or (row - 1, column) in self.shown]
        lines = [self.axes[row, column].get_title().count("\n") + 1 for column in places if self.axes[row, column].get_title()]
        return LINE * max(lines, default=0)

    def _axis_above(self, row: int) -> float:
        """Return the room for the names of axes that end above a row."""
        ends = set(self._columns(row - 1)) - {column for below, column in self.shown if below >= row}
        return NAMED_AXIS if ends else 0.0

    def _columns(self, row: int) -> list[int]:
        return [column for at, column in self.shown if at == row]

    @property
    def across(self) -> float:
        """Width of all columns in inches."""
        return float(self.pitch * (self.axes.shape[1] - 1) + self.width)


def place(figure: Any, grid: Grid, bars: Sequence[Sequence[tuple[Any, Sequence[int]]]], title: str) -> None:
    """Size a figure for its grid, and put panels, bars and title in their places.

    Args:
        figure: Figure without a layout of its own.
        grid: Axes of the panels.
        bars: Axes of bars of colours with the rows that they are for, by block of rows, from left to right.
        title: Title of the figure.
    """
    tops, renderer = grid.row_tops(), figure.canvas.get_renderer()
    down = tops[-1] + grid.height
    room = 1.0  # for the time of measuring
    figure.set_size_inches(grid.across + 2 * room, down + 2 * room)
    _set_panels(figure, grid, tops, left=room, top=room)
    left = max((_overhang(grid.axes[row, 0], renderer, figure)[0] for row, column in grid.shown if column == 0), default=0.0)
    lowest = [place for place in grid.shown if place[0] == len(tops) - 1]
    bottom = max((_overhang(grid.axes[one], renderer, figure)[1] for one in lowest), default=0.0)
    offsets, right = list[list[float]](), 0.0
    for block in bars:
        at, starts = BESIDE_BAR, list[float]()
        for ax, rows in block:
            starts.append(at)
            _set_bar(figure, ax, grid, tops, rows, at, (room, room))
            at += BAR + _overhang(ax, renderer, figure)[2] + BESIDE_BAR
        offsets.append(starts)
        right = max(right, at - BESIDE_BAR)
    width = grid.across + left + right + 2 * EDGE
    spare = max(0.0, NARROWEST_FIGURE - width)
    words = fill(title, max(40, int((width + spare) * 9)))
    top = 2 * EDGE + TITLE_LINE * (words.count("\n") + 1)
    figure.set_size_inches(width + spare, top + down + bottom + EDGE)
    corner = (EDGE + left + spare / 2, top)
    _set_panels(figure, grid, tops, *corner)
    for block, starts in zip(bars, offsets, strict=True):
        for (ax, rows), start in zip(block, starts, strict=True):
            _set_bar(figure, ax, grid, tops, rows, start, corner)
    figure.suptitle(words, fontsize=11, y=1 - EDGE / figure.get_figheight(), va="top")


def _set_panels(figure: Any, grid: Grid, tops: Sequence[float], left: float, top: float) -> None:
    for row, below in enumerate(tops):
        for column, ax in enumerate(grid.axes[row]):
            _set_place(figure, ax, left + grid.pitch * column, top + below, (grid.width, grid.height))


def _set_bar(
    figure: Any, ax: Any, grid: Grid, tops: Sequence[float], rows: Sequence[int], start: float, corner: tuple[float, float]
) -> None:
    """Put a bar next to the middle of its rows."""
    left, top = corner
    high = tops[rows[-1]] + grid.height - tops[rows[0]]
    length = min(LONGEST_BAR, SHARE_OF_ROWS * high)
    _set_place(figure, ax, left + grid.across + start, top + tops[rows[0]] + (high - length) / 2, (BAR, length))


def _set_place(figure: Any, ax: Any, left: float, top: float, size: tuple[float, float]) -> None:
    """Put axes at inches from the left and from the top."""
    (width, height), (across, down) = size, figure.get_size_inches()
    ax.set_position((left / across, 1 - (top + height) / down, width / across, height / down))


def _overhang(ax: Any, renderer: Any, figure: Any) -> tuple[float, float, float]:
    """Return how far words stand out of the place of axes: to the left, below and to the right."""
    outer = ax.get_tightbbox(renderer)
    inner = figure.transFigure.transform_bbox(ax.get_position(original=True))
    left, below, right = (inner.x0 - outer.x0, inner.y0 - outer.y0, outer.x1 - inner.x1)
    return max(0.0, left) / figure.dpi, max(0.0, below) / figure.dpi, max(0.0, right) / figure.dpi
