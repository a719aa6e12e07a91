"""Results of rollouts as a table, figures and a page of Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepzero_sim.cli.reports import curves, fields, layer_ratios
from deepzero_sim.cli.reports.figures import markdown
from deepzero_sim.common.documents import markdown_table, write_yaml
from deepzero_sim.common.files import write_text
from deepzero_sim.training.ratios_file import RatiosRecord

if TYPE_CHECKING:
    from deepzero_sim.training.runs.comparison import Comparison, MethodResult


def results(methods: Mapping[str, MethodResult], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `results.json`. The error of a rollout that diverged is null there: JSON has no infinity."""
    return {
        "methods": {
            name: {
                "mae": _or_null(result.evaluation.mae),
                "mae_std": _or_null(result.evaluation.mae_std),
                "solver_steps": result.cost.solver_steps,
                "seconds": round(result.cost.seconds, 2),
                "failures": {"training": result.cost.failures, "evaluation": result.evaluation.failures},
            }
            for name, result in methods.items()
        },
        "first_steps_found": {name: result.cost.found for name, result in methods.items() if result.cost.found},
        "settings": dict(settings),
    }


def _or_null(number: float) -> float | None:
    return number if math.isfinite(number) else None


def rows(methods: Mapping[str, MethodResult]) -> list[tuple[str, ...]]:
    """Return the table: a head, then a row a method; failures only where there were any, for a terminal is not wide."""
    source = methods["SRC"].evaluation.mae
    body = [
        (
            name,
            f"{r.evaluation.mae:.4f}",
            f"{r.evaluation.mae_std:.4f}",
            f"{r.evaluation.mae / source:.2f}" if 0 < source < float("inf") else "-",
            f"{r.cost.solver_steps:,}",
            f"{r.cost.seconds:.0f}",
        )
        for name, r in methods.items()
    ]
    measured = ("MAE", "std over simulations", "MAE / SRC", "solver steps of training", "seconds of training")
    table: list[tuple[str, ...]] = [("method", *measured), *body]
    counts = [(sum(r.cost.failures.values()), sum(r.evaluation.failures.values())) for r in methods.values()]
    if not any(map(any, counts)):
        return table
    column = ("failures in training, here", *(f"{training}, {here}" for training, here in counts))
    return [(*row, cell) for row, cell in zip(table, column, strict=True)]


def failure_sentences(methods: Mapping[str, MethodResult]) -> list[str]:
    """Write a sentence for each method of which simulations were given up."""
    sentences = []
    for name, result in methods.items():
        errors, failures = result.evaluation.errors, result.evaluation.failures
        lost = ~errors.isfinite().all(dim=1)
        if bool(lost.any()):
            first = int((~errors.isfinite()).int().argmax(dim=1)[lost].min()) + 1
            left = errors[~lost].mean() if bool((~lost).any()) else None
            rest = "" if left is None else f"; the mean of the others is {float(left):.4f}"
            kinds = ", ".join(failures) or "not finite"
            sentences.append(
                f"{name}: {int(lost.sum())} of {len(errors)} simulations given up, the first at step {first} ({kinds}){rest}."
            )
    return sentences


def first_step_sentences(methods: Mapping[str, MethodResult]) -> list[str]:
    """Write a sentence for each method that found first steps which other runs had taken."""
    return [
        f"{name}: {result.cost.found:,} first solver steps were found in other runs, and are counted where they were taken."
        for name, result in methods.items()
        if result.cost.found
    ]


def publish(folder: Path, title: str, comparison: Comparison, settings: Mapping[str, Any]) -> None:
    """Write `results.json`, `report.md` and its figures.

    Args:
        folder: Folder of the page.
        title: Title of the page.
        comparison: Results.
        settings: Settings that are listed.

    Raises:
        MissingExtraError: Matplotlib is not installed; the results are written all the same.
    """
    methods, references = comparison.methods, comparison.references
    write_text(folder / "results.json", json.dumps(results(methods, settings), indent=2) + "\n")
    figures = [*fields.draw(folder, comparison), *curves.draw(folder, comparison)]
    curves.draw_ratios(folder, ratios_of(methods))
    simulations, steps = references.shape[:2]
    left_out = "".join(f"\n{sentence}\n" for sentence in (*failure_sentences(methods), *first_step_sentences(methods)))
    text = f"""# {title}

Mean absolute error of the state over {steps} steps of {simulations} simulations.
Solver steps and seconds are those of training, the run each method started from included; SRC is the solver alone.

{markdown_table(rows(methods))}
{left_out}
{markdown(figures)}{layer_ratios.section(ratios_of(methods))}
## Data

```yaml
{write_yaml(comparison.data)}```

## Settings

```yaml
{write_yaml(dict(settings))}```
"""
    write_text(folder / "report.md", text)


def ratios_of(methods: Mapping[str, MethodResult]) -> dict[str, RatiosRecord]:
    """Return the layer ratios of the methods that have them."""
    return {name: result.ratios for name, result in methods.items() if result.ratios is not None}
