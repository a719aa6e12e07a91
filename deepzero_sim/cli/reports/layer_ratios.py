"""Layer ratios of runs, as tables and as bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepzero_sim.common.documents import markdown_table
from deepzero_sim.training.ratios_file import RatiosRecord

#: Name of the figure, in the folder of the page that shows it.
FIGURE = "ratios.png"


def rows(record: RatiosRecord) -> list[tuple[str, ...]]:
    """Return the table: a head, a row a layer, then all of these together, and what is always active."""
    active = {name: record.active(name) for name in record.sizes}
    scored = sum(record.sizes.values())
    layers = [_row(f"`{name}`", size, active[name]) for name, size in record.sizes.items()]
    rest = (
        [_row("biases, normalisation and others", record.always_active, record.always_active)] if record.always_active else []
    )
    return [("layer", "parameters", "active", "share"), *layers, _row("all of these", scored, sum(active.values())), *rest]


def _row(name: str, parameters: int, active: int) -> tuple[str, ...]:
    return name, f"{parameters:,}", f"{active:,}", f"{100 * active / parameters:.1f} %"


def caption(name: str, record: RatiosRecord) -> str:
    """Write what the table of a method shows, and what it took to find out."""
    spent = record.densities
    cost = (
        f"{spent.queries:,} queries and {spent.solver_steps:,} solver steps, counted above" if spent.queries else "no queries"
    )
    return (
        f"{name}: layer ratios {record.method} at a sparsity of {record.sparsity:g}, found with {cost}. "
        "Which coordinates of a layer are active is drawn at random, again and again."
    )


def section(records: Mapping[str, RatiosRecord]) -> str:
    """Write a page's section on layer ratios, with the figure's place; empty if there are none."""
    if not records:
        return ""
    tables = [f"{caption(name, record)}\n\n{markdown_table(rows(record))}\n" for name, record in records.items()]
    picture = f"![Share of active coordinates by layer]({FIGURE})\n"
    return "\n".join(["", "## Active coordinates by layer", "", *tables, picture])


def draw(plot: Any, records: Mapping[str, RatiosRecord], colours: Mapping[str, str]) -> Any:
    """Draw one bar a layer, side by side for several methods.

    Args:
        plot: Matplotlib's pyplot.
        records: Layer ratios by method.
        colours: Colours by method.
    """
    most = max(len(record.sizes) for record in records.values())
    size = (7.5 * len(records), 1.7 + 0.32 * most)
    figure, (axes,) = plot.subplots(1, len(records), figsize=size, squeeze=False, layout="constrained")
    for ax, (name, record) in zip(axes, records.items(), strict=True):
        _bars(ax, record, colours.get(name))
        ax.set_title(f"{name}: {record.method}", pad=26)
    return figure


def _bars(ax: Any, record: RatiosRecord, colour: str | None) -> None:
    active = {name: record.active(name) for name in record.sizes}
    shares = [100 * active[name] / size for name, size in record.sizes.items()]
    ax.barh(list(record.sizes), shares, color=colour, label="one layer")
    whole = 100 * sum(active.values()) / sum(record.sizes.values())
    ax.axvline(whole, color="black", linestyle="--", linewidth=1, label=f"all layers together: {whole:.1f} %")
    for row, (name, size) in enumerate(record.sizes.items()):  # in the margin, where no bar or line crosses them
        ax.text(1.02, row, f"{active[name]:,} of {size:,}", transform=ax.get_yaxis_transform(), va="center", fontsize=8)
    ax.set(xlabel="active coordinates (% of the layer's weights)", xlim=(0, min(100.0, 1.1 * max(*shares, whole))))
    ax.invert_yaxis()  # the first layer on top
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    ax.margins(y=0.01)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=8)
