"""Report on a check of gradients: a table, a figure and a page of Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepzero_sim.checks.gradient.gradient_check import GradientCheck
from deepzero_sim.checks.gradient.sweep import Sweep
from deepzero_sim.cli.reports.figures import pyplot, save
from deepzero_sim.cli.reports.ownership import write_page
from deepzero_sim.common.documents import markdown_table, write_yaml
from deepzero_sim.common.files import write_text

#: Names of the page, its figure, the numbers, and all of them.
PAGE, FIGURE, NUMBERS = "gradient_check.md", "gradient_check.png", "gradient_check.json"
FILES = (PAGE, FIGURE, NUMBERS)

#: Colours of cosines, norm ratios and the sweep's lines (Okabe and Ito: distinct without red and green).
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"


@dataclass(frozen=True)
class GradientChecks:
    """Checks of several methods.

    Args:
        checks: Check of each method, by its name.
        left_out: Methods that do not suit the solver, and why.
        found: Reports of methods that measured the solver, by their names: what Auto chose, the error bar of a field.
    """

    checks: dict[str, GradientCheck]
    left_out: dict[str, str]
    found: dict[str, str] = field(default_factory=dict)


def rows(checks: Mapping[str, GradientCheck]) -> list[tuple[str, ...]]:
    """Lay out the table: a head, then a row a method."""
    head = ("method", "cosine", "least cosine", "norm ratio", "steps a gradient", "steps once")
    body = [
        (
            name,
            _number(check.cosine, check.cosine_error),
            _number(check.cosine_min),
            _number(check.norm_ratio, check.norm_ratio_error),
            f"{check.steps_per_gradient:,.0f}",
            f"{check.steps.once:,}",
        )
        for name, check in checks.items()
    ]
    return [head, *body]


def _number(value: float | None, error: float = 0.0) -> str:
    if value is None:
        return "-"
    return f"{value:.4f} ± {error:.4f}" if error else f"{value:.4f}"


def publish(folder: Path, result: GradientChecks, settings: Mapping[str, Any]) -> None:
    """Write `gradient_check.json`, `gradient_check.md` and `gradient_check.png`.

    Args:
        folder: Folder of the three files.
        result: Checks of all methods.
        settings: Settings to list.

    Raises:
        MissingExtraError: Matplotlib is not installed; the numbers are written all the same.
    """
    left_out = "".join(f"\nLeft out: {name}. {why}\n" for name, why in result.left_out.items())
    found = "".join(f"\n{name}: {words}.\n" for name, words in result.found.items())
    text = f"""# Gradients past a solver

{_explain(next(iter(result.checks.values()))) if result.checks else "No method suits the solver."}

{markdown_table(rows(result.checks))}
{found}{left_out}
![Cosine and norm ratio by method, and difference quotients over the step size]({FIGURE})

## Settings

```yaml
{write_yaml(dict(settings))}```
"""
    write_page(folder / PAGE, text)
    write_text(folder / NUMBERS, json.dumps(results(result, settings), indent=2) + "\n")
    if result.checks:
        plot = pyplot()
        save(plot, folder / FIGURE, draw(plot, result.checks))


def results(result: GradientChecks, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `gradient_check.json`."""
    methods = {name: check.as_dict() for name, check in result.checks.items()}
    return {"methods": methods, "left_out": dict(result.left_out), "found": dict(result.found), "settings": dict(settings)}


def _explain(check: GradientCheck) -> str:
    """Say where the numbers come from."""
    sweep, samples = check.sweep, len(check.agreements)
    truth = (
        "the exact ones, by back-propagation through the differentiable solver"
        if check.exact
        else "slopes of the loss along random directions, from forward steps only; numbers after ± are standard errors of the "
        f"directions drawn. The true gradient itself would show a cosine of {sweep.cosine_ceiling:.6f} or more, for the noise "
        "in them"
    )
    return (
        f"Gradients of a rollout's loss by the network's parameters, on {samples} batches, against {truth}. The check took "
        f"{check.steps.check:,} solver steps.\n\n"
        f"Slopes by central differences hold still for step sizes from {sweep.plateau[0]:g} to {sweep.plateau[1]:g} of the "
        f"parameters' norm, best at {sweep.best:g}. There they change by {sweep.noise_floor:.1e} of themselves from one step "
        f"size to the next: that is their noise floor. The loss itself has noise of about {sweep.rounding:.0e} of its size.\n\n"
        "Steps are solver steps: of one gradient, forward and backward, and once, before all of them."
    )


def draw(plot: Any, checks: Mapping[str, GradientCheck]) -> Any:
    """Draw the figure: cosine and norm ratio by method, and the sweep over the step size.

    Args:
        plot: Matplotlib's pyplot.
        checks: Checks of one subject, by the names of the methods.
    """
    figure, (left, right) = plot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    _agreements(left, checks)
    _sweep(right, next(iter(checks.values())).sweep)
    return figure


def _agreements(ax: Any, checks: Mapping[str, GradientCheck]) -> None:
    style: dict[str, Any] = {"capsize": 3, "linestyle": "none", "markersize": 7}
    places = {name: len(checks) - 1 - i for i, name in enumerate(checks)}  # the first on top
    cosines = {name: check for name, check in checks.items() if check.cosine is not None}
    ax.errorbar(
        [check.cosine for check in cosines.values()],
        [places[name] + 0.12 for name in cosines],
        xerr=[check.cosine_error for check in cosines.values()],
        marker="o",
        color=BLUE,
        label="cosine",
        **style,
    )
    ratios = {name: check for name, check in checks.items() if check.norm_ratio is not None}
    ax.errorbar(
        [check.norm_ratio for check in ratios.values()],
        [places[name] - 0.12 for name in ratios],
        xerr=[check.norm_ratio_error for check in ratios.values()],
        marker="D",
        color=ORANGE,
        label="norm ratio",
        **style,
    )
    ax.axvline(1, color=GREY, linestyle=":", label="true gradient")
    ax.set(yticks=list(places.values()), yticklabels=list(places), ylim=(-0.6, len(checks) - 0.4))
    ax.set_xlabel("cosine to the true gradient, and norm over its norm (1)")
    ax.grid(alpha=0.3, axis="x")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=3, frameon=False)


def _sweep(ax: Any, sweep: Sweep) -> None:
    lines = (
        ("change to the nearer neighbour", sweep.changes, "o-", BLUE),
        ("error to the exact slopes", sweep.errors, "D--", ORANGE),
    )
    for label, values, style, colour in lines:
        shown = [(step, value) for step, value in zip(sweep.step_sizes, values, strict=True) if value]
        if shown:
            ax.plot(*zip(*shown, strict=True), style, color=colour, label=label)
    if sweep.noise_floor > 0:  # zero has no place on a logarithmic axis
        ax.axhline(sweep.noise_floor, color=GREY, linestyle=":", label=f"noise floor {sweep.noise_floor:.1e}")
    ax.axvspan(*sweep.plateau, color=GREY, alpha=0.12, label="plateau")
    ax.set(xscale="log", yscale="log")
    ax.set_xlabel("step size μ, relative to the size of what is perturbed (1)")
    ax.set_ylabel("central differences: relative change (1)")
    ax.grid(alpha=0.3)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2, frameon=False)
