"""Table and figure of costs by the number of cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from deepzero_sim.benchmarks.flows.catalogue import FLOWS
from deepzero_sim.benchmarks.flows.figures import STYLES, legend
from deepzero_sim.benchmarks.flows.measurements import WHY, read_measurement
from deepzero_sim.benchmarks.flows.sizes import FRAMES, SIMULATIONS, THROUGH, UNSEEN, size_path
from deepzero_sim.cli.settings.bench import FlowMethod
from deepzero_sim.common.documents import markdown_table

#: Bounds that are drawn: solver steps, and bytes.
STEPS, MEMORY = 1000, 4 * 2**30


@dataclass(frozen=True)
class SizeFound:
    """What was measured, or only counted, of a method on a grid.

    Args:
        flow: Name of the flow.
        method: Name of the method.
        cells: Number of cells.
        measured: Entries of the measurement.
    """

    flow: str
    method: str
    cells: int
    measured: dict[str, Any]

    @property
    def is_measured(self) -> bool:
        """True if its products were compared, False if its costs were counted at most."""
        return WHY not in self.measured

    def value(self, key: str) -> float:
        """Return an entry, measured or counted; not a number if it is neither."""
        counted = self.measured["counted"]
        return float(self.measured.get(key, counted.get(key, math.nan)) if self.is_measured else counted.get(key, math.nan))

    def cosine(self, kind: str, steps: int) -> float:
        """Return the mean cosine to the exact products; not a number if there is none, or not all are finite."""
        if not self.is_measured:
            return math.nan
        cosines = self.measured["cosines"][kind][str(steps)]
        return math.nan if None in cosines else float(np.mean(cosines))

    @property
    def memory(self) -> float:
        """Largest memory of the process in bytes; of one that was only counted, what the method would store."""
        return self.value("memory" if self.is_measured else "bytes")

    @property
    def steps(self) -> float:
        """Solver steps to prepare and, of a method that asks the solver for every product, of one product."""
        return self.value("solver_steps_to_prepare") + self.value("solver_steps_per_product")

    @property
    def seconds(self) -> float:
        """Seconds of a core to prepare."""
        return self.value("core_seconds_to_prepare")

    @property
    def product_time(self) -> float:
        """Time of a product in units of the solver's step."""
        return self.value("seconds_per_product") / self.value("seconds_per_step")


def read_sizes(output: Path) -> list[SizeFound]:
    """Read all that an output folder has.

    Raises:
        ConfigError: A file was changed.
    """
    found = []
    for name, flow in FLOWS.items():
        for larger in flow.larger:
            for method in get_args(FlowMethod):
                path = size_path(output, name, larger, method)
                if path.exists():
                    measured = read_measurement(path)
                    found.append(SizeFound(name, method, measured["cells"], measured))
    return found


def sizes_table(found: Sequence[SizeFound]) -> list[tuple[str, ...]]:
    """Make the table: a head, then a row for each method of a grid, with what was only counted in brackets."""
    cosines = tuple(f"{kind}, {t}" for kind in ("difference", "noise") for t in THROUGH)
    head = ("flow, cells, product", *cosines, "steps to prepare", "steps a product", "s of a core to prepare", "GiB")
    return [(*head, "ms a product", "ms a step"), *map(_row, found)]


def _row(one: SizeFound) -> tuple[str, ...]:
    def cell(number: float, form: str) -> str:
        said = "-" if math.isnan(number) else format(number, form)
        return said if one.is_measured or said == "-" else f"({said})"

    return (
        f"{one.flow}, {one.cells:,}, {one.method}",
        *(cell(one.cosine(kind, t), ".4f") for kind in ("difference", "noise") for t in THROUGH),
        cell(one.value("solver_steps_to_prepare"), ",.0f"),
        cell(one.value("solver_steps_per_product"), ",.0f"),
        cell(one.seconds, ".3g"),
        cell(one.memory / 2**30, ".3g"),
        cell(1e3 * one.value("seconds_per_product") / one.measured.get("states", 1), ".3g"),
        f"{1e3 * one.measured['seconds_per_step'] / one.measured['states']:.3g}" if "states" in one.measured else "-",
    )


def sizes_section(found: Sequence[SizeFound], figure: str) -> str:
    """Write the section of a report; empty if nothing was measured.

    Args:
        found: What was measured.
        figure: Name of the figure's file.
    """
    if not found:
        return ""
    why = "\n".join(
        f"- {one.flow}, {one.cells:,} cells, {one.method}: {sentence}"
        for one in found
        for sentence in [one.measured.get(WHY), *one.measured["warnings"]]
        if sentence
    )
    return f"""
## Cost by the number of cells

Larger domains of cells of one size, with waves of the same lengths: products are as hard to find on all of them. Prepared with
{SIMULATIONS * FRAMES} states of {SIMULATIONS} simulations and compared at {UNSEEN} unseen states, each in a process of its own,
whose largest memory is given, of which some 0.7 GiB are Python, torch and jax. Seconds of a core are those of the process;
times of a product and a step are of a state. What was only counted is in brackets: its bytes are those of what it would store.

{markdown_table(sizes_table(found))}

![Costs by the number of cells]({figure})

{why}
"""


#: Columns of the figure: title, quantity, and a bound.
_COLUMNS: tuple[tuple[str, Callable[[SizeFound], float], float | None], ...] = (
    ("solver steps, once\n(Coloured: each product)", lambda one: one.steps, STEPS),
    ("seconds of a core, once", lambda one: one.seconds, None),
    ("largest memory [GiB]", lambda one: one.memory / 2**30, MEMORY / 2**30),
    ("time of a product / of a step", lambda one: one.product_time, 1),
    ("1 - cosine through 8 steps", lambda one: 1 - one.cosine("difference", 8), None),
)


def draw_sizes(plot: Any, found: Sequence[SizeFound]) -> Any:
    """Draw a row a flow: costs and errors over the number of cells, a line a method, hollow where only counted.

    Args:
        plot: Matplotlib's pyplot.
        found: What was measured.
    """
    flows = list(dict.fromkeys(one.flow for one in found))
    size = (3.1 * len(_COLUMNS), 2.9 * len(flows) + 0.9)
    figure, axes = plot.subplots(len(flows), len(_COLUMNS), figsize=size, squeeze=False, layout="constrained")
    for row, flow in zip(axes, flows, strict=True):
        for ax, (title, quantity, bound) in zip(row, _COLUMNS, strict=True):
            for method, style in STYLES.items():
                _draw_line(ax, [one for one in found if (one.flow, one.method) == (flow, method)], quantity, method, style)
            if bound is not None:
                ax.axhline(bound, color="black", linestyle=":", linewidth=1)
            ax.set(xscale="log", yscale="log", title=f"{flow}\n{title}" if ax is row[0] else title, xlabel="cells")
            ax.grid(alpha=0.3)
    legend(figure, axes.flat, "hollow: counted, not measured")
    return figure


def _draw_line(ax: Any, some: list[SizeFound], quantity: Callable[[SizeFound], float], label: str, style: Any) -> None:
    points = [(one.cells, quantity(one), one.is_measured) for one in some]
    points = [point for point in points if point[1] > 0]  # nor what is not known
    if not points:
        return
    cells, values, _ = zip(*points, strict=True)
    ax.plot(cells, values, color=style["color"], linewidth=1)
    ax.plot([], [], linestyle="", markersize=5.5, label=label, **style)
    for measured in (True, False):
        chosen = [(x, y) for x, y, is_measured in points if is_measured == measured]
        if chosen:
            xs, ys = zip(*chosen, strict=True)
            fill = {} if measured else {"markerfacecolor": "white"}
            ax.plot(xs, ys, linestyle="", markersize=5.5, **style, **fill)
