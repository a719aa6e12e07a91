"""Results of rollouts as a table, figures and a page of Markdown."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepzero_sim.cli.reports import layer_ratios
from deepzero_sim.cli.reports.figures import pyplot, save
from deepzero_sim.common.documents import markdown_table, write_yaml
from deepzero_sim.common.files import write_text
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.ratios_file import RatiosRecord

if TYPE_CHECKING:
    from deepzero_sim.training.runs.comparison import Comparison, MethodResult

#: One colour a method, the same in every figure (Okabe and Ito: told apart without red and green).
COLOURS = {
    "SRC": "#000000",
    "NON": "#56B4E9",
    "DETACHED": "#E69F00",
    "STRAIGHT-THROUGH": "#CC79A7",
    "ZO-SOL": "#D55E00",
    "FO-SOL": "#009E73",
    "SolverLayer": "#0072B2",
}


#: Lines and points that tell runs of one method apart.
LINES, MARKERS = ("-", "--", ":", "-."), "osD^"


def styles(names: Iterable[str]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return how each run's line and point are drawn: in the colour of its method, with which its name begins."""
    drawings, drawn = {}, Counter[str]()
    for name in names:
        method = name.partition(", ")[0]
        place, colour = drawn[method] % len(LINES), COLOURS.get(method)
        drawn[method] += 1
        drawings[name] = ({"color": colour, "linestyle": LINES[place]}, {"color": colour, "marker": MARKERS[place]})
    return drawings


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
    figures = _Figures(folder, comparison.spec)
    figures.fields(methods, references)
    figures.error_over_time(methods)
    figures.error_over_cost(methods)
    figures.ratios(methods)
    simulations, steps = references.shape[:2]
    left_out = "".join(f"\n{sentence}\n" for sentence in (*failure_sentences(methods), *first_step_sentences(methods)))
    text = f"""# {title}

Mean absolute error of the state over {steps} steps of {simulations} simulations.
Solver steps and seconds are those of training, the run each method started from included; SRC is the solver alone.

{markdown_table(rows(methods))}
{left_out}
![Reference, source and corrected fields at several times](fields.png)

![Error against time](error_over_time.png)

![Error against the solver steps of training](error_over_cost.png)
{layer_ratios.section(ratios_of(methods))}
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


class _Figures:
    """Figures in one folder."""

    def __init__(self, folder: Path, spec: SolverSpec) -> None:
        self._plot = pyplot()
        self._folder = folder
        self._spec = spec

    def fields(self, methods: Mapping[str, MethodResult], references: torch.Tensor) -> None:
        """Draw reference, source and corrected states side by side at several times, of the middle simulation."""
        simulation, steps = len(references) // 2, references.shape[1]
        times = sorted({max(1, steps // 5), max(1, steps // 2), steps})
        shown = {"reference": references[simulation]}
        shown |= {name: r.evaluation.rollout[simulation] for name, r in methods.items()}
        pictures = {
            name: [picture(states[t - 1].numpy().astype(np.float64), self._spec) for t in times]
            for name, states in shown.items()
        }
        if pictures["reference"][0].ndim == 1:
            self._lines(pictures, times)
        else:
            self._images(pictures, times)

    def _lines(self, pictures: dict[str, list[NDArray[np.float64]]], times: list[int]) -> None:
        size = (4 * len(times), 3)
        figure, (axes,) = self._plot.subplots(1, len(times), figsize=size, squeeze=False, sharey=True, layout="constrained")
        positions, drawn = self._spec.coordinates(0, 0), styles(pictures)
        for ax, column in zip(axes, range(len(times)), strict=True):
            for name, series in pictures.items():
                style = {"color": "grey", "linestyle": "--"} if name == "reference" else drawn[name][0]
                ax.plot(positions, series[column], label=name, **style)
            ax.set(title=f"step {times[column]}", xlabel=_axis(self._spec, 0))
        axes[0].set_ylabel(self._label())
        figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside right upper")
        self._save(figure, "fields.png")

    def _images(self, pictures: dict[str, list[NDArray[np.float64]]], times: list[int]) -> None:
        height, width = pictures["reference"][0].shape
        size = (4.2 * len(times), 3.6 * len(pictures) * width / height + 1)
        figure, axes = self._plot.subplots(len(pictures), len(times), figsize=size, squeeze=False, layout="constrained")
        limit = max(1e-12, float(np.quantile(np.abs(pictures["reference"]), 0.995)))
        extent = [0, height * (self._spec.spacing or (1.0,))[0], 0, width * (self._spec.spacing or (1.0,))[-1]]
        for row, (name, series) in zip(axes, pictures.items(), strict=True):
            for ax, values in zip(row, series, strict=True):
                image = ax.imshow(values.T, origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent)
                ax.set(xticks=[], yticks=[])
            row[0].set_ylabel(name)
        for ax, time in zip(axes[0], times, strict=True):
            ax.set_title(f"step {time}")
        for ax in axes[-1]:
            ax.set_xlabel(_axis(self._spec, 0))
        figure.colorbar(image, ax=axes, label=self._label(), shrink=0.6)
        self._save(figure, "fields.png")

    def error_over_time(self, methods: Mapping[str, MethodResult]) -> None:
        figure, ax = self._plot.subplots(figsize=(7, 4), layout="constrained")
        drawn = styles(methods)
        for name, result in methods.items():
            errors = result.evaluation.errors
            ax.plot(np.arange(1, errors.shape[1] + 1), errors.mean(dim=0), label=name, **drawn[name][0])
        ax.set(xlabel="step of the rollout", ylabel=f"mean absolute error ({self._unit()})", ylim=(0, None))
        ax.grid(alpha=0.3)
        ax.legend()
        self._save(figure, "error_over_time.png")

    def error_over_cost(self, methods: Mapping[str, MethodResult]) -> None:
        figure, ax = self._plot.subplots(figsize=(7, 4), layout="constrained")
        drawn = styles(methods)
        for name, result in methods.items():
            mae, steps = result.evaluation.mae, result.cost.solver_steps
            if steps == 0:  # no place on a logarithmic axis
                ax.axhline(mae, color=drawn[name][0]["color"], linestyle="--", label=f"{name} (no training)")
            else:
                ax.plot(steps, mae, linestyle="none", label=name, markersize=8, **drawn[name][1])
        ax.set(xscale="log", xlabel="solver steps of training", ylabel=f"mean absolute error ({self._unit()})", ylim=(0, None))
        ax.grid(alpha=0.3, which="both")
        ax.legend()
        self._save(figure, "error_over_cost.png")

    def ratios(self, methods: Mapping[str, MethodResult]) -> None:
        """Draw the share of active coordinates by layer, of the methods that leave some out."""
        records = ratios_of(methods)
        if records:
            self._save(layer_ratios.draw(self._plot, records, COLOURS), layer_ratios.FIGURE)

    def _label(self) -> str:
        if is_staggered_flow(self._spec):
            return "vorticity (1/time)"
        return f"{(self._spec.channels or ('state',))[0]} ({self._unit()})"

    def _unit(self) -> str:
        return (self._spec.channel_units or ("1",))[0]

    def _save(self, figure: Any, name: str) -> None:
        save(self._plot, self._folder / name, figure)


def _axis(spec: SolverSpec, axis: int) -> str:
    return (spec.axes or [f"axis {i}" for i in range(len(spec.state_shape) - 1)])[axis]


def is_staggered_flow(spec: SolverSpec) -> bool:
    """Tell whether states are plane velocities on the faces of a staggered grid, as those of the wake."""
    return spec.channels == ("velocity_y", "velocity_x") and spec.offsets == ((0.0, 0.5), (0.5, 0.0))


def picture(state: NDArray[np.float64], spec: SolverSpec) -> NDArray[np.float64]:
    """Return what to draw of a state `(C, *N)`: a plane flow's vorticity, or the first channel, in 3-D its middle plane."""
    if is_staggered_flow(spec):
        return vorticity(state, spec)
    field = state[0]
    return np.asarray(field[len(field) // 2] if field.ndim == 3 else field)


def vorticity(state: NDArray[np.float64], spec: SolverSpec) -> NDArray[np.float64]:
    """Compute `d v_y / dx - d v_x / dy` at inner corners of cells, `(H-1, W-1)`, of `(2, H+1, W+1)` staggered velocities."""
    dy, dx = spec.spacing
    v_y, v_x = state[0, 1:-1, :-1], state[1, :-1, 1:-1]
    with np.errstate(invalid="ignore"):  # of a rollout that diverged there is nothing to draw
        curl: NDArray[np.float64] = (v_y[:, 1:] - v_y[:, :-1]) / dx - (v_x[1:] - v_x[:-1]) / dy
    return curl
