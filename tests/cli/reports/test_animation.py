"""Animations: every time with its picture and its name, what diverged said, nothing half written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import compare_states

from deepzero_sim.cli.reports import animation
from deepzero_sim.cli.reports.animation import animate, choose, draw
from deepzero_sim.cli.reports.figures import pyplot
from deepzero_sim.cli.reports.layouts import layout_of_spec
from deepzero_sim.cli.reports.views import View, views
from deepzero_sim.solver.spec import SolverSpec

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

PLANE = SolverSpec(name="s", state_shape=(1, 8, 10), dt=0.5, axes=("y", "x"), channels=("T",))
LINE = SolverSpec(name="s", state_shape=(1, 16), dt=0.5, axes=("x",), channels=("u",))


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    pyplot().close("all")


def view_of(spec: SolverSpec) -> View:
    return views(layout_of_spec(spec))[0]


def frames_of(path: Path) -> list[np.ndarray[Any, Any]]:
    with Image.open(path) as gif:
        found = []
        for number in range(gif.n_frames):
            gif.seek(number)
            found.append(np.asarray(gif.convert("RGB")))
        return found


@pytest.mark.parametrize("spec", [PLANE, LINE], ids=["plane", "line"])
def test_a_comparison_is_animated_step_by_step(tmp_path: Path, spec: SolverSpec) -> None:
    true = torch.rand(2, 5, *spec.state_shape)
    (figure,) = draw(tmp_path, compare_states(spec, true, {"SRC": true + 0.1, "NON": torch.full_like(true, torch.nan)}))
    frames = frames_of(tmp_path / figure.name)
    assert len(frames) == 5 and len({frame.shape for frame in frames}) == 1
    assert all((one != other).any() for one, other in zip(frames[1:], frames, strict=False))


def test_each_time_shows_its_own_state_and_error(tmp_path: Path) -> None:
    view, generator = view_of(PLANE), np.random.default_rng(0)
    true = list(generator.random((3, 8, 10)))
    lost = [true[0] + 0.5, true[1] + 0.25, np.full((8, 10), np.inf)]
    figure, show = animation._panels(pyplot(), view, {"reference": true, "SRC": lost}, "title", "reference")
    places = [ax for ax in figure.axes if ax.images]
    assert len(places) == 3
    for time in (1, 0, 2):
        show(time)
        shown = [np.asarray(ax.images[0].get_array(), dtype=float) for ax in places]
        assert np.allclose(shown[0], true[time])
        said = [[text.get_text() for text in ax.texts] for ax in places[1:]]
        if time == 2:
            assert np.isnan(shown[1]).all() and np.isnan(shown[2]).all() and said == [["diverged"]] * 2
        else:
            assert np.allclose(shown[1], lost[time]) and np.allclose(shown[2], lost[time] - true[time]) and said == [[""]] * 2


def test_each_time_shows_its_own_lines_and_errors() -> None:
    view = view_of(LINE)
    true = [np.full(16, float(time)) for time in range(3)]
    source = [one + 0.5 for one in true]
    figure, show = animation._lines(pyplot(), view, {"reference": true, "SRC": source}, "title", "reference")
    upper, lower = figure.axes[:2]
    show(2)
    assert {line.get_gid(): line.get_ydata()[0] for line in upper.get_lines()} == {"reference": 2.0, "SRC": 2.5}
    assert [line.get_ydata()[0] for line in lower.get_lines() if line.get_gid() == "SRC"] == [0.5]
    assert upper.get_ylim()[0] < 0 and upper.get_ylim()[1] > 2.5  # room for all times, so that nothing moves


def test_long_rollouts_are_shown_evenly() -> None:
    assert choose(3) == [0, 1, 2] and choose(1) == [0]
    found = choose(1000, 40)
    assert len(found) == 40 and (found[0], found[-1]) == (0, 999) and set(np.diff(found).tolist()) <= {25, 26}


def test_an_animation_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    view, path = view_of(PLANE), tmp_path / "animation.gif"
    path.write_bytes(b"old")
    with pytest.raises(IndexError):
        animate(path, view, {"a": [np.zeros((8, 10))]}, ["1", "2"], "title")  # a time without a picture
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
