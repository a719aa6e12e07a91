"""Figures of comparisons: every channel, time and scenario named, errors, speeds, learning, and what was left out said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import compare_states, keep_figures, words_of

from deepzero_sim.cli.reports import curves, error_maps, fields, learning_curves, spectra
from deepzero_sim.cli.reports.figures import Figure
from deepzero_sim.cli.reports.views import MOST_CHANNELS
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.runs.comparison import Comparison, Cost
from deepzero_sim.training.runs.learning import read_history
from deepzero_sim.training.runs.speed import REFERENCE, Speed, StepTime

pytest.importorskip("matplotlib")

PLANE = SolverSpec(
    name="river",
    state_shape=(2, 10, 12),
    dt=0.25,
    channels=("depth", "flow"),
    channel_units=("m", "m^2/s"),
    axes=("y", "x"),
    spacing=(2.0, 2.0),
    parameters=("slope",),
    parameter_units=("m/km",),
)
MODULES = (curves, fields, error_maps, spectra)


def river(simulations: int = 3, steps: int = 8, **more: Any) -> Comparison:
    true = torch.rand(simulations, steps, 2, 10, 12, generator=torch.Generator().manual_seed(0))
    true[:, :, 1] -= 0.5
    slightly = 0.001 * torch.arange(simulations)[:, None, None, None, None]  # so that one error is the median
    rollouts = {"SRC": true + 0.2, "NON": true + 0.1 + slightly, **more}
    params = np.arange(1.0, simulations + 1)[:, None]
    first = torch.rand(simulations, 2, 10, 12, generator=torch.Generator().manual_seed(1))
    return compare_states(PLANE, true, rollouts, params=params, initial=first, time_unit="h")


def drawn(folder: Path, comparison: Comparison) -> list[Figure]:
    return [figure for module in MODULES for figure in module.draw(folder, comparison)]


def worse_by(amounts: list[float], **known: Any) -> Comparison:
    """A comparison of lines in which SolverLayer's error differs from simulation to simulation."""
    spec = SolverSpec(name="s", state_shape=(1, 12), dt=0.5, channels=("u",), axes=("x",), spacing=(1.0,))
    true = torch.rand(len(amounts), 9, 1, 12, generator=torch.Generator().manual_seed(0))
    rollouts = {"SRC": true + 1.0, "SolverLayer": true + torch.tensor(amounts)[:, None, None, None]}
    return compare_states(spec, true, rollouts, **known)


def test_every_figure_that_is_named_is_written_and_no_other(tmp_path: Path) -> None:
    figures = drawn(tmp_path, river())
    names = [figure.name for figure in figures if figure.name]
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir()) and len(set(names)) == len(names)
    assert {"fields.png", "fields_flow.png", "error_map.png", "error_map_flow.png", "spectra.png"} <= set(names)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_fields_name_channel_unit_simulation_scenario_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep_figures(monkeypatch, fields)
    fields.draw(tmp_path, river())
    words = words_of(kept["fields.png"])
    title = "simulation 1 of the file (the median error of NON), slope = 2 m/km"
    assert words[0] == f"depth (m): {title}"
    times = {"t = 0 h (first frame)", "t = 0.25 h (step 1)", "t = 1 h (step 4)", "t = 2 h (step 8)"}
    assert {*times, "error of SRC\ny", "mean |error| 0.2"} <= set(words)
    assert f"flow (m^2/s): {title}" in words_of(kept["fields_flow.png"])


@pytest.mark.parametrize(
    ("amounts", "numbers", "shown"),
    [
        ([0.1, 0.5, 0.2, 0.3, 0.4], (4, 9, 2, 7, 0), "simulation 7 of the file (the median error of SolverLayer)"),
        ([0.1, 0.5, float("inf"), 0.3, float("inf")], None, "simulation 1 of the file (the median error of SolverLayer)"),
        ([0.3, 0.1], (5, 6), "simulation 6 of the file (the median error of SolverLayer)"),
        ([0.3], (5,), "simulation 5 of the file"),
    ],
)
def test_the_simulation_of_the_median_error_is_shown_by_its_number_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amounts: list[float], numbers: Any, shown: str
) -> None:
    kept = keep_figures(monkeypatch, fields)
    figures = fields.draw(tmp_path, worse_by(amounts, numbers=numbers))
    for name in ("fields.png", "space_time.png"):
        assert kept[name].get_suptitle().replace("\n", " ") == f"u: {shown}"
    assert all(shown in figure.caption for figure in figures)


def test_space_and_time_have_names_in_every_row_and_begin_with_the_first_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = keep_figures(monkeypatch, fields)
    first = torch.full((3, 1, 12), 0.5)
    fields.draw(tmp_path, worse_by([0.1, 0.2, 0.3], initial=first, time_unit="h", times=10 + 0.5 * np.arange(10)))
    figure = kept["space_time.png"]
    upper, lower = [ax for ax in figure.axes if ax.images and ax.get_subplotspec().colspan.start == 1]
    reference = next(ax for ax in figure.axes if ax.images)
    assert reference.get_ylabel() == "time (h)" and lower.get_ylabel() == "error\ntime (h)" and not upper.get_ylabel()
    assert [ax.get_xlabel() for ax in (reference, upper, lower)] == ["x", "", "x"]
    assert any(tick.get_text() for tick in lower.get_yticklabels())
    assert reference.images[0].get_extent()[2:] == [9.75, 14.75] and np.allclose(reference.images[0].get_array()[0], 0.5)
    assert np.allclose(lower.images[0].get_array()[0], 0.0)


def test_bars_of_colours_stand_at_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep_figures(monkeypatch, fields)
    fields.draw(tmp_path, river())
    figure = kept["fields.png"]
    figure.canvas.draw()
    bars = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    rows: dict[int, Any] = {ax.get_subplotspec().rowspan.start: ax for ax in figure.axes if ax.images}
    names = [rows[row].get_position() for row in sorted(rows)]
    for bar, of in zip(bars, [(0, 1), (2,), (3,), (4,)], strict=True):  # reference and SRC, its error, NON, its error
        place = bar.get_position()
        assert names[of[-1]].y0 - 0.01 <= place.y0 < place.y1 <= names[of[0]].y1 + 0.01
        assert bar.get_ylabel() == ("error of depth (m)" if of in [(2,), (4,)] else "depth (m)")


def test_a_single_point_is_drawn_over_time_with_its_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep_figures(monkeypatch, fields, error_maps)
    spec = SolverSpec(name="ode", state_shape=(1, 1, 1), dt=0.5, channels=("u",))
    true = torch.rand(2, 6, 1, 1, 1)
    comparison = compare_states(spec, true, {"SRC": true + 0.1}, initial=torch.zeros(2, 1, 1, 1))
    assert [figure.name for figure in fields.draw(tmp_path, comparison)] == ["fields.png"]
    upper, lower = kept["fields.png"].axes
    assert lower.get_xlabel() == "time" and upper.get_lines()[0].get_xdata().tolist() == [0.5 * step for step in range(7)]
    assert np.allclose(lower.get_lines()[1].get_ydata(), [0.0] + [0.1] * 6, atol=1e-6)
    assert error_maps.draw(tmp_path, comparison) == []


def test_fields_and_errors_of_every_method_are_drawn_with_scales_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = keep_figures(monkeypatch, fields)
    comparison = river()
    assert comparison.initial is not None
    fields.draw(tmp_path, comparison)
    figure = kept["fields.png"]
    images = [ax.images[0] for ax in figure.axes if ax.images]
    assert len(images) == 1 + 3 * 5  # the first frame; at three times the reference, and of two methods field and error
    of_fields, of_errors = dict.fromkeys(image.get_clim() for image in images)
    assert of_fields == images[0].get_clim() and of_errors == (pytest.approx(-0.2), pytest.approx(0.2))
    assert np.allclose(np.asarray(images[0].get_array()), comparison.initial[1, 0].numpy())
    assert np.allclose(np.asarray(images[3].get_array()), comparison.references[1, 7, 0].numpy())
    assert np.allclose(np.asarray(images[9].get_array()), 0.2, atol=1e-6)  # the error of SRC at the last time


def test_methods_without_room_are_counted(tmp_path: Path) -> None:
    true = torch.rand(1, 2, 2, 10, 12)
    many = {f"NON, {i}": true + 0.1 * i for i in range(10)}
    figures = fields.draw(tmp_path, compare_states(PLANE, true, {"SRC": true, **many}))
    assert "3 of 11 methods are not drawn" in figures[0].caption


def test_channels_without_room_are_counted(tmp_path: Path) -> None:
    spec = SolverSpec(name="s", state_shape=(MOST_CHANNELS + 2, 9), dt=1.0)
    true = torch.rand(1, 2, *spec.state_shape)
    figures = fields.draw(tmp_path, compare_states(spec, true, {"SRC": true}))
    assert len(list(tmp_path.iterdir())) == MOST_CHANNELS and f"2 of {MOST_CHANNELS + 2} channels" in figures[0].caption


def test_errors_over_time_are_those_of_each_channel_in_its_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep_figures(monkeypatch, curves)
    comparison = river()
    comparison.methods["NON"].evaluation.errors[0, 3:] = torch.inf
    curves.draw(tmp_path, comparison)
    figure = kept["error_over_time.png"]
    labels = [ax.get_ylabel() for ax in figure.axes]
    assert labels == ["mean relative error", "mean |error| of depth (m)", "mean |error| of flow (m^2/s)"]
    assert {ax.get_xlabel() for ax in figure.axes} == {"time (h)"}
    (source, _) = figure.axes[2].get_lines()
    assert np.allclose(source.get_ydata(), comparison.methods["SRC"].evaluation.channel_errors[..., 1].mean(dim=0))
    assert "NON (1 of 3 diverged)" in words_of(figure)


def test_errors_over_time_show_their_spread_over_the_simulations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep_figures(monkeypatch, curves)
    (figure,) = curves.draw_error_over_time(tmp_path, worse_by([0.1 * i for i in range(1, 12)]))
    assert "lines are means over 11 simulations, bands reach from the 10 % to the 90 % quantile" in figure.caption
    band = kept["error_over_time.png"].axes[0].collections[1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (pytest.approx(0.2), pytest.approx(1.0))
    (alone,) = curves.draw_error_over_time(tmp_path, worse_by([0.1]))
    assert alone.caption == "Error against time, over 9 steps to t = 4.5, of one simulation"
    assert not kept["error_over_time.png"].axes[0].collections


def test_simulations_are_paired_with_non(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep_figures(monkeypatch, curves)
    true = river().references
    mixed = true.clone()
    mixed[0] += 1.0
    figures = curves.draw(tmp_path, river(SolverLayer=mixed, **{"ZO-SOL": torch.full_like(true, torch.nan)}))
    words = words_of(kept["paired_errors.png"])
    assert "SolverLayer\nbetter than NON\nin 2 of 3" in words and "NON" in words
    assert "SRC\nbetter than NON\nin 0 of 3" in words and "ZO-SOL\nbetter than NON\nin 0 of 3" in words
    assert "a cross is a rollout that diverged" in next(one.caption for one in figures if one.name == "paired_errors.png")
    assert not [one for one in curves.draw(tmp_path, river(simulations=1)) if one.name == "paired_errors.png"]


@pytest.mark.parametrize("reference", [3e-3, 0.5, None], ids=["alike", "much slower", "not run"])
def test_speeds_are_drawn_as_they_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: float | None
) -> None:
    kept = keep_figures(monkeypatch, curves)
    times = {"SRC": [StepTime(1, 3, 1e-3)], "NON": [StepTime(1, 3, 2e-3)]}
    times |= {} if reference is None else {REFERENCE: [StepTime(1, 1, reference)]}
    comparison = river()
    object.__setattr__(comparison, "speed", Speed(times))
    curves.draw(tmp_path, comparison)
    words = [word.strip() for word in words_of(kept["speed.png"])]
    assert {"1.00 ms", "2.00 ms", "SRC, the solver alone", "NON, corrected"} <= set(words)
    assert ("reference solver" in words) == (reference is not None)
    assert kept["speed.png"].axes[0].get_xscale() == ("log" if reference == 0.5 else "linear")


@pytest.mark.parametrize(
    "spans", [(0.47, 2.68), (0.47, 152.0), (1.1, 1.2)], ids=["wide quartiles", "a very long call", "narrow quartiles"]
)
def test_times_and_their_quartiles_lie_within_the_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spans: tuple[float, float]
) -> None:
    kept = keep_figures(monkeypatch, curves)
    times = {name: [StepTime(1, 9, 0.4e-3, (0.35e-3, 1e-3 * high))] for name, high in zip(("SRC", "NON"), spans, strict=True)}
    comparison = river()
    object.__setattr__(comparison, "speed", Speed(times))
    curves.draw_speed(tmp_path, comparison)
    figure = kept["speed.png"]
    (ax,) = figure.axes
    assert ax.get_xlim()[0] <= 0.35 and ax.get_xlim()[1] > max(spans)
    figure.canvas.draw()
    frame = ax.get_window_extent()
    words = [text.get_window_extent() for text in ax.texts]
    assert len(words) == 2 and all(frame.x0 < one.x0 < one.x1 < frame.x1 for one in words)


@pytest.mark.parametrize("costs", [(2100, 2100), (1300, 1900), (640, 5_120), (100, 10**7)])
def test_an_axis_of_costs_has_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, costs: tuple[int, int]) -> None:
    kept = keep_figures(monkeypatch, curves)
    comparison = river(SolverLayer=river().references)
    for name, cost in zip(("NON", "SolverLayer"), costs, strict=True):
        object.__setattr__(comparison.methods[name], "cost", Cost(cost, 1.0))
    curves.draw_error_over_cost(tmp_path, comparison)
    (ax,) = kept["error_over_cost.png"].axes
    kept["error_over_cost.png"].canvas.draw()
    low, high = ax.get_xlim()
    ticks = ax.xaxis.get_major_ticks() + ax.xaxis.get_minor_ticks()
    shown = [tick for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_text()]
    assert len(shown) >= 2 and low < min(costs) and high > max(costs)


def test_what_leaves_an_axis_of_errors_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep_figures(monkeypatch, curves)
    comparison = worse_by([100.0, 100.0])
    curves.draw(tmp_path, comparison)
    for name in ("error_over_time.png", "error_over_cost.png"):
        assert "SolverLayer reaches 100" in words_of(kept[name])
    curves.draw_error_over_time(tmp_path, worse_by([3.0, 3.0]))
    assert kept["error_over_time.png"].axes[0].get_ylim()[1] > 3 and not kept["error_over_time.png"].axes[0].texts


def test_error_maps_are_means_over_what_stayed_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep_figures(monkeypatch, error_maps)
    true = river().references
    some = true + 0.3
    some[2, 5:] = torch.nan
    error_maps.draw(tmp_path, river(SolverLayer=some, **{"ZO-SOL": torch.full_like(true, torch.inf)}))
    figure = kept["error_map.png"]
    panels = {ax.get_title(): ax for ax in figure.axes if ax.images}
    assert np.allclose(panels["SRC"].images[0].get_array(), 0.2, atol=1e-6)
    assert np.allclose(panels["SolverLayer\n1 of 3 diverged"].images[0].get_array(), 0.3, atol=1e-6)
    assert [text.get_text() for text in panels["ZO-SOL\n3 of 3 diverged"].texts] == ["diverged"]
    assert figure.get_suptitle() == "mean |error| of depth (m) over 8 steps to t = 2 h of 3 simulations"


def log(
    folder: Path,
    losses: list[float],
    errors: Sequence[float | None] = (),
    start: Path | None = None,
    method: str = "NON",
    **more: Any,
) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(f"method: {method}\nstart: {'null' if start is None else start}\n")
    lines = [json.dumps({"step": step, "loss": loss}) for step, loss in enumerate(losses, start=1)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"step": 10 * step, "error": error, **more}) for step, error in enumerate(errors)]
    (folder / "validation.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_learning_curves_show_losses_and_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep_figures(monkeypatch, learning_curves)
    losses = (2.0 ** -np.arange(150.0)).tolist()
    runs = {"NON": log(tmp_path / "a", losses), "SolverLayer": log(tmp_path / "b", losses[:5], [0.5, None, 0.25])}
    (figure,) = learning_curves.draw_runs(tmp_path, runs)
    assert figure.name == "learning_curves.png" and "the error on rollouts of its validation" in figure.caption
    first, second, _, below = kept["learning_curves.png"].axes
    assert [ax.get_title() for ax in (first, second)] == ["NON", "SolverLayer"] and first.get_yscale() == "log"
    assert np.allclose(first.get_lines()[0].get_ydata(), losses) and len(first.get_lines()) == 2  # with a running median
    assert below.get_lines()[0].get_xydata().tolist() == [[0.0, 0.5], [20.0, 0.25]]


def test_stages_are_drawn_one_after_the_other_with_the_solver_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep_figures(monkeypatch, learning_curves)
    (tmp_path / "run").mkdir()
    first = log(tmp_path / "run" / "1-NON", [0.5] * 40, [0.5, 0.4, 0.3, 0.2, 0.1], source=0.45, length=20)
    second = log(tmp_path / "run" / "2-SolverLayer", [0.2] * 20, [0.1, 0.09], first, "SolverLayer", source=0.45, length=20)
    for runs in ({"run": tmp_path / "run"}, {"SolverLayer": second}, {"NON": first, "SolverLayer": second}):
        (figure,) = learning_curves.draw_runs(tmp_path, runs)
        assert "one stage after the other" in figure.caption and "rollouts of 20 steps" in figure.caption
        upper, lower = kept["learning_curves.png"].axes  # one panel: NON alone is the beginning of the other's
        losses = [line.get_xdata() for line in upper.get_lines() if line.get_gid()]
        assert [(xs[0], xs[-1]) for xs in losses] == [(1, 40), (41, 60)]
        marks = [line.get_xdata()[0] for line in upper.get_lines() if not line.get_gid()]
        assert marks == [0, 40] and [text.get_text() for text in upper.texts] == ["NON", "SolverLayer"]
        values = [line.get_xydata().tolist() for line in lower.get_lines() if line.get_gid()]
        assert [[0.0, 0.45], [40.0, 0.45]] in values and [[40.0, 0.1], [50.0, 0.09]] in values
        assert {"NON", "SolverLayer", "SRC, the solver alone"} == set(words_of_legend(kept["learning_curves.png"]))


def words_of_legend(figure: Any) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_a_run_that_started_from_one_that_is_gone_is_drawn_alone(tmp_path: Path) -> None:
    run = log(tmp_path / "b", [1.0, 0.5], start=tmp_path / "gone")
    itself = log(tmp_path / "c", [1.0, 0.5], start=tmp_path / "c")
    assert list(read_history(run)) == list(read_history(itself)) == ["NON"]


def test_damaged_logs_are_said_and_other_curves_drawn(tmp_path: Path) -> None:
    runs = {"NON": log(tmp_path / "a", [1.0, 0.5]), "FO-SOL": log(tmp_path / "b", [1.0, 0.5, 0.2]), "SRC": tmp_path / "none"}
    text = (tmp_path / "b" / "metrics.jsonl").read_text()
    (tmp_path / "b" / "metrics.jsonl").write_text("{broken\n" + text)
    figure, sentence = learning_curves.draw_runs(tmp_path, runs)
    assert figure.name == "learning_curves.png" and sentence.name == ""
    assert sentence.caption.startswith("No learning curve of FO-SOL is drawn: ") and "damaged" in sentence.caption


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_running_median_follows_a_line_and_not_a_spike(width: int) -> None:
    values = np.arange(30.0)
    values[10] = 1e6
    found = learning_curves.running_median(values, width)
    assert len(found) == 30 and np.abs(found[3:-3] - np.arange(30.0)[3:-3]).max() <= 1.5
