"""What is drawn of states: axes upright as named, planes through the middle, vorticity of staggered flow, words of titles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deepzero_sim.cli.reports.layouts import Layout, join_some, label_of, layout_of_recording, layout_of_spec, plain
from deepzero_sim.cli.reports.views import MOST_CHANNELS, View, channel_views, file_word, views, vorticity
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solvers.wake import WakeGrid

WAKE = WakeGrid(16).spec("wake", "float32")


def layout(shape: tuple[int, ...], **known: Any) -> Layout:
    return layout_of_spec(SolverSpec(name="s", state_shape=shape, dt=1.0, **known))


def only(found: list[View]) -> View:
    (view,) = found
    return view


@pytest.mark.parametrize(
    ("axes", "across"),
    [
        (("y", "x"), "x"),
        (("x", "y"), "x"),
        (("z", "x"), "x"),
        (("x", "z"), "x"),
        (("y", "z"), "y"),
        (("r", "z"), "r"),
        (("lat", "lon"), "lon"),
        (("longitude", "latitude"), "longitude"),
        (("depth", "x"), "x"),
        (("x", "unheard_of"), "x"),
        (("unheard_of", "y"), "unheard_of"),
        ((), "axis 1"),  # rows, then columns, as arrays are printed
    ],
)
def test_pictures_stand_upright_as_their_axes_are_named(axes: tuple[str, ...], across: str) -> None:
    of = layout((1, 4, 6), axes=axes)
    view = only(views(of))
    corner = np.zeros((1, 4, 6))
    lengths = dict(zip(of.axes, (4, 6), strict=True))
    right_end = [0, 0]
    right_end[of.axes.index(across)] = lengths[across] - 1
    corner[(0, *right_end)] = 7.0  # at the far end across, at the beginning upwards
    assert view.up is not None and view.across.name == across and view.up.name != across
    assert view.convert(corner).shape == (lengths[view.up.name], lengths[across])
    assert view.convert(corner)[0, -1] == 7.0
    assert view.points_down == (view.up.name == "depth")


def test_positions_that_fall_are_turned_with_the_picture() -> None:
    frames = np.arange(12.0, dtype=np.float64).reshape(1, 1, 1, 3, 4)
    north_first = Recording(
        frames=frames,
        channels=("t",),
        name="weather",
        axes=("lat", "lon"),
        axis_units=("degrees_north", "degrees_north"),
        coordinates=(np.array([60.0, 50.0, 40.0]), np.arange(4.0)),
    )
    view = only(views(layout_of_recording(north_first)))
    assert view.up is not None and view.up.positions.tolist() == [40.0, 50.0, 60.0]
    assert np.array_equal(view.convert(frames[0, 0]), frames[0, 0, 0, ::-1])
    assert view.up.edges.tolist() == [35.0, 45.0, 55.0, 65.0] and view.up.label == "lat (degrees_north)"


def test_positions_that_neither_rise_nor_fall_are_places_in_the_array() -> None:
    frames = np.zeros((1, 1, 1, 3))
    view = only(views(layout_of_recording(Recording(frames=frames, channels=("u",), name="f", coordinates=(np.zeros(3),)))))
    assert not view.across.known and view.across.label == "axis_0 (index)"


def test_cells_have_the_aspect_ratio_of_the_domain() -> None:
    square = only(views(layout((1, 10, 20), axes=("y", "x"), spacing=(2.0, 1.0))))
    assert square.to_scale and square.ratio == pytest.approx(1.0)
    stripe = only(views(layout((1, 10, 20), axes=("depth", "x"), spacing=(1.0, 1000.0))))
    assert not stripe.to_scale and 1 < stripe.ratio < 3


def test_padding_is_no_part_of_a_picture_but_holes_are() -> None:
    mask = np.ones((1, 4, 6), dtype=bool)
    mask[0, :, 5] = mask[0, 1, 2] = False
    view = only(views(layout((1, 4, 6), axes=("y", "x"), mask=mask)))
    assert view.active.shape == (4, 5) and not view.active[1, 2] and view.active.sum() == 19
    assert view.convert(np.ones((1, 4, 6))).shape == (4, 5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(1, 9), (1, 5, 7), (2, 4, 1), (1, 1, 6, 5)])
def test_no_place_with_a_value_is_cut_off(shape: tuple[int, ...], seed: int) -> None:
    """Land may take all but a few points: a picture ends where whole rows are empty up to the edge, and shows all others."""
    generator = np.random.default_rng(seed)
    mask = generator.random(shape) < 0.2
    mask[:, ..., generator.integers(shape[-1])] = True
    state = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    of = layout(shape, axes=("z", "y", "x")[-len(shape[1:]) :], mask=mask)
    for channel, view in enumerate(channel_views(of)):
        shown = view.convert(state)
        assert np.array_equal(np.sort(shown[view.active]), np.sort(state[channel][mask[channel]]))
        assert shown.shape == view.active.shape


def test_axes_of_one_point_do_not_count() -> None:
    line = only(views(layout((1, 1, 8), axes=("y", "x"), spacing=(1.0, 0.5))))
    assert line.is_line and line.across.name == "x" and line.convert(np.arange(8.0).reshape(1, 1, 8)).shape == (8,)
    plane = only(views(layout((1, 1, 6, 8), axes=("lev", "lat", "lon"))))
    assert plane.up is not None and (plane.up.name, plane.across.name, plane.plane) == ("lat", "lon", "")
    planes = views(layout((1, 3, 1, 6, 8), axes=("a", "lev", "y", "x")))
    assert [view.plane for view in planes] == ["y = point 3", "a = point 1", "x = point 4"] or len(planes) == 3
    column = only(views(layout((1, 7, 1, 1), axes=("z", "y", "x"))))
    assert column.is_line and column.across.name == "z"


@pytest.mark.parametrize("shape", [(2, 1), (2, 1, 1), (2, 1, 1, 1)])
def test_a_single_point_is_drawn_over_time(shape: tuple[int, ...]) -> None:
    view = views(layout(shape))[1]
    assert view.is_point and view.is_line and not view.has_space_time
    assert view.convert(np.array([3.0, 4.0]).reshape(shape)).tolist() == [4.0]
    over_time = view.over_time(np.array([0.0, 0.5, 1.0]), "time (h)")
    assert over_time.across.label == "time (h)" and over_time.active.tolist() == [True] * 3 and not over_time.is_unordered


def test_planes_go_through_places_that_hold_values() -> None:
    """The middle of a basin's depth may hold a few points, where its upper half is full."""
    mask = np.zeros((1, 9, 4, 5), dtype=bool)
    mask[0, :3] = True
    mask[0, 3:, 0, 0] = True
    (plane, *_) = views(layout((1, 9, 4, 5), axes=("depth", "y", "x"), mask=mask))
    assert plane.plane == "depth = point 2" and plane.active.all()


def test_volumes_are_cut_through_the_middle_of_each_axis() -> None:
    state = np.arange(120.0).reshape(1, 4, 5, 6)
    found = views(layout((1, 4, 5, 6), axes=("z", "y", "x"), spacing=(0.5, 1.0, 1.0)))
    assert [view.plane for view in found] == ["z = 1", "y = 2", "x = 3"]
    assert [view.key for view in found] == ["", "state_y", "state_x"]
    for view, expected in zip(found, (state[0, 2], state[0, :, 2], state[0, :, :, 3]), strict=True):
        assert np.array_equal(view.convert(state), expected)


def test_every_channel_has_a_view_and_a_file_of_its_own() -> None:
    channels = ("T", "u/v", "u v", "t", "ü", "../x")
    found = views(layout((6, 8), channels=channels, channel_units=("K", "m", "m", "", "1", "1")))
    assert [view.key for view in found] == ["", "u_v", "u_v_2", "t", "channel", "x"]
    assert [view.label for view in found] == ["T (K)", "u/v (m)", "u v (m)", "t", "ü", "../x"]
    state = np.arange(48.0).reshape(6, 8)
    assert all(np.array_equal(view.convert(state), state[i]) for i, view in enumerate(found))
    assert len(views(layout((40, 8)))) == MOST_CHANNELS
    assert file_word("a" * 300) == "a" * 40


def test_points_of_a_mesh_are_not_joined() -> None:
    assert only(views(layout((1, 8), axes=("point",)))).is_unordered
    assert not only(views(layout((1, 8), axes=("x",)))).is_unordered


def staggered(spec: SolverSpec, v_y: Any, v_x: Any) -> Array:
    """A flow given by two functions of (y, x), where a staggered state holds it."""
    state = np.zeros(spec.state_shape)
    for channel, function in enumerate((v_y, v_x)):
        y, x = (spec.coordinates(channel, axis) for axis in (0, 1))
        state[channel] = function(y[:, None], x[None, :])
    return np.where(spec.active(), state, 0.0)


def test_the_vorticity_of_a_solid_rotation_is_twice_its_rate() -> None:
    state = staggered(WAKE, lambda y, x: 0.3 * (x - 40) + 0 * y, lambda y, x: -0.3 * (y - 90) + 0 * x)
    found = vorticity(state, WAKE.spacing)
    assert found.shape == (31, 15) and np.allclose(found, 0.6)


def test_vorticity_is_the_analytic_one_to_second_order() -> None:
    def error(resolution: int) -> float:
        spec = WakeGrid(resolution).spec("wake", "float64")
        k = 2 * np.pi / 100
        state = staggered(spec, lambda y, x: np.sin(k * x) * np.cos(k * y), lambda y, x: -np.cos(k * x) * np.sin(k * y))
        view = views(layout_of_spec(spec))[0]
        assert view.up is not None
        y, x = view.up.positions, view.across.positions
        exact = 2 * k * np.cos(k * x[None, :]) * np.cos(k * y[:, None])
        return float(np.abs(view.convert(state) - exact).max())

    assert error(64) < 1e-3 and error(32) / error(64) == pytest.approx(4, rel=0.05)


def test_a_staggered_flow_shows_its_vorticity_and_both_velocities_without_padding() -> None:
    found = views(layout_of_spec(WAKE))
    assert [view.key for view in found] == ["", "velocity_y", "velocity_x"] and found[0].is_vorticity
    assert [view.active.shape for view in found] == [(31, 15), (33, 16), (32, 17)]
    assert all(view.active.all() for view in found)
    assert [view.key for view in channel_views(layout_of_spec(WAKE))] == ["velocity_y", "velocity_x"]


def test_scenarios_are_named_as_far_as_there_is_room() -> None:
    of = layout((1, 4), parameters=("nu", "g"), parameter_units=("m^2/s", "1"))
    assert of.scenario(np.array([0.01, 9.81])) == "nu = 0.01 m^2/s, g = 9.81" and of.scenario(None) == ""
    many = layout((1, 4), parameters=tuple(f"a_very_long_name_of_a_parameter_{i}" for i in range(30)))
    words = many.scenario(np.arange(30.0))
    assert len(words) < 130 and words.endswith("and 28 more")
    assert join_some(["x" * 300, "y"], 110) == f"{'x' * 300} and 1 more"


def test_words_of_others_are_no_formulas() -> None:
    assert plain("$a$\nb") == plain(plain("$a$\nb")) == r"\$a\$ b"
    assert label_of("u", "m/s") == "u (m/s)" and label_of("u", "1") == label_of("u", "") == "u"
    assert label_of("x" * 90, "") == "x" * 37 + "..." and label_of("two words " * 20, "").endswith("words two ...")
