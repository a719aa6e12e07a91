"""Figures of `bench flows`: products' distance from exact ones, and errors of trainings in units of the bound's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

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
}

#: Least distance that is drawn: float32 knows no smaller ones.
_LEAST = 1e-6


class Spread(Protocol):
    """Error over seeds."""

    @property
    def error(self) -> float:
        """Mean."""

    @property
    def least(self) -> float:
        """Error of the best seed."""

    @property
    def most(self) -> float:
        """Error of the worst seed."""


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


def draw_errors(plot: Any, flows: Mapping[str, Mapping[str, Spread]], bound: str) -> Any:
    """Draw a row a flow: the methods' errors in units of the bound's mean, bars from the best seed to the worst.

    Args:
        plot: Matplotlib's pyplot.
        flows: Errors by flow and method.
        bound: Method whose error is the unit; its own seeds are a grey bar.
    """
    figure, ax = plot.subplots(figsize=(8, 1.4 + 0.55 * len(flows)), layout="constrained")
    drawn = [method for method in STYLES if any(method in methods for methods in flows.values())]
    for row, methods in enumerate(flows.values()):
        unit = methods[bound].error
        if not math.isfinite(unit):
            continue
        ax.fill_betweenx([row - 0.4, row + 0.4], methods[bound].least / unit, methods[bound].most / unit, color="#00000022")
        ax.plot([1, 1], [row - 0.4, row + 0.4], color="black", linewidth=1)
        for place, method in enumerate(drawn):
            spread = methods.get(method)
            if spread is None or not math.isfinite(spread.error):
                continue
            aside = row + 0.6 * ((place + 0.5) / len(drawn) - 0.5)
            ax.plot([spread.least / unit, spread.most / unit], [aside, aside], color=STYLES[method]["color"], linewidth=1.2)
            ax.plot([spread.error / unit], [aside], linestyle="", markersize=5, label=method, **STYLES[method])
    ax.set(xscale="log", ylim=(len(flows) - 0.5, -0.5), yticks=range(len(flows)), yticklabels=list(flows))
    ax.set_xlabel(f"error / error of {bound} (bars: best to worst seed; grey: {bound}'s seeds)")
    low, high = ax.get_xlim()
    ticks = [tick for tick in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20) if low <= tick <= high]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.grid(alpha=0.3, axis="x")
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
