"""Table and figure of error bars of Jacobian fields: predicted against true errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepzero_sim.benchmarks.flows.catalogue import FLOWS
from deepzero_sim.benchmarks.flows.error_bars import DRAWN, FIRST, PROBES, THROUGH, error_bar_path
from deepzero_sim.benchmarks.flows.measurements import WHY, read_measurement
from deepzero_sim.common.documents import markdown_table
from deepzero_sim.common.words import count_of
from deepzero_sim.coupling.vjp.field.field_report import direction_error

#: Kinds of states in words.
_WHERE = {DRAWN: "frames drawn at random", FIRST: "first frames"}

#: Factor within which an error bar is called honest.
FACTOR = 2.0


@dataclass(frozen=True)
class ErrorBarFound:
    """Error bar of a field, and its true errors.

    Args:
        flow: Name of the flow.
        probes: Products that the field might be fitted to.
        measured: Entries of the measurement.
    """

    flow: str
    probes: int
    measured: dict[str, Any]

    def predicted(self, steps: int) -> float:
        """Return the error through so many steps that the field tells."""
        return direction_error(self.measured["predicted"][str(steps)])

    def true(self, states: str, steps: int) -> float:
        """Return the true error at a kind of states; not a number if a cosine is not finite."""
        cosines = self.measured["cosines"][states]["difference"][str(steps)]
        return math.nan if None in cosines else direction_error(float(np.mean(cosines)))

    def ratio(self, states: str, steps: int) -> float:
        """Return the ratio of the predicted error to the true one."""
        return self.predicted(steps) / self.true(states, steps)


def read_error_bars(output: Path) -> list[ErrorBarFound]:
    """Read all that an output folder has.

    Raises:
        ConfigError: A file was changed.
    """
    paths = [(name, probes, error_bar_path(output, name, probes)) for name in FLOWS for probes in PROBES]
    return [ErrorBarFound(name, probes, read_measurement(path)) for name, probes, path in paths if path.exists()]


def is_honest(ratio: float) -> bool:
    """Tell a ratio of a predicted error to the true one within the factor."""
    return 1 / FACTOR <= ratio <= FACTOR


def count_honest(found: Iterable[ErrorBarFound], states: str, steps: int) -> tuple[int, int]:
    """Count the error bars within the factor of the truth, and all."""
    ratios = [one.ratio(states, steps) for one in found if WHY not in one.measured]
    return sum(map(is_honest, ratios)), len(ratios)


def error_bars_table(found: Sequence[ErrorBarFound]) -> list[tuple[str, ...]]:
    """Make the table: a head, then a row for each field with its error through each number of steps, predicted and true."""
    each = ("told, {t}", "true, {t}", "told / true, {t}", "true at first frames, {t}")
    head = ("flow, probes", "fitted to", *(words.format(t=t) for t in THROUGH for words in each))
    body = []
    for one in found:
        if WHY in one.measured:
            body.append((f"{one.flow}, {one.probes}", *["-"] * (1 + len(each) * len(THROUGH))))
            continue
        cells = [cell for t in THROUGH for cell in _cells(one, t)]
        body.append((f"{one.flow}, {one.probes}", str(one.measured["products"]), *cells))
    return [head, *body]


def _cells(one: ErrorBarFound, steps: int) -> list[str]:
    ratio = one.ratio(DRAWN, steps)
    mark = "" if is_honest(ratio) else " *"
    return [
        f"{one.predicted(steps):.4f}",
        f"{one.true(DRAWN, steps):.4f}",
        f"{ratio:.2f}{mark}",
        f"{one.true(FIRST, steps):.4f}",
    ]


def error_bars_section(found: Sequence[ErrorBarFound], figure: str) -> str:
    """Write the section of a report; empty if nothing was measured.

    Args:
        found: Error bars.
        figure: Name of the figure's file.
    """
    if not found:
        return ""
    counts = "\n".join(
        f"- {words}, {count_of(steps, 'step')}: {inside} of {count} within a factor of {FACTOR:g}."
        for states, words in _WHERE.items()
        for steps in THROUGH
        for inside, count in [count_honest(found, states, steps)]
    )
    refused = "".join(f"\n- {one.flow}, {one.probes} probes: {one.measured[WHY]}" for one in found if WHY in one.measured)
    return f"""
## Error bars

What a JacobianField says of its error without a twin, from chains of 8 products that it was not fitted to, against the truth
at unseen states: frames drawn at random, as its own chains' are, and first frames. Errors are those of direction,
`(1 - cos^2)^(1/2)` of the mean cosine, for differences of states. Every field has chains of its own. A star marks what is told
beyond a factor of {FACTOR:g} of the truth.

{markdown_table(error_bars_table(found))}

![Predicted against true errors of Jacobian fields]({figure})

{counts}{refused}
"""


#: Markers by numbers of probes.
_MARKERS = dict(zip(PROBES, "ovsD", strict=True))


def draw_error_bars(plot: Any, found: Sequence[ErrorBarFound]) -> Any:
    """Draw predicted over true errors, a panel for each number of steps and kind of states, with the factor as a band.

    Args:
        plot: Matplotlib's pyplot.
        found: Error bars.
    """
    known = [one for one in found if WHY not in one.measured]
    flows = list(dict.fromkeys(one.flow for one in known))
    colours = {flow: plot.get_cmap("tab20")((2 * place + place // 10) % 20) for place, flow in enumerate(flows)}  # dark first
    panels = [(states, steps) for states in (DRAWN, FIRST) for steps in THROUGH]
    errors = [one.predicted(t) for one in known for t in THROUGH] + [one.true(*panel) for one in known for panel in panels]
    ends = np.array([min(errors) / 1.5, 1.5 * max(errors)])
    figure, axes = plot.subplots(
        1, len(panels), figsize=(3.6 * len(panels), 5.2), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, (states, steps) in zip(axes.flat, panels, strict=True):
        ax.fill_between(ends, ends / FACTOR, ends * FACTOR, color="#00000018")
        ax.plot(ends, ends, color="black", linewidth=0.8)
        for one in known:
            mark = {"color": colours[one.flow], "marker": _MARKERS[one.probes]}
            ax.plot([one.true(states, steps)], [one.predicted(steps)], linestyle="", markersize=5.5, **mark)
        inside, count = count_honest(known, states, steps)
        title = f"{_WHERE[states]}, {count_of(steps, 'step')}\n{inside} of {count} within a factor of {FACTOR:g}"
        ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends, title=title, xlabel="true error of direction", aspect="equal")
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("error that the field tells")
    keys = [ax.plot([], [], linestyle="", marker="o", color=colour, label=flow)[0] for flow, colour in colours.items()]
    keys += [
        ax.plot([], [], linestyle="", marker=m, color="grey", label=f"{probes} probes")[0] for probes, m in _MARKERS.items()
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=6, fontsize="small")
    return figure
