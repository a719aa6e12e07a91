"""Errors over time, over the cost of training and by simulation, the time of steps, as curves, points and bars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.cli.reports import layer_ratios
from deepzero_sim.cli.reports.figures import (
    COLOURS,
    Figure,
    name_below,
    note_within,
    pyplot,
    save,
    scale_logarithmically,
    styles,
)
from deepzero_sim.cli.reports.layouts import layout_of_comparison, plain
from deepzero_sim.cli.reports.numbers import write_milliseconds
from deepzero_sim.training.ratios_file import RatiosRecord
from deepzero_sim.training.runs.pairing import pair
from deepzero_sim.training.runs.speed import REFERENCE, Speed

if TYPE_CHECKING:
    from deepzero_sim.coupling.evaluation import Evaluation
    from deepzero_sim.training.runs.comparison import Comparison
    from deepzero_sim.training.runs.ensemble_spread import EnsembleSpread

#: Channels whose errors have a panel of their own.
MOST_CHANNELS = 6

#: Quantiles over the simulations that a band of errors reaches between.
BAND = (0.1, 0.9)

#: How many times the largest error of the solver alone an axis may show: what grows beyond leaves the figure, which says so.
BEYOND = 5.0

#: Factor by which an axis of costs is longer at either end than the costs.
ROOM = 2.5

#: Ratio of the largest and the least value from which on an axis is logarithmic.
LOGARITHMIC = 20.0


def draw(folder: Path, comparison: Comparison) -> list[Figure]:
    """Draw the errors and times of a comparison's methods, and return the figures that were written.

    Args:
        folder: Folder of the figures.
        comparison: Results.
    """
    parts = (draw_speed, draw_error_over_time, draw_paired_errors, draw_error_over_cost)
    return [figure for part in parts for figure in part(folder, comparison)]


def draw_error_over_time(folder: Path, comparison: Comparison) -> list[Figure]:
    """Draw the mean error over the simulations and its spread at every time, and each channel's if there are several."""
    plot, layout, measure = pyplot(), layout_of_comparison(comparison), comparison.measure
    evaluations = {name: result.evaluation for name, result in comparison.methods.items()}
    panels = [(plain(measure.label), {name: measure.errors(one).numpy() for name, one in evaluations.items()})]
    channels = range(min(len(layout.channels), MOST_CHANNELS) if len(layout.channels) > 1 else 0)
    for channel in channels:
        label = f"mean |error| of {layout.label(channel)}"
        panels.append((label, {name: one.channel_errors[..., channel].numpy() for name, one in evaluations.items()}))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (7, 4.4) if len(panels) == 1 else (4.2 * columns, 3.2 * rows + 0.8)
    figure, axes = plot.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, layout="constrained")
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    drawn = {name: line for name, (line, _) in styles(evaluations).items()}
    labels = {name: _with_losses(name, one) for name, one in evaluations.items()}
    times = np.array([comparison.time(step) for step in range(1, comparison.references.shape[1] + 1)])
    for ax, (label, errors) in zip(axes.flat, panels, strict=False):
        for name, values in errors.items():
            _draw_with_spread(ax, times, values, labels[name], drawn[name])
        ax.set_ylabel(label, fontsize=9)
        _limit(ax, errors)
        ax.grid(alpha=0.3)
    spreads = {name: one.spread for name, one in comparison.methods.items() if one.spread is not None}
    for name, spread in spreads.items():
        if spread.deviations is not None:
            style, mean = {**drawn[name], "linestyle": (0, (1, 1.5))}, measure.errors(spread.deviations).mean(dim=0)
            axes[0, 0].plot(times, mean.numpy(), label=f"{plain(name)}: spread of its ensemble", **style)
    for column in range(columns):  # of an incomplete last row, the panels above
        lowest = max(place for place in range(len(panels)) if place % columns == column)
        axes.flat[lowest].set_xlabel(layout.time_label)
        axes.flat[lowest].tick_params(labelbottom=True)
    name_below(figure, dict(zip(*axes[0, 0].get_legend_handles_labels()[::-1], strict=True)))
    save(plot, folder / "error_over_time.png", figure)
    left = len(layout.channels) - len(channels) if channels else 0
    return [
        Figure(
            "error_over_time.png",
            f"{_over_time_words(comparison)}{f'; {left} channels are not drawn' if left else ''}{_spread_words(spreads)}",
        )
    ]


def _spread_words(spreads: Mapping[str, EnsembleSpread]) -> str:
    """Say what the dotted lines are."""
    if not spreads:
        return ""
    members = "; ".join(
        f"{name}: {one.members} members" + (f", {one.lost} of which diverged" if one.lost else "")
        for name, one in spreads.items()
    )
    return (
        f". Dotted: standard deviation over rollouts of the ensemble that training ended with ({members}). It is an error bar "
        "if the estimator was told the noise of the references, and says nothing of errors that no member can mend"
    )


def _over_time_words(comparison: Comparison) -> str:
    count = len(comparison.references)
    words = f"Error against time, over {comparison.horizon}"
    if count == 1:
        return f"{words}, of one simulation"
    low, high = (f"{100 * share:.0f} %" for share in BAND)
    return f"{words}: lines are means over {count} simulations, bands reach from the {low} to the {high} quantile over them"


def _draw_with_spread(
    ax: Any, times: NDArray[np.float64], errors: NDArray[np.float64], label: str, style: Mapping[str, Any]
) -> None:
    """Draw the mean of errors `(S, T)` over the simulations, and a band between quantiles over them, where any was observed."""
    seen = ~np.isnan(errors).all(axis=0)
    times, errors = times[seen], errors[:, seen]
    means, quantiles = (np.nanmean, np.nanquantile) if np.isnan(errors).any() else (np.mean, np.quantile)
    (line,) = ax.plot(times, means(errors, axis=0), label=label, marker="." if len(times) < 3 else "", zorder=3, **style)
    if len(errors) > 1:
        low = quantiles(errors, BAND[0], axis=0, method="lower")  # of errors that are there: some may be infinite
        high = quantiles(errors, BAND[1], axis=0, method="higher")
        ax.fill_between(times, low, np.where(np.isfinite(high), high, np.nan), color=line.get_color(), alpha=0.18, linewidth=0)


def _with_losses(name: str, evaluation: Evaluation) -> str:
    """Name a method, with the number of its rollouts that diverged: the mean error is infinite from the first one on."""
    lost = int(evaluation.given_up.sum())
    return f"{plain(name)} ({lost} of {len(evaluation.errors)} diverged)" if lost else plain(name)


def _limit(ax: Any, series: Mapping[str, NDArray[np.float64]]) -> None:
    """Begin an axis of errors at zero, and end it where the methods are that did not diverge; say what lies far beyond.

    Args:
        ax: Axes.
        series: Errors by method, the solver alone first.
    """
    tops = {name: float(values[np.isfinite(values)].max(initial=0.0)) for name, values in series.items()}
    first, top = next(iter(tops.values())), max(tops.values())
    if 0 < first < top / BEYOND:
        top = BEYOND * first
    ax.set_ylim(0, 1.05 * top or 1.0)
    cut = [f"{plain(name)} reaches {value:.3g}" for name, value in tops.items() if value > 1.05 * top]
    note_within(ax, "\n".join(cut))


def draw_error_over_cost(folder: Path, comparison: Comparison) -> list[Figure]:
    """Draw errors over the solver steps that training took."""
    plot, measure = pyplot(), comparison.measure
    figure, ax = plot.subplots(figsize=(7, 4.2), layout="constrained")
    drawn = styles(comparison.methods)
    for name, result in comparison.methods.items():
        error, steps = measure.mean(result.evaluation), result.cost.solver_steps
        if not math.isfinite(error):
            ax.plot([], [], linestyle="none", label=_with_losses(name, result.evaluation), **drawn[name][1])
        elif steps == 0:  # no place on a logarithmic axis
            label = f"{plain(name)} (no training)"
            ax.axhline(error, color=drawn[name][0]["color"], linestyle="--", label=label)
        else:
            ax.plot(steps, error, linestyle="none", label=plain(name), markersize=8, **drawn[name][1])
    _limit(ax, {name: np.array([measure.mean(result.evaluation)]) for name, result in comparison.methods.items()})
    trained = [result.cost.solver_steps for result in comparison.methods.values() if result.cost.solver_steps]
    if trained:
        scale_logarithmically(ax.xaxis, min(trained) / ROOM, max(trained) * ROOM)
    else:
        ax.set_xticks([])
    ax.set(xlabel="solver steps of training", ylabel=plain(measure.label))
    ax.grid(alpha=0.3, which="both")
    name_below(figure, dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True)))
    save(plot, folder / "error_over_cost.png", figure)
    return [Figure("error_over_cost.png", f"Error over {comparison.horizon} against the solver steps of training")]


def draw_paired_errors(folder: Path, comparison: Comparison) -> list[Figure]:
    """Draw each simulation's error by method, joined by a line, and count where a method is better than NON (or SRC)."""
    simulations = len(comparison.references)
    if simulations < 2 or len(comparison.methods) < 2:
        return []
    plot, measure = pyplot(), comparison.measure
    errors = {name: np.array(measure.of_simulations(one.evaluation)) for name, one in comparison.methods.items()}
    base = "NON" if "NON" in errors else next(iter(errors))
    table = np.stack(list(errors.values()))  # (methods, simulations)
    figure, ax = plot.subplots(figsize=(max(6.0, 1.7 * len(errors) + 1), 4.6), layout="constrained")
    finite = table[np.isfinite(table)]
    least, largest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    logarithmic = least > 0 and largest > LOGARITHMIC * least
    top = largest * (1.5 if logarithmic else 1.1) or 1.0
    places, shown = np.arange(len(errors)), np.where(np.isfinite(table), table, top)
    ax.plot(places, shown, color="grey", alpha=max(0.1, min(0.6, 10 / simulations)), linewidth=0.8, zorder=1)
    drawn = styles(errors)
    for place, name in enumerate(errors):
        colour, diverged = drawn[name][0]["color"] or f"C{place}", ~np.isfinite(table[place])
        ax.scatter(np.full((~diverged).sum(), place), table[place][~diverged], s=22, color=colour, zorder=2)
        ax.scatter(np.full(diverged.sum(), place), np.full(diverged.sum(), top), s=40, marker="x", color="#a00000", zorder=2)
        if not diverged.any():
            ax.plot([place - 0.2, place + 0.2], [table[place].mean()] * 2, color=colour, linewidth=2.5)
    ax.set(
        yscale="log" if logarithmic else "linear", ylabel=plain(measure.label), title="one line a simulation; a bar is the mean"
    )
    if not logarithmic:
        ax.set_ylim(0, 1.05 * top)
    ax.set_xticks(places, [_name_and_count(name, errors, base) for name in errors], fontsize=8)
    ax.set_xlim(-0.5, len(errors) - 0.5)
    ax.grid(axis="y", alpha=0.3)
    save(plot, folder / "paired_errors.png", figure)
    crosses = "" if np.isfinite(table).all() else "; a cross is a rollout that diverged"
    return [Figure("paired_errors.png", f"Error of each simulation by method, over {comparison.horizon}{crosses}")]


def _name_and_count(name: str, errors: Mapping[str, NDArray[np.float64]], base: str) -> str:
    """Name a method, and count the simulations in which it is better than another."""
    words = fill(plain(name), 20)
    if name == base:
        return words
    found = pair(errors[name].tolist(), errors[base].tolist())
    if found.equal == found.simulations:
        return f"{words}\nequal to {base}"
    equal = f",\nequal in {found.equal}" if found.equal else ""
    return f"{words}\nbetter than {base}\nin {found.better} of {found.simulations}{equal}"


def draw_speed(folder: Path, comparison: Comparison) -> list[Figure]:
    """Draw the time of a step of the solver alone, of every corrected one, and of the reference solver."""
    speed = comparison.speed
    names = [*comparison.methods, REFERENCE]
    times = {name: seconds for name in names if speed is not None and (seconds := speed.seconds(name)) is not None}
    if not times:
        return []
    plot, drawn = pyplot(), styles(times)
    figure, ax = plot.subplots(figsize=(8, 1.2 + 0.45 * len(times)), layout="constrained")
    milliseconds = [1e3 * seconds for seconds in times.values()]
    spans = [_quartiles(speed, name) or (milli, milli) for name, milli in zip(times, milliseconds, strict=True)]
    colours = ["#808080" if name == REFERENCE else drawn[name][0]["color"] or f"C{i}" for i, name in enumerate(times)]
    least, most = min(low for low, _ in spans), max(high for _, high in spans)
    if 0 < LOGARITHMIC * least < most:  # where bars would begin nowhere
        ax.scatter(milliseconds, range(len(times)), color=colours, s=60)
        scale_logarithmically(ax.xaxis, least / 2, most * (most / least) ** 0.3)
    else:
        ax.barh(range(len(times)), milliseconds, color=colours)
        ax.set_xlim(0, 1.25 * most)
    for place, ((low, high), milli) in enumerate(zip(spans, milliseconds, strict=True)):
        if low < high:
            ax.plot([low, high], [place, place], color="#404040", linewidth=1.5, marker="|", markersize=8, zorder=3)
        words = f"{write_milliseconds(milli / 1e3)} ms"
        ax.annotate(words, (max(milli, high), place), (7, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set_yticks(range(len(times)), [fill(plain(_bar_name(name)), 34) for name in times])
    ax.set(xlabel="milliseconds of a step, on one thread", ylim=(len(times) - 0.45, -0.55))
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    save(plot, folder / "speed.png", figure)
    return [Figure("speed.png", "Time of a step; half of the calls lie between the ends of a line")]


def _quartiles(speed: Speed | None, name: str) -> tuple[float, float] | None:
    """Return between which milliseconds half of the calls lie; None if that is not known."""
    quartiles = None if speed is None else speed.times[name][0].quartiles
    return None if quartiles is None else (1e3 * quartiles[0], 1e3 * quartiles[1])


def _bar_name(name: str) -> str:
    if name == "SRC":
        return "SRC, the solver alone"
    return "reference solver" if name == REFERENCE else f"{name}, corrected"


def draw_ratios(folder: Path, records: Mapping[str, RatiosRecord]) -> None:
    """Draw the share of active coordinates by layer, of the methods that leave some out."""
    if records:
        plot = pyplot()
        save(plot, folder / layer_ratios.FIGURE, layer_ratios.draw(plot, records, COLOURS))
