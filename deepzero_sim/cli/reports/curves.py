"""Errors over time and over the cost of training, as curves and points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepzero_sim.cli.reports import layer_ratios
from deepzero_sim.cli.reports.figures import COLOURS, Figure, pyplot, save, styles
from deepzero_sim.training.ratios_file import RatiosRecord

if TYPE_CHECKING:
    from deepzero_sim.training.runs.comparison import Comparison


def draw(folder: Path, comparison: Comparison) -> list[Figure]:
    """Draw errors over time and over the cost of training, and return the figures that were written."""
    plot, methods, unit = pyplot(), comparison.methods, (comparison.spec.channel_units or ("1",))[0]
    drawn = styles(methods)

    figure, ax = plot.subplots(figsize=(7, 4), layout="constrained")
    for name, result in methods.items():
        errors = result.evaluation.errors
        ax.plot(np.arange(1, errors.shape[1] + 1), errors.mean(dim=0), label=name, **drawn[name][0])
    ax.set(xlabel="step of the rollout", ylabel=f"mean absolute error ({unit})", ylim=(0, None))
    ax.grid(alpha=0.3)
    ax.legend()
    save(plot, folder / "error_over_time.png", figure)

    figure, ax = plot.subplots(figsize=(7, 4), layout="constrained")
    for name, result in methods.items():
        mae, steps = result.evaluation.mae, result.cost.solver_steps
        if steps == 0:  # no place on a logarithmic axis
            ax.axhline(mae, color=drawn[name][0]["color"], linestyle="--", label=f"{name} (no training)")
        else:
            ax.plot(steps, mae, linestyle="none", label=name, markersize=8, **drawn[name][1])
    ax.set(xscale="log", xlabel="solver steps of training", ylabel=f"mean absolute error ({unit})", ylim=(0, None))
    ax.grid(alpha=0.3, which="both")
    ax.legend()
    save(plot, folder / "error_over_cost.png", figure)
    return [
        Figure("error_over_time.png", "Error against time"),
        Figure("error_over_cost.png", "Error against the solver steps of training"),
    ]


def draw_ratios(folder: Path, records: Mapping[str, RatiosRecord]) -> None:
    """Draw the share of active coordinates by layer, of the methods that leave some out."""
    if records:
        plot = pyplot()
        save(plot, folder / layer_ratios.FIGURE, layer_ratios.draw(plot, records, COLOURS))
