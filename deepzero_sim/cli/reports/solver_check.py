"""Report on a check of a solver: tables, and a page of Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deepzero_sim.checks.solver.results import GradientCosts, Outcome, SolverCheck
from deepzero_sim.common.documents import markdown_table, write_yaml
from deepzero_sim.common.files import write_text

#: File name of the page.
PAGE = "solver_check.md"

#: A head and rows, and the columns that hold words.
_Table = tuple[list[tuple[str, ...]], tuple[int, ...]]


def tables(check: SolverCheck) -> Iterator[_Table]:
    """Lay out verdicts and, where they were measured, the cost of a step by batch and of a gradient by method."""
    yield [("contract", "verdict", "what was seen"), *((v.line, v.outcome, v.words) for v in check.verdicts)], (0, 1, 2)
    if check.times:
        yield _times(check), (0,)
    if check.gradients is not None:
        yield _gradients(check.gradients), (0,)


def _times(check: SolverCheck) -> list[tuple[str, ...]]:
    head = ("states a call", "ms a call", "ms a state", "states/s")
    body = [
        (
            f"{entry.batch}{' (recommended)' if entry.batch == check.recommended_batch else ''}",
            f"{1e3 * entry.seconds:.3g}",
            f"{1e3 * entry.seconds / entry.batch:.3g}",
            f"{entry.states_per_second:,.3g}" if entry.states_per_second < 100 else f"{entry.states_per_second:,.0f}",
        )
        for entry in check.times
    ]
    return [head, *body]


def _gradients(costs: GradientCosts) -> list[tuple[str, ...]]:
    head = ("one gradient by", "solver steps", "their time", "steps once", "their time")
    body = [
        (name, f"{cost.steps:,}", _duration(cost.seconds), f"{cost.once:,}", _duration(cost.seconds_once))
        for name, cost in costs.methods.items()
    ]
    return [head, *body]


def _duration(seconds: float | None) -> str:
    """Write a duration in a unit that leaves a number to be read."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{1e3 * seconds:.3g} ms" if seconds else "0"


def sentences(check: SolverCheck) -> Iterator[str]:
    """Say what the tables do not."""
    if check.made_up:
        yield (
            "The sample states are made up, smooth random fields of unit size: give data, or initial and params, for states "
            "that the solver will meet."
        )
    if check.step_sizes is not None:
        yield check.step_sizes.words
    if check.gradients is not None:
        costs = check.gradients
        yield (
            f"Gradients are those of {costs.batch_size} rollouts of {costs.unroll} steps, for a network of "
            f"{costs.parameters:,} parameters; the first step from every frame of the data is taken once and not counted. "
            "Times are the solver's own, in one process: that of the network and of an exact backward pass comes on top."
        )
        yield from (f"left out {name}: {why}" for name, why in costs.left_out.items())
    yield from (f"left out {name}: {why}" for name, why in check.left_out.items())
    if check.printed:
        yield f"The solver printed {check.printed:,} bytes, which are not shown: run its step alone to see them."
    yield f"Solver {check.solver!r} {_judgement(check)} ({check.seconds:.0f} s)."


def _judgement(check: SolverCheck) -> str:
    failed, skipped = _lines(check, "fail"), _lines(check, "skipped")
    if failed:
        return f"breaks its contract: {failed}"
    return "keeps its contract" + (f", as far as it was tested; skipped: {skipped}" if skipped else "")


def _lines(check: SolverCheck, outcome: Outcome) -> str:
    return ", ".join(verdict.line for verdict in check.verdicts if verdict.outcome == outcome)


def publish(folder: Path, check: SolverCheck, settings: Mapping[str, Any]) -> None:
    """Write `solver_check.json` and `solver_check.md`.

    Args:
        folder: Folder of the two files.
        check: Result of the check.
        settings: Settings to list.
    """
    write_text(folder / "solver_check.json", json.dumps({**check.as_dict(), "settings": dict(settings)}, indent=2) + "\n")
    parts = [markdown_table(table) for table, _ in tables(check)]
    listed = f"## Settings\n\n```yaml\n{write_yaml(dict(settings))}```"
    text = "\n\n".join([f"# Solver {check.solver}", *sentences(check), *parts, listed])
    write_text(folder / PAGE, text + "\n")
