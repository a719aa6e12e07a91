"""Summaries of what `bench flows` has found: errors over seeds, and whether a gradient past the solver pays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from deepzero_sim.benchmarks.flows.catalogue import FLOWS
from deepzero_sim.benchmarks.flows.error_bar_report import ErrorBarFound, read_error_bars
from deepzero_sim.benchmarks.flows.measurements import read_measurement
from deepzero_sim.benchmarks.flows.methods import START
from deepzero_sim.benchmarks.flows.products import products_path
from deepzero_sim.benchmarks.flows.size_report import SizeFound, read_sizes
from deepzero_sim.benchmarks.flows.trainings import ALONE, Outcome, read_outcomes
from deepzero_sim.cli.settings.bench import FlowMethod

#: Upper bound, and the method without a gradient past the solver.
BOUND, WITHOUT = "FO-SOL", "DETACHED"

#: Differences to the bound's error, and multiples of its solver steps, within which a method counts as equal to it.
NEAR, DEAR = 1.05, 1.5


@dataclass(frozen=True)
class Summary:
    """Summary of a method's trainings on a flow.

    Args:
        error: Mean error over the seeds; infinite if one diverged.
        std: Standard deviation over the seeds, of a sample; 0 of a single one.
        by_seed: Error of each seed.
        solver_steps: Mean number of solver steps of training.
        seconds: Mean seconds of training.
        by_step: Mean error after each step of the rollouts, None where one diverged.
        why: Sentences on why there is no result of a seed.
    """

    error: float
    std: float
    by_seed: dict[int, float]
    solver_steps: float
    seconds: float
    by_step: list[float | None]
    why: list[str]


def summarise(outcomes: Sequence[Outcome]) -> Summary:
    """Summarise a method's outcomes over the seeds."""
    errors = np.array([outcome.error for outcome in outcomes])
    finite = bool(np.isfinite(errors).all())
    return Summary(
        error=float(errors.mean()),
        std=float(errors.std(ddof=1)) if finite and len(errors) > 1 else 0.0,
        by_seed={outcome.seed: outcome.error for outcome in outcomes},
        solver_steps=float(np.mean([outcome.solver_steps for outcome in outcomes])),
        seconds=float(np.mean([outcome.seconds for outcome in outcomes])),
        by_step=[
            None if None in at_step else float(np.mean([error for error in at_step if error is not None]))
            for at_step in zip(*(outcome.errors for outcome in outcomes), strict=False)
        ],
        why=[f"seed {outcome.seed}: {outcome.why}" for outcome in outcomes if outcome.why],
    )


@dataclass(frozen=True)
class Found:
    """Results of a flow.

    Args:
        name: Name of the flow.
        products: Measurements of products by method.
        trainings: Summaries of trainings by method, SRC and NON among them.
        outcomes: All outcomes.
    """

    name: str
    products: dict[str, dict[str, Any]]
    trainings: dict[str, Summary]
    outcomes: list[Outcome]


def collect(output: Path) -> list[Found]:
    """Collect the results of all flows that an output folder has any of, in the order of the catalogue.

    Raises:
        ConfigError: A file was changed.
    """
    found = []
    for name in FLOWS:
        paths = {method: products_path(output, name, method) for method in get_args(FlowMethod)}
        products = {method: read_measurement(path) for method, path in paths.items() if path.exists()}
        outcomes = read_outcomes(output, name)
        methods = [m for m in (ALONE, START, *get_args(FlowMethod)) if any(outcome.method == m for outcome in outcomes)]
        trainings = {method: summarise([one for one in outcomes if one.method == method]) for method in methods}
        if products or trainings:
            found.append(Found(name, products, trainings, outcomes))
    return found


@dataclass(frozen=True)
class Everything:
    """All that an output folder has.

    Args:
        flows: Products and trainings by flow.
        sizes: Costs by the number of cells.
        error_bars: Error bars of Jacobian fields.
        skipped: Sentences on what was skipped.
    """

    flows: list[Found]
    sizes: list[SizeFound]
    error_bars: list[ErrorBarFound]
    skipped: Sequence[str]


def read_everything(output: Path, skipped: Sequence[str] = ()) -> Everything:
    """Read all that an output folder has.

    Args:
        output: Folder, which may not be there yet.
        skipped: Sentences on what was skipped.

    Raises:
        ConfigError: A file of results was changed.
    """
    return Everything(collect(output), read_sizes(output), read_error_bars(output), skipped)


def ratios(trainings: Mapping[str, Summary], method: str) -> list[float]:
    """Return the ratios of a method's errors to the bound's, which began at the same networks: one a seed that both have."""
    if BOUND not in trainings or method not in trainings:
        return []
    bound = trainings[BOUND].by_seed
    return [error / bound[seed] for seed, error in trainings[method].by_seed.items() if seed in bound]


def gain(trainings: dict[str, Summary]) -> tuple[float, str]:
    """Compare the bound with training without a gradient past the solver, which began at the same networks.

    Returns:
        Mean ratio of their errors from the same seed, not a number if there is none, and a few words on whether the gradient
        pays: the ratio is above 1 by more than twice its standard error.
    """
    if BOUND not in trainings or WITHOUT not in trainings:
        return math.nan, "not measured"
    bound, without = trainings[BOUND], trainings[WITHOUT]
    if not math.isfinite(bound.error):
        return math.nan, "no: FO-SOL diverged"
    if not math.isfinite(without.error):
        return math.inf, "yes: DETACHED diverged"
    paired = ratios(trainings, WITHOUT)
    if len(paired) < 2:
        return (paired[0], f"{paired[0]:.2f}, one seed") if paired else (math.nan, "not measured")
    ratio, uncertain = float(np.mean(paired)), 2 * float(np.std(paired, ddof=1)) / math.sqrt(len(paired))
    return ratio, f"{'yes' if ratio - 1 > uncertain else 'no, within the seeds'}: {ratio:.2f}"


def near_bound(found: Sequence[Found], method: str) -> tuple[int, int]:
    """Count the flows on which a method is as good as the bound at little more cost, and those on which both are known."""
    both = [one.trainings for one in found if method in one.trainings and BOUND in one.trainings]
    both = [trainings for trainings in both if math.isfinite(trainings[BOUND].error)]
    near = [
        trainings
        for trainings in both
        if trainings[method].error <= NEAR * trainings[BOUND].error
        and trainings[method].solver_steps <= DEAR * trainings[BOUND].solver_steps
    ]
    return len(near), len(both)
