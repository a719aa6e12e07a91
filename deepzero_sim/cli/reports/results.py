"""Content of `results.json`: a comparison in numbers, for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from deepzero_sim.cli.reports.sentences import all_notes, all_warnings, answer
from deepzero_sim.cli.reports.squares import channel_rmse
from deepzero_sim.cli.reports.tables import channel_names, channel_units, pairings, parameter_values
from deepzero_sim.coupling.evaluation import mean_error
from deepzero_sim.training.runs.learning import Learning, thin
from deepzero_sim.training.runs.pairing import Pairing

if TYPE_CHECKING:
    from deepzero_sim.training.runs.comparison import Comparison
    from deepzero_sim.training.runs.speed import Speed


def results(
    comparison: Comparison, settings: Mapping[str, Any], learning: Mapping[str, Learning] | None = None
) -> dict[str, Any]:
    """Return the content of `results.json`. The error of a rollout that diverged is null there: JSON has no infinity.

    Args:
        comparison: Results.
        settings: Settings that are listed.
        learning: Learning curves by method.
    """
    methods = comparison.methods
    return {
        "answer": answer(comparison),
        "unfinished": {
            name: {"updates": left.done, "planned_updates": left.planned, "stages_not_begun": list(left.stages)}
            for name, left in comparison.unfinished.items()
        },
        "warnings": all_warnings(comparison),
        "notes": all_notes(comparison),
        "networks": list(comparison.choices),
        "methods": {
            name: {
                "mae": or_null(result.evaluation.mae),
                "mae_std": or_null(result.evaluation.mae_std),
                "solver_steps": result.cost.solver_steps,
                "seconds": round(result.cost.seconds, 2),
                "failures": {"training": result.cost.failures, "evaluation": result.evaluation.failures},
            }
            for name, result in methods.items()
        },
        "relative": {
            name: {"error": or_null(result.evaluation.relative), "std": or_null(result.evaluation.relative_std)}
            for name, result in methods.items()
        },
        "channels": _channels(comparison),
        "rmse": {
            name: dict(zip(channel_names(comparison), map(or_null, channel_rmse(comparison, name)), strict=True))
            for name in methods
        },
        "paired": _pairs(comparison),
        "started_from": {
            name: {"name": start.name, "mae": or_null(start.evaluation.mae), "relative": or_null(start.evaluation.relative)}
            for name, start in comparison.starts.items()
        },
        "simulations": _simulations(comparison),
        "speed": None if comparison.speed is None else _speed(comparison.speed),
        "learning": {
            name: {"loss": thin(curves.loss), "validation": thin(curves.validation)}
            for name, curves in (learning or {}).items()
        },
        "evaluation_solver_steps": dict(comparison.solver_steps),
        "first_steps_found": {name: result.cost.found for name, result in methods.items() if result.cost.found},
        "settings": dict(settings),
    }


def or_null(number: float) -> float | None:
    """Return a number as JSON holds it: None for infinity and NaN."""
    return number if math.isfinite(number) else None


def _channels(comparison: Comparison) -> dict[str, Any]:
    """Return the error of each channel in its unit; null where it diverged, or where the channel has no active points."""
    named = list(zip(channel_names(comparison), channel_units(comparison), strict=True))
    return {
        name: {
            channel: {"mae": or_null(float(mae)), "unit": unit, "std_of_reference": or_null(float(scale))}
            for (channel, unit), mae, scale in zip(named, found.channel_mae, found.scales, strict=True)
        }
        for name, found in ((name, result.evaluation) for name, result in comparison.methods.items())
    }


def _pairs(comparison: Comparison) -> dict[str, Any]:
    """Return differences to other methods, simulation by simulation."""
    methods = {
        name: {other: _pairing(found) for other, found in others.items()} for name, others in pairings(comparison).items()
    }
    return {"measure": comparison.measure.head, "test": "exact two-sided sign test", "methods": methods}


def _pairing(found: Pairing) -> dict[str, Any]:
    return {**asdict(found), "difference": or_null(found.difference), "spread": or_null(found.spread), "p": found.p}


def _simulations(comparison: Comparison) -> list[dict[str, Any]]:
    errors = {
        name: (
            mean_error(result.evaluation.errors, 1).tolist(),
            mean_error(result.evaluation.relative_errors, 1).tolist(),
        )
        for name, result in comparison.methods.items()
    }
    return [
        {
            "simulation": comparison.number(number),
            "parameters": parameter_values(comparison, number),
            "errors": {
                name: {"mae": or_null(mae[number]), "relative": or_null(relative[number])}
                for name, (mae, relative) in errors.items()
            },
        }
        for number in range(len(comparison.references))
    ]


def _speed(speed: Speed) -> dict[str, Any]:
    return {
        "seconds_per_step_and_state": {name: [asdict(time) for time in times] for name, times in speed.times.items()},
        "threads": 1,
        "solver_steps": dict(speed.solver_steps),
        "without_reference": speed.without_reference,
        "shared": [list(names) for names in speed.shared],
    }
