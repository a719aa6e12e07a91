"""Figures as files."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

from deepzero_sim.cli.reports.ownership import MARK
from deepzero_sim.common.files import replace_file
from deepzero_sim.errors import MissingExtraError

#: One colour a method, the same in every figure (Okabe and Ito: told apart without red and green).
COLOURS = {
    "SRC": "#000000",
    "NON": "#56B4E9",
    "DETACHED": "#E69F00",
    "STRAIGHT-THROUGH": "#CC79A7",
    "ZO-SOL": "#D55E00",
    "FO-SOL": "#009E73",
    "SolverLayer": "#0072B2",
}


#: Dots an inch of a figure.
DPI = 144

#: Ratio of an axis' ends below which it is too short for powers of ten alone.
SHORT = 1000.0

#: Lines and points that tell runs of one method apart.
LINES, MARKERS = ("-", "--", ":", "-."), "osD^"


def styles(names: Iterable[str]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return how each run's line and point are drawn: in the colour of its method, with which its name begins."""
    drawings, drawn = {}, Counter[str]()
    for name in names:
        method = name.partition(", ")[0]
        place, colour = drawn[method] % len(LINES), COLOURS.get(method)
        drawn[method] += 1
        drawings[name] = ({"color": colour, "linestyle": LINES[place]}, {"color": colour, "marker": MARKERS[place]})
    return drawings


class Figure(NamedTuple):
    """Figure that was drawn, or a sentence on why it was not.

    Args:
        name: Name of its file, in the folder of the page that shows it; empty if there is none.
        caption: Sentence on what it shows, or on why there is none.
    """

    name: str
    caption: str


def markdown(figures: Iterable[Figure]) -> str:
    """Write the lines of Markdown that show figures, one paragraph each."""
    return "\n".join(f"![{_escape(one.caption)}]({one.name})\n" if one.name else f"{_escape(one.caption)}\n" for one in figures)


def _escape(caption: str) -> str:
    """Escape letters that mean something in Markdown, as names of channels and runs may have them."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", caption.replace(r"\$", "$"))


def pyplot() -> Any:
    """Import matplotlib's pyplot, set to draw without a screen.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - optional, and slow to import

        mpl.use("Agg")
        from matplotlib import pyplot as plot  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("drawing figures", "matplotlib", "report") from error
    return plot


def name_below(figure: Any, drawn: Mapping[str, Any]) -> None:
    """Name lines and points below the panels, where they hide nothing.

    Args:
        figure: Figure, whose layout makes room.
        drawn: Lines and points by name.
    """
    names = [fill(name, 40) for name in drawn]
    across = max(1, int(figure.get_figwidth() / (0.07 * max(map(len, names), default=0) + 0.6)))
    figure.legend(list(drawn.values()), names, loc="outside lower center", ncols=min(len(names), across), fontsize=9)


def note_within(ax: Any, words: str) -> None:
    """Write a note into the upper right corner of axes; nothing if it is empty."""
    if words:
        around = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}
        ax.text(0.98, 0.97, words, transform=ax.transAxes, ha="right", va="top", fontsize=7, color="#a00000", bbox=around)


def scale_logarithmically(axis: Any, low: float, high: float, numbers: Callable[[float], str] = "{:,.4g}".format) -> None:
    """Make an axis logarithmic from one value to another, with two numbers along it or more, whatever lies between them.

    Args:
        axis: Axis of a plot, such as its `xaxis`.
        low: Least value, positive.
        high: Largest value.
        numbers: Function that writes a number of a short axis; a long one has powers of ten.
    """
    from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415 - optional, and slow to import

    name = axis.axis_name
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    if high < SHORT * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(lambda value, _: numbers(value))
        axis.set_minor_formatter(NullFormatter())


def save(plot: Any, path: Path, figure: Any) -> None:
    """Write a figure as PNG, whole or not at all, and close it."""
    with replace_file(path) as aside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # letters that matplotlib's font has not are drawn as boxes
        layout = figure.get_layout_engine()
        if layout is not None:  # once, rather than again with every pass over the figure
            figure.set_dpi(DPI)
            layout.execute(figure)
            figure.set_layout_engine("none")
        figure.savefig(aside, format="png", dpi=DPI, metadata={"Software": MARK})
    plot.close(figure)
