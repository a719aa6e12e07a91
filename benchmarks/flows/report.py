"""Report of `bench flows`: results.json, tables, figures and a page of Markdown, of all that an output folder has."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args

import numpy as np
import yaml

from deepzero_sim.benchmarks.flows.catalogue import FLOWS
from deepzero_sim.benchmarks.flows.error_bar_report import (
    draw_error_bars,
    error_bars_section,
    error_bars_table,
)
from deepzero_sim.benchmarks.flows.figures import draw_errors, draw_products
from deepzero_sim.benchmarks.flows.methods import START
from deepzero_sim.benchmarks.flows.products import ERROR_AFTER, KINDS, THROUGH
from deepzero_sim.benchmarks.flows.size_report import draw_sizes, sizes_section, sizes_table
from deepzero_sim.benchmarks.flows.summaries import (
    BOUND,
    DEAR,
    Everything,
    Found,
    Summary,
    gain,
    near_bound,
    ratios,
    read_everything,
)
from deepzero_sim.benchmarks.flows.trainings import ALONE, Outcome
from deepzero_sim.cli.reports.figures import pyplot, save
from deepzero_sim.cli.reports.ownership import write_page
from deepzero_sim.cli.settings.bench import BenchFlowsSettings, FlowMethod
from deepzero_sim.common.documents import markdown_table
from deepzero_sim.common.files import write_text
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.common.words import count_of
from deepzero_sim.datasets.generation.generate import software

PRODUCTS_FIGURE, ERRORS_FIGURE, SIZES_FIGURE, ERROR_BARS_FIGURE = "products.png", "errors.png", "sizes.png", "error_bars.png"
PAGE, NUMBERS = "report.md", "results.json"
FILES = (PAGE, NUMBERS, PRODUCTS_FIGURE, ERRORS_FIGURE, SIZES_FIGURE, ERROR_BARS_FIGURE)

Table = list[tuple[str, ...]]

#: Steps whose errors the losses of trainings see.
_WHERE = {"rollout": "every step", "terminal": "the last step alone"}


def _of_rollouts(settings: BenchFlowsSettings) -> str:
    """Name the steps of rollouts whose errors are compared."""
    if settings.loss == "terminal":
        return f"after {settings.unroll} steps"
    return f"over rollouts of {settings.steps} steps"


def products_table(found: Sequence[Found]) -> Table:
    """Make the table of products: a head, then a row for each method of a flow."""
    steps = [str(t) for t in THROUGH]
    head = ("flow, product", *(f"{kind}, {t}" for kind in KINDS for t in steps))
    costs = ("steps to prepare", "s to prepare", "steps a product", "time of a product / of a step")
    body = []
    for one in found:
        for method, measured in one.products.items():
            if "why" in measured:
                body.append((f"{one.name}, {method}", *["-"] * (len(KINDS) * len(steps) + len(costs))))
                continue
            cosines = [_mean_cosine(measured["cosines"][kind][t]) for kind in KINDS for t in steps]
            ratio = measured["seconds_per_product"] / measured["seconds_per_step"]
            body.append(
                (
                    f"{one.name}, {method}",
                    *cosines,
                    f"{measured['solver_steps_to_prepare']:,}",
                    f"{measured['seconds_to_prepare']:.1f}",
                    f"{measured['solver_steps_per_product']:.3g}",
                    f"{ratio:.2g}",
                )
            )
    return [(*head, *costs), *body]


def _mean_cosine(cosines: Sequence[float | None]) -> str:
    known = [cosine for cosine in cosines if cosine is not None]
    return f"{np.mean(known):.4f}" if len(known) == len(cosines) > 0 else "not finite"


def errors_table(found: Sequence[Found]) -> Table:
    """Make the table of errors: a head, then a row a flow."""
    methods = _methods(found)
    body = [
        (one.name, *(_error(one.trainings.get(method)) for method in methods), gain(one.trainings)[1])
        for one in found
        if one.trainings
    ]
    return [("flow", *methods, "a gradient pays: DETACHED / FO-SOL"), *body]


def _methods(found: Sequence[Found]) -> list[str]:
    trained = {method for one in found for method in one.trainings}
    return [method for method in (ALONE, START, *get_args(FlowMethod)) if method in trained]


def _error(summary: Summary | None) -> str:
    if summary is None:
        return "-"
    if not math.isfinite(summary.error):
        return "no result" if summary.why else "diverged"
    spread = f" ± {summary.std:.4f}" if len(summary.by_seed) > 1 else ""
    return f"{summary.error:.4f}{spread}"


def costs_table(found: Sequence[Found]) -> Table:
    """Make the table of costs: a head, then a row a flow with solver steps and seconds of each method."""
    methods = [method for method in _methods(found) if method != ALONE]
    body = []
    for one in found:
        if one.trainings:
            cells = []
            for method in methods:
                summary = one.trainings.get(method)
                none = summary is None or not math.isfinite(summary.error)
                cells.append("-" if summary is None or none else f"{summary.solver_steps:,.0f} / {summary.seconds:.0f}")
            body.append((one.name, *cells))
    return [("flow", *methods), *body]


# ---- files


def results(settings: BenchFlowsSettings, everything: Everything) -> dict[str, Any]:
    """Assemble `results.json`, with null for what is not finite."""
    flows = {
        one.name: {
            "description": FLOWS[one.name].description,  # type: ignore[index] # a name of the catalogue
            "products": one.products,
            "trainings": {method: _plain(summary) for method, summary in one.trainings.items()},
            "outcomes": [_plain(outcome) for outcome in one.outcomes],
            "detached_to_fo_sol": _finite(gain(one.trainings)[0]),
            "verdict": gain(one.trainings)[1],
        }
        for one in everything.flows
    }
    return {
        "flows": flows,
        "sizes": [vars(one) for one in everything.sizes],
        "error_bars": [vars(one) for one in everything.error_bars],
        "skipped": list(everything.skipped),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "software": {**software(), **_versions("exponax", "jax", "scikit-fem")},
        "settings": _portable_settings(settings),
    }


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # not needed by the flows that were asked for
            continue
    return found


def _portable_settings(settings: BenchFlowsSettings) -> dict[str, Any]:
    return {key: value for key, value in settings_to_dict(settings).items() if key != "output"}  # a folder may be moved


def _plain(summary: Summary | Outcome) -> dict[str, Any]:
    plain = {key: _finite(value) if isinstance(value, float) else value for key, value in vars(summary).items()}
    if isinstance(summary, Summary):
        plain["by_seed"] = {seed: _finite(error) for seed, error in summary.by_seed.items()}
    return plain


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def publish(settings: BenchFlowsSettings, skipped: Sequence[str]) -> Sequence[Table]:
    """Write `results.json`, `report.md` and its figures into the output folder. Returns the tables that are not empty.

    Raises:
        ConfigError: A file of results was changed.
    """
    everything = read_everything(settings.output, skipped)
    found = everything.flows
    plot = pyplot()
    measured = {one.name: one.products for one in found if one.products}
    bounded = [one for one in found if BOUND in one.trainings and math.isfinite(one.trainings[BOUND].error)]
    trained = {one.name: {method: ratios(one.trainings, method) for method in one.trainings} for one in bounded}
    if measured:
        save(plot, settings.output / PRODUCTS_FIGURE, draw_products(plot, measured))
    if trained:
        save(plot, settings.output / ERRORS_FIGURE, draw_errors(plot, trained, BOUND))
    if everything.sizes:
        save(plot, settings.output / SIZES_FIGURE, draw_sizes(plot, everything.sizes))
    if everything.error_bars:
        save(plot, settings.output / ERROR_BARS_FIGURE, draw_error_bars(plot, everything.error_bars))
    tables = [products_table(found), errors_table(found), costs_table(found)]
    write_page(settings.output / PAGE, _page(settings, everything, tables, bool(measured), bool(trained)))
    write_text(settings.output / NUMBERS, json.dumps(results(settings, everything), indent=1) + "\n")
    tables += [sizes_table(everything.sizes), error_bars_table(everything.error_bars)]
    return [table for table in tables if len(table) > 1]


def _page(settings: BenchFlowsSettings, everything: Everything, tables: Sequence[Table], measured: bool, trained: bool) -> str:
    found = everything.flows
    sizes = sizes_section(everything.sizes, SIZES_FIGURE)
    error_bars = error_bars_section(everything.error_bars, ERROR_BARS_FIGURE)
    products, errors, costs = (markdown_table(table) if len(table) > 1 else "Not measured." for table in tables)
    flows = markdown_table([("flow", "equation and grid"), *((one.name, FLOWS[one.name].description) for one in found)])  # type: ignore[index]
    settings_yaml = yaml.safe_dump(_portable_settings(settings), sort_keys=False, allow_unicode=True)
    return f"""# Gradients past the solver on {count_of(len(found), "flow")}

Command: `deepzero-sim bench flows`. Every flow has a coarse solver, a fine reference that is cut to the coarse grid, and a
differentiable twin of the coarse solver, which gives exact products and FO-SOL. States of tests are from initial conditions, or
Reynolds numbers, that nothing was prepared or trained with.

{flows}

## Products

Mean cosine of `J_1^T ... J_T^T w` through 1, 8 and 32 steps to the exact product, over unseen simulations: `w` is the
difference of two simulations' states, the coarse solver's own error after {ERROR_AFTER} steps, or white noise. Then what the
method takes: solver steps and seconds to prepare it, solver steps of a product, and the time of a product in units of the
solver's own step of the same states.

{products}
{_figure("Distance of products from exact ones", PRODUCTS_FIGURE, measured)}
## Trainings

A corrector, trained through {settings.unroll} steps with the error at {_WHERE[settings.loss]} as loss, for
{settings.updates} updates from the network of its seed's NON. Errors are mean absolute errors {_of_rollouts(settings)} from
unseen initial states, in standard deviations of the reference: mean over the seeds ± their standard deviation. SRC is the
solver alone, EMULATOR back-propagates through a network that imitates the solver (Frezat et al., arXiv 2310.19385), FO-SOL
through the twin. A gradient past the solver pays where the error of DETACHED, which has none, exceeds that of FO-SOL from the
same start: the mean ratio over the seeds is above 1 by more than twice its standard error.

{errors}
{_figure("Errors in units of FO-SOL's from the same start", ERRORS_FIGURE, trained)}
{_counts(found)}
## Costs

Solver steps / seconds of training, those of NON and of preparing the product included.

{costs}
{sizes}{error_bars}{_notes(everything)}
## Settings of the last call

```yaml
{settings_yaml}```
"""


def _figure(caption: str, name: str, drawn: bool) -> str:
    return f"\n![{caption}]({name})\n" if drawn else ""


def _counts(found: Sequence[Found]) -> str:
    """Say on how many flows each method is as good as the bound, and on how many a gradient pays."""
    lines = []
    for method in _methods(found):
        near, both = near_bound(found, method)
        if both and method not in (ALONE, BOUND, START):
            lines.append(
                f"- {method}: within 5 % of FO-SOL's error at no more than {DEAR} times its solver steps on {near} of {both}."
            )
    verdicts = [gain(one.trainings)[1] for one in found if one.trainings]
    pays = sum(verdict.startswith("yes") for verdict in verdicts)
    not_paid = sum(verdict.startswith("no,") for verdict in verdicts)
    if pays + not_paid:
        lines.append(f"- A gradient past the solver pays on {pays} of {pays + not_paid} flows with two seeds or more.")
    return "\n".join([*lines, ""]) if lines else ""


def _notes(everything: Everything) -> str:
    """List what was skipped, why there is no result where there is none, and what methods said of their own errors."""
    found, lines = everything.flows, [f"- {sentence}" for sentence in everything.skipped]
    for one in found:
        for method, measured in one.products.items():
            said = [measured.get("why"), measured.get("says"), *measured.get("warnings", [])]
            lines += [f"- {one.name}, products of {method}: {sentence}" for sentence in said if sentence]
        lines += [f"- {one.name}, {other.method}, seed {other.seed}: {other.why}" for other in one.outcomes if other.why]
    if warned := sum(bool(outcome.warnings) for one in found for outcome in one.outcomes):
        lines.append(f"- {count_of(warned, 'training')} warned of something, which results.json has.")
    return "\n".join(["", "## What the methods said", "", *lines, ""]) if lines else ""
