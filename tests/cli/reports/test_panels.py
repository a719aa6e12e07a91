"""Pictures: colours by the data, axes upright, holes grey, what is not finite blank and said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from deepzero_sim.cli.reports.figures import Figure, markdown, pyplot
from deepzero_sim.cli.reports.layouts import layout_of_spec
from deepzero_sim.cli.reports.lines import draw_lines, draw_space_time
from deepzero_sim.cli.reports.panels import (
    DIVERGING,
    ERRORS,
    SEQUENTIAL,
    Panel,
    Scale,
    draw_grid,
    limits,
    scale_of,
    scale_of_errors,
)
from deepzero_sim.cli.reports.views import View, views
from deepzero_sim.solver.spec import SolverSpec

EVERYWHERE = np.ones((10, 10), dtype=bool)


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    if find_spec("matplotlib"):
        pyplot().close("all")


def field(low: float, high: float) -> np.ndarray[Any, Any]:
    return np.linspace(low, high, 100).reshape(10, 10)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-2.0, 4.0, (-4.0, 4.0, DIVERGING)),
        (300.0, 400.0, (300.0, 400.0, SEQUENTIAL)),
        (-400.0, -300.0, (-400.0, -300.0, SEQUENTIAL)),
        (0.0, 1.0, (0.0, 1.0, SEQUENTIAL)),
        (-0.01, 1.0, (-0.01, 1.0, SEQUENTIAL)),  # an overshoot makes no field of both signs
    ],
)
def test_colours_are_symmetric_about_zero_only_for_fields_of_both_signs(
    low: float, high: float, expected: tuple[float, float, str]
) -> None:
    found = scale_of([field(low, high)], EVERYWHERE, "T (K)")
    assert (found.low, found.high, found.colours) == (pytest.approx(expected[0]), pytest.approx(expected[1]), expected[2])
    assert found.label == "T (K)"


def test_one_wild_value_does_not_take_all_colours() -> None:
    wild = field(0.0, 1.0).repeat(10, axis=0)
    wild[0, 0] = 1e9
    assert limits([wild], np.ones_like(wild, dtype=bool)) == (0.0, pytest.approx(1.0, rel=0.01))
    assert limits([field(0.0, 1.0)], EVERYWHERE) == (0.0, 1.0)  # nothing is cut off that is not wild


def test_what_is_masked_or_not_finite_has_no_say_in_colours() -> None:
    values, active = field(1.0, 2.0), EVERYWHERE.copy()
    values[0, 0], active[0, 0] = -1e6, False
    values[5, 5], values[5, 6] = np.nan, np.inf
    assert limits([values], active) == (pytest.approx(1.0, abs=0.02), 2.0)
    assert limits([np.full((10, 10), np.nan)], EVERYWHERE) == limits([], EVERYWHERE) == (0.0, 0.0)


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-9, 1e12])
def test_a_constant_field_is_in_the_middle_of_its_colours(value: float) -> None:
    found = scale_of([np.full((10, 10), value)], EVERYWHERE, "T")
    assert found.low < value < found.high and (found.low + found.high) / 2 == pytest.approx(value)


def test_errors_have_a_scale_of_their_own_about_zero() -> None:
    diverged, right = np.full((10, 10), np.inf), np.zeros((10, 10))
    found = scale_of_errors([diverged, right, field(-0.5, 0.2)], EVERYWHERE, "error")
    assert (found.low, found.high, found.colours) == (-0.5, 0.5, ERRORS)
    assert scale_of_errors([right], EVERYWHERE, "error").high > 0


def view_of(axes: tuple[str, ...], shape: tuple[int, ...], mask: Any = None, spacing: tuple[float, ...] = ()) -> View:
    spec = SolverSpec(name="s", state_shape=(1, *shape), dt=1.0, axes=axes, channels=("T",), mask=mask, spacing=spacing)
    return views(layout_of_spec(spec))[0]


def drawn(view: View, state: np.ndarray[Any, Any], **more: Any) -> Any:
    """The axes of one panel."""
    scale = Scale(0.0, 1.0, SEQUENTIAL, view.label)
    figure = draw_grid(pyplot(), view, {(0, 0): Panel(view.convert(state), scale, **more)}, ["row"], ["column"], "title")
    return figure.axes[0]


def colour_at(ax: Any, across: float, up: float) -> tuple[int, ...]:
    """The colour that a figure has at a position of the domain."""
    figure = ax.figure
    figure.canvas.draw()
    x, y = ax.transData.transform((across, up))
    pixels = np.asarray(figure.canvas.buffer_rgba())
    found = pixels[pixels.shape[0] - 1 - int(y), int(x), :3].astype(int)
    return next((known for known in (YELLOW, PURPLE, GREY, WHITE) if np.abs(found - known).max() <= 1), tuple(found))


#: Colours of the largest and the least value, of no value, and of none that is finite.
YELLOW, PURPLE, GREY, WHITE = (253, 231, 36), (68, 1, 84), (176, 176, 176), (255, 255, 255)


@pytest.mark.parametrize("axes", [("y", "x"), ("x", "y")])
def test_a_marked_corner_is_drawn_where_its_coordinates_say(axes: tuple[str, str]) -> None:
    """Along x to the right, along y upwards, whichever comes first in the array."""
    pytest.importorskip("matplotlib")
    state = np.zeros((1, 8, 8))
    corner = (0, 7) if axes == ("y", "x") else (7, 0)  # the largest x, the smallest y
    state[(0, *corner)] = 1.0
    ax = drawn(view_of(axes, (8, 8), spacing=(0.5, 0.5)), state)
    assert colour_at(ax, across=3.5, up=0.0) == YELLOW
    assert colour_at(ax, across=0.0, up=3.5) == colour_at(ax, across=3.5, up=3.5) == PURPLE
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "row\ny") and ax.get_xlim() == (-0.25, 3.75)
    assert ax.get_title() == "column" and ax.figure.get_suptitle() == "title"


def test_depth_is_drawn_downwards() -> None:
    pytest.importorskip("matplotlib")
    state = np.zeros((1, 8, 8))
    state[0, 7] = 1.0  # the ground
    ax = drawn(view_of(("depth", "x"), (8, 8), spacing=(1.0, 1.0)), state)
    assert ax.yaxis_inverted() and colour_at(ax, across=3.0, up=7.0) == YELLOW


def test_holes_are_grey_and_what_is_not_finite_is_white_and_said() -> None:
    pytest.importorskip("matplotlib")
    mask = np.ones((1, 8, 8), dtype=bool)
    mask[0, 2, 2] = False
    state = np.zeros((1, 8, 8))
    state[0, 5, 5] = np.nan
    ax = drawn(view_of(("y", "x"), (8, 8), mask), state)
    assert colour_at(ax, 2.0, 2.0) == GREY and colour_at(ax, 5.0, 5.0) == WHITE and colour_at(ax, 0.0, 0.0) == PURPLE
    assert ax.get_title() == "column\n1 points not finite"


def test_a_picture_without_a_finite_value_says_that_it_diverged() -> None:
    pytest.importorskip("matplotlib")
    ax = drawn(view_of(("y", "x"), (8, 8)), np.full((1, 8, 8), np.inf))
    assert [text.get_text() for text in ax.texts] == ["diverged"] and colour_at(ax, 1.0, 1.0) == WHITE


def test_uneven_points_have_cells_of_uneven_width() -> None:
    pytest.importorskip("matplotlib")
    view = view_of(("y", "x"), (4, 4), spacing=(1.0, 1.0))
    uneven = replace(view, across=replace(view.across, positions=np.array([0.0, 1.0, 4.0, 5.0])))
    state = np.zeros((1, 4, 4))
    state[0, :, 2] = 1.0
    ax = drawn(uneven, state)
    assert colour_at(ax, 3.0, 1.0) == colour_at(ax, 4.4, 1.0) == YELLOW and colour_at(ax, 2.0, 1.0) == PURPLE
    assert ax.get_xlim() == (-0.5, 5.5)


def test_bars_say_where_values_lie_beyond_the_colours() -> None:
    pytest.importorskip("matplotlib")
    view, plot = view_of(("y", "x"), (8, 8)), pyplot()
    for values, expected in ((0.5, "neither"), (2.0, "max"), (-1.0, "min")):
        panels = {(0, 0): Panel(np.full((8, 8), values), Scale(0.0, 1.0, SEQUENTIAL, "T (K)"))}
        figure = draw_grid(plot, view, panels, ["row"], ["column"], "title")
        bar = figure.axes[1]
        assert bar.get_ylabel() == "T (K)" and bar._colorbar.extend == expected


LINE = view_of(("x",), (16,), spacing=(0.1,))


def test_lines_have_their_errors_below() -> None:
    pytest.importorskip("matplotlib")
    true = np.sin(LINE.across.positions)
    pictures = {"reference": [true], "SRC": [true + 0.25], "NON": [true - 0.5]}
    styles: dict[str, dict[str, Any]] = {name: {} for name in pictures}
    figure = draw_lines(pyplot(), LINE, pictures, "reference", styles, ["t = 1"], "title")
    upper, lower = figure.axes[:2]
    found = {line.get_gid(): line.get_ydata() for line in lower.get_lines() if line.get_gid() in pictures}
    assert found.keys() == {"SRC", "NON"} and np.allclose(found["SRC"], 0.25) and np.allclose(found["NON"], -0.5)
    assert (upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == ("T", "error of T", "x")
    assert upper.get_title() == "t = 1"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["reference", "SRC", "NON"]


def test_a_line_that_diverges_leaves_the_picture_and_hides_no_other() -> None:
    pytest.importorskip("matplotlib")
    true = np.sin(LINE.across.positions)
    wild, lost = true.copy(), np.full(16, np.nan)
    wild[3] = 1e9
    pictures = {"reference": [true], "SRC": [true + 0.1], "NON": [wild], "ZO-SOL": [lost]}
    figure = draw_lines(pyplot(), LINE, pictures, "reference", {name: {} for name in pictures}, ["t"], "title")
    assert figure.axes[0].get_ylim()[1] < 3 and figure.axes[1].get_ylim()[1] < 1
    assert "ZO-SOL (diverged)" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_space_and_time_has_time_upwards() -> None:
    pytest.importorskip("matplotlib")
    fields = {"reference": np.zeros((12, 16)), "SRC": np.zeros((12, 16))}
    fields["reference"][-1, 0] = 1.0  # the last time, on the left
    errors = {"SRC": fields["SRC"] - fields["reference"]}
    times = np.arange(1, 13) * 0.5
    figure = draw_space_time(pyplot(), LINE, times, fields, errors, "title", "t (s)")
    ax = figure.axes[0]
    assert colour_at(ax, across=0.0, up=6.0) == YELLOW and colour_at(ax, across=0.0, up=0.5) == PURPLE
    assert ax.get_ylabel().endswith("t (s)") and ax.get_xlabel() == "x"
    assert colour_at(figure.axes[3], across=0.0, up=6.0) != colour_at(figure.axes[3], across=1.0, up=6.0)


def test_captions_are_text() -> None:
    page = markdown([Figure("a.png", r"u_x of [a](b) *c* in \$"), Figure("", "No <b>spectra</b>.")])
    assert page == "![u\\_x of \\[a\\](b) \\*c\\* in $](a.png)\n\nNo \\<b\\>spectra\\</b\\>.\n"


def test_axes_hold_a_method_that_is_worse_and_say_what_they_cut_off() -> None:
    pytest.importorskip("matplotlib")
    true = np.sin(LINE.across.positions)
    pictures = {"reference": [true], "SRC": [true + 0.1], "NON": [true - 0.6], "ZO-SOL": [true + 50.0]}
    figure = draw_lines(pyplot(), LINE, pictures, "reference", {name: {} for name in pictures}, ["t"], "title")
    fields, errors = figure.axes[:2]
    assert fields.get_ylim()[0] < true.min() - 0.6 and errors.get_ylim()[0] < -0.6 < 0.1 < errors.get_ylim()[1] < 1.0
    assert [ax.texts[0].get_text() for ax in (fields, errors)] == [f"ZO-SOL reaches {50 + true.max():.3g}", "ZO-SOL reaches 50"]


def test_axes_of_identical_and_of_constant_errors_have_room() -> None:
    pytest.importorskip("matplotlib")
    true = np.zeros(16)
    pictures = {"reference": [true], "SRC": [true + 1.0], "NON": [true + 3.0]}
    figure = draw_lines(pyplot(), LINE, pictures, "reference", {name: {} for name in pictures}, ["t"], "title")
    low, high = figure.axes[1].get_ylim()
    assert low < 0 and high > 3 and not figure.axes[1].texts
