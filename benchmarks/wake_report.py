"""Report of `bench wake`: results.json, a table, a figure and a page of Markdown."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import yaml

from deepzero_sim.cli.reports.figures import pyplot, save
from deepzero_sim.cli.reports.ownership import write_page
from deepzero_sim.cli.settings.bench import BenchWakeSettings
from deepzero_sim.common.documents import markdown_table
from deepzero_sim.common.files import write_text
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.datasets.generation.generate import software

FIGURE, PAGE, NUMBERS = "wake.png", "report.md", "results.json"
FILES = (FIGURE, PAGE, NUMBERS)

#: Methods that are drawn by themselves: they do not ask for losses.
PAST_THE_SOLVER = ("Detached", "StraightThrough", "Coloured", "ReferenceJacobian", "FO-SOL")

#: Upper bound, which all others are compared with.
BOUND = "FO-SOL"

#: Styles: the line tells gradients past the solver, gradients from losses, and losses only apart; the colour (Okabe and Ito)
#: tells methods apart.
STYLES: dict[str, dict[str, Any]] = {
    "Detached": {"color": "#E69F00", "linestyle": "-", "marker": "o"},
    "StraightThrough": {"color": "#CC79A7", "linestyle": "-", "marker": "o"},
    "Coloured": {"color": "#56B4E9", "linestyle": "-", "marker": "o"},
    "ReferenceJacobian": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "FO-SOL": {"color": "#009E73", "linestyle": "-", "marker": "o"},
    "GaussNewton": {"color": "#000000", "linestyle": "--", "marker": "s"},
    "EKI": {"color": "#E69F00", "linestyle": "--", "marker": "s"},
    "CGE": {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    "CGE-ZO-GraSP": {"color": "#0072B2", "linestyle": "--", "marker": "s"},
    "CoCD": {"color": "#009E73", "linestyle": "--", "marker": "s"},
    "RGE": {"color": "#CC79A7", "linestyle": "--", "marker": "s"},
    "RGE-rows": {"color": "#56B4E9", "linestyle": "--", "marker": "s"},
    "FZOO": {"color": "#999999", "linestyle": "--", "marker": "s"},
    "CMA-ES": {"color": "#E69F00", "linestyle": ":", "marker": "^"},
    "Nevergrad": {"color": "#56B4E9", "linestyle": ":", "marker": "^"},
    "ES": {"color": "#009E73", "linestyle": ":", "marker": "^"},
    "ESMDA": {"color": "#0072B2", "linestyle": ":", "marker": "^"},
}


@dataclass(frozen=True)
class Point:
    """Network in the course of its training.

    Args:
        update: Number of updates, or generations, until then.
        solver_steps: Number of states advanced by one step until then, NON's included.
        seconds: Seconds of training until then, NON's included.
        mae: Mean absolute error of its rollouts on unseen Reynolds numbers; infinite if one of them diverged.
    """

    update: int
    solver_steps: int
    seconds: float
    mae: float


@dataclass(frozen=True)
class Training:
    """Training of a method from one seed's start.

    Args:
        method: Name of the method.
        seed: Seed of everything.
        points: Networks in the order of updates, the start first.
        diverged: Reason why it ended before its last update; empty if it did not.
    """

    method: str
    seed: int
    points: list[Point] = field(default_factory=list)
    diverged: str = ""

    @property
    def mae(self) -> float:
        """Error in the end; infinite if there was none."""
        return math.inf if self.diverged else self.points[-1].mae


@dataclass(frozen=True)
class Comparison:
    """Comparison of all methods.

    Args:
        source: Mean absolute error of the solver alone.
        trainings: Trainings of NON and every method, from every seed.
    """

    source: float
    trainings: list[Training]

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order they were trained."""
        return list(dict.fromkeys(training.method for training in self.trainings))

    def of(self, method: str) -> list[Training]:
        """List a method's trainings, one a seed."""
        return [training for training in self.trainings if training.method == method]


@dataclass(frozen=True)
class Summary:
    """Summary of a method over the seeds.

    Args:
        mae: Mean error in the end, infinite if it diverged for some seed.
        std: Standard deviation over the seeds, of a sample; 0 of a single one.
        least, most: Errors of the best and the worst seed.
        diverged: Number of seeds for which training or a rollout diverged.
        solver_steps: Mean number of solver steps of training.
        seconds: Mean seconds of training.
    """

    mae: float
    std: float
    least: float
    most: float
    diverged: int
    solver_steps: float
    seconds: float


def summarise(trainings: Sequence[Training]) -> Summary:
    """Summarise trainings over the seeds."""
    errors = np.array([training.mae for training in trainings])
    finite = bool(np.isfinite(errors).all())
    return Summary(
        mae=float(errors.mean()),
        std=(float(errors.std(ddof=1)) if len(errors) > 1 else 0.0) if finite else math.inf,
        least=float(errors.min()),
        most=float(errors.max()),
        diverged=int((~np.isfinite(errors)).sum()),
        solver_steps=float(np.mean([training.points[-1].solver_steps for training in trainings])),
        seconds=float(np.mean([training.points[-1].seconds for training in trainings])),
    )


def results(settings: BenchWakeSettings, comparison: Comparison) -> dict[str, Any]:
    """Assemble `results.json`, with null for the infinite error of a rollout that diverged: JSON has no infinity."""
    error, steps = _bound(comparison)
    methods = {}
    for method in comparison.methods:
        over_seeds = summarise(comparison.of(method))
        methods[method] = {
            **_without_infinity(asdict(over_seeds)),
            "mae_to_fo_sol": _ratio(over_seeds.mae, error),
            "solver_steps_to_fo_sol": _ratio(over_seeds.solver_steps, steps),
            "trainings": [_training(training) for training in comparison.of(method)],
        }
    return {
        "source_mae": _finite(comparison.source),
        "methods": methods,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "software": software(),
        "settings": _portable_settings(settings),
    }


def _bound(comparison: Comparison) -> tuple[float, float]:
    """Look up error and solver steps of the upper bound; not a number if it was not trained."""
    if not comparison.of(BOUND):
        return math.nan, math.nan
    bound = summarise(comparison.of(BOUND))
    return bound.mae, bound.solver_steps


def _training(training: Training) -> dict[str, Any]:
    points = [_without_infinity(asdict(point)) for point in training.points]
    return {"seed": training.seed, "diverged": training.diverged or None, "points": points}


def _portable_settings(settings: BenchWakeSettings) -> dict[str, Any]:
    return {key: value for key, value in settings_to_dict(settings).items() if key != "output"}  # a folder may be moved


def _without_infinity(numbers: dict[str, Any]) -> dict[str, Any]:
    return {key: _finite(number) for key, number in numbers.items()}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _ratio(number: float, to: float) -> float | None:
    return number / to if math.isfinite(number) and 0 < to < math.inf else None


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Make the table: a head, then a row a method."""
    error, steps = _bound(comparison)
    body = [("SRC", f"{comparison.source:.4f}", "-", "-", _times(comparison.source, error), "0", "-", "0")]
    for method in comparison.methods:
        s = summarise(comparison.of(method))
        seeds = len(comparison.of(method))
        body.append(
            (
                method,
                f"diverged for {s.diverged} of {seeds}" if s.diverged else f"{s.mae:.4f}",
                f"{s.std:.4f}" if seeds > 1 and not s.diverged else "-",
                f"{s.least:.4f} to {s.most:.4f}" if seeds > 1 else "-",
                _times(s.mae, error),
                f"{s.solver_steps:,.0f}",
                _times(s.solver_steps, steps),
                f"{s.seconds:.0f}",
            )
        )
    head = (
        "method",
        "MAE",
        "std over seeds",
        "best to worst seed",
        "MAE / FO-SOL",
        "solver steps",
        "steps / FO-SOL",
        "seconds",
    )
    return [head, *body]


def _times(number: float, to: float) -> str:
    ratio = _ratio(number, to)
    return "-" if ratio is None else f"{ratio:.2f}"


def publish(settings: BenchWakeSettings, comparison: Comparison) -> None:
    """Write `results.json`, `report.md` and its figure into the output folder.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    plot = pyplot()
    save(plot, settings.output / FIGURE, draw(plot, comparison))
    settings_yaml = yaml.safe_dump(_portable_settings(settings), sort_keys=False, allow_unicode=True)
    text = f"""# Training through the wake: error against solver steps

Mean absolute error over {settings.steps} steps of simulations with Reynolds numbers that were not trained on; mean over
{settings.seeds} seeds. Every method starts from the network of its seed's NON, with the same data, loss and batches. Solver
steps and seconds are those of training, NON's included; SRC is the solver alone. FO-SOL takes the steps of a differentiable
copy of the solver, which an opaque one does not offer: it is the upper bound.

{markdown_table(rows(comparison))}

![Error against the solver steps of training]({FIGURE})

Lines are means over the seeds; bars in the end, moved apart sideways, reach from the best seed to the worst, as the grey band
does for NON. A cross at the top says that training or a rollout diverged for some seed; a line that leaves the figure at the
top is worse than all that is shown.
{_diverged(comparison)}
## Settings

```yaml
{settings_yaml}```
"""
    write_page(settings.output / PAGE, text)
    write_text(settings.output / NUMBERS, json.dumps(results(settings, comparison), indent=2) + "\n")


def _diverged(comparison: Comparison) -> str:
    """Write why trainings ended early, a line each."""
    lines = [f"- {t.method}, seed {t.seed}: {t.diverged}" for t in comparison.trainings if t.diverged]
    return "\n".join(["", "## Trainings that diverged", "", *lines, ""]) if lines else ""


def draw(plot: Any, comparison: Comparison) -> Any:
    """Draw error over solver steps, a line a method: gradients past the solver next to methods that ask for losses."""
    figure, panels = plot.subplots(1, 2, figsize=(12, 5), sharex=True, sharey=True, layout="constrained")
    past_the_solver = [method for method in comparison.methods if method in PAST_THE_SOLVER]
    loss_based = [method for method in comparison.methods if method != "NON" and method not in PAST_THE_SOLVER]
    bound = [method for method in comparison.methods if method == BOUND]
    top = 1.1 * max(x for x in (comparison.source, summarise(comparison.of("NON")).most) if math.isfinite(x))
    for ax, methods, title in zip(
        panels, (past_the_solver, [*bound, *loss_based]), ("a gradient past the solver", "losses only"), strict=True
    ):
        _baselines(ax, comparison)
        for number, method in enumerate(methods):
            _line(ax, method, comparison.of(method), top, 1.04 ** (number - len(methods) / 2))
        ax.set(xscale="log", ylim=(0, top), title=title, xlabel="solver steps of training")
        ax.grid(alpha=0.3, which="both")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize="small")
    panels[0].set_ylabel("mean absolute error (length/time)")
    return figure


def _baselines(ax: Any, comparison: Comparison) -> None:
    """Draw methods that have no course of training."""
    ax.axhline(comparison.source, color="black", linestyle="--", linewidth=1, label="SRC (no training)")
    non = summarise(comparison.of("NON"))
    if math.isfinite(non.mae):
        ax.axhline(non.mae, color="grey", linestyle="-.", linewidth=1, label="NON (where all start)")
        ax.axhspan(non.least, non.most, color="grey", alpha=0.1, linewidth=0)


def _line(ax: Any, method: str, trainings: Sequence[Training], top: float, aside: float) -> None:
    """Draw one method: the mean over the seeds, in the end with the best and the worst; a cross where some diverged.

    Args:
        ax: Axes to draw on.
        method: Name of the method.
        trainings: Trainings, one a seed.
        top: Top of the axis.
        aside: Factor of the solver steps at which the bar in the end stands, to be told from others that end there.
    """
    by_update: dict[int, list[Point]] = {}
    for training in trainings:
        for point in training.points:
            by_update.setdefault(point.update, []).append(point)
    groups = list(by_update.values())
    steps = np.array([np.mean([point.solver_steps for point in group]) for group in groups])
    mean = np.array([np.mean([p.mae for p in group]) if len(group) == len(trainings) else math.inf for group in groups])
    whole = np.isfinite(mean)
    ax.plot(steps[whole], mean[whole], label=method, markersize=4, linewidth=1.5, **STYLES[method])
    colour, over_seeds = STYLES[method]["color"], summarise(trainings)
    if math.isfinite(over_seeds.mae):
        bar = [[over_seeds.mae - over_seeds.least], [over_seeds.most - over_seeds.mae]]
        ax.errorbar(aside * steps[-1], over_seeds.mae, bar, color=colour, capsize=3, linewidth=1)
    crosses = [*steps[~whole], *(t.points[-1].solver_steps for t in trainings if t.diverged)]
    ax.plot(crosses, [0.98 * top] * len(crosses), "x", color=colour)
