"""Figures of `bench flows`: products' distance from exact ones, and errors of trainings in units of the bound's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepzero_sim.benchmarks.flows.products import THROUGH

#: Colours (Okabe and Ito) and markers of methods, in the order in which they are drawn.
STYLES: dict[str, dict[str, Any]] = {
    "NON": {"color": "#999999", "marker": "x"},
    "DETACHED": {"color": "#E69F00", "marker": "o"},
    "STRAIGHT-THROUGH": {"color": "#CC79A7", "marker": "s"},
    "EMULATOR": {"color": "#D55E00", "marker": "^"},
    "Coloured": {"color": "#009E73", "marker": "v"},
    "ReferenceJacobian": {"color": "#56B4E9", "marker": "D"},
    "JacobianField": {"color": "#0072B2", "marker": "P"},
    "CGE": {"color": "#D55E00", "marker": "1"},
    "CoCD": {"color": "#009E73", "marker": "2"},
    "RGE-rows": {"color": "#CC79A7", "marker": "3"},
    "GaussNewton": {"color": "#000000", "marker": "4"},
    "EKI": {"color": "#E69F00", "marker": "+"},
}

#: Largest ratio of errors that is drawn where it is; a larger one is written at the edge.
_MOST = 2.0

#: Least distance that is drawn: float32 knows no smaller ones.
_LEAST = 1e-6


def draw_products(plot: Any, flows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Any:
    """Draw a panel a flow: `1 - cosine` over the number of steps, a line a method.

    Args:
        plot: Matplotlib's pyplot.
        flows: Measurements by flow and method.
    """
    columns = min(4, len(flows))
    rows = math.ceil(len(flows) / columns)
    size = (max(3.2 * columns, 6.5), 2.7 * rows + 0.6)
    figure, axes = plot.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained")
    for ax, (name, products) in zip(axes.flat, flows.items(), strict=False):
        for method, style in STYLES.items():
            if "cosines" in products.get(method, {}):
                away = [_distance(products[method]["cosines"]["difference"][str(t)]) for t in THROUGH]
                ax.plot(THROUGH, away, linewidth=1.4, markersize=5, label=method, **style)
        ax.set(xscale="log", yscale="log", title=name, xticks=THROUGH, xticklabels=[str(t) for t in THROUGH])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    for number, ax in enumerate(axes.flat):
        ax.set_visible(number < len(flows))
        if number + columns >= len(flows):
            ax.set_xlabel("steps of the product")
            ax.tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel("1 - cosine")
    legend(figure, axes.flat)
    return figure


def _distance(cosines: list[float | None]) -> float:
    known = [cosine for cosine in cosines if cosine is not None]
    return max(_LEAST, 1 - float(np.mean(known))) if len(known) == len(cosines) else math.nan


def draw_errors(plot: Any, flows: Mapping[str, Mapping[str, Sequence[float]]], bound: str) -> Any:
    """Draw a row a flow: a point at the mean ratio of a method's error to the bound's, and a bar over the seeds' ratios.

    Args:
        plot: Matplotlib's pyplot.
        flows: Ratios of errors from the same start, one a seed, by flow and method.
        bound: Method whose error is the unit.
    """
    figure, ax = plot.subplots(figsize=(8, 1.4 + 0.55 * len(flows)), layout="constrained")
    drawn = [method for method in STYLES if any(method in methods for methods in flows.values())]
    ax.axvline(1, color="black", linewidth=1)
    for row, methods in enumerate(flows.values()):
        for place, method in enumerate(drawn):
            ratios = methods.get(method, ())
            if not ratios or not np.isfinite(ratios).all():
                continue
            aside = row + 0.6 * ((place + 0.5) / len(drawn) - 0.5)
            mean, style = float(np.mean(ratios)), STYLES[method]
            least, most = (min(ratio, _MOST) for ratio in (min(ratios), max(ratios)))
            ax.plot([least, most], [aside, aside], color=style["color"], linewidth=1.2)
            ax.plot([min(mean, _MOST)], [aside], linestyle="", markersize=5, label=method, **style)
            if mean > _MOST:
                ax.annotate(
                    f"{mean:.3g}", (_MOST, aside), (-5, 0), textcoords="offset points", ha="right", va="center", fontsize=8
                )
    ax.set(xscale="log", ylim=(len(flows) - 0.5, -0.5), yticks=range(len(flows)), yticklabels=list(flows))
    ax.set_xlabel(f"error / error of {bound} from the same start (bars: smallest to largest ratio of a seed)")
    ax.set_xlim(right=min(ax.get_xlim()[1], 1.03 * _MOST))
    low, high = ax.get_xlim()
    ticks = [
        tick for tick in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.3, 1.5, 1.7, 2) if low <= tick <= high
    ]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.grid(alpha=0.3, axis="x")
    ax.grid(alpha=0.15, axis="y")
    legend(figure, [ax])
    return figure


def legend(figure: Any, axes: Any, title: str | None = None) -> None:
    """Put one legend of all panels' methods below them."""
    by_name = {}
    for ax in axes:
        handles, names = ax.get_legend_handles_labels()
        by_name.update(dict(zip(names, handles, strict=True)))
    ordered = [method for method in STYLES if method in by_name]
    if ordered:
        figure.legend(
            [by_name[m] for m in ordered], ordered, title=title, loc="outside lower center", ncols=4, fontsize="small"
        )
