"""Report on a check of a solver: the verdict, what to do, and details; on the terminal in brief, and as a page of Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deepzero_sim.checks.solver.results import (
    NOT_APPLICABLE,
    OUT_OF_TIME,
    BatchTime,
    GradientCost,
    GradientCosts,
    SolverCheck,
    StepSizes,
    Verdict,
)
from deepzero_sim.cli.reports.ownership import write_page
from deepzero_sim.common.documents import flow_yaml, markdown_table, write_yaml
from deepzero_sim.common.files import write_text
from deepzero_sim.training.runs.settings import PRODUCT

#: Names of the page, the numbers, and all of them.
PAGE, NUMBERS = "solver_check.md", "solver_check.json"
FILES = (PAGE, NUMBERS)

#: Lines whose observations change nothing that one does.
_ASIDE = ("result's memory", "extreme states")

#: Line that takes the start of a process, and is the first that there is no time for.
WORKER = "worker process"

#: A head and rows, and the columns that hold words.
_Table = tuple[list[tuple[str, ...]], tuple[int, ...]]


# ---- verdict and what to do


def verdict(check: SolverCheck) -> str:
    """Say whether the solver keeps its contract, and what there was no time to test."""
    failed = [entry.line for entry in check.verdicts if entry.outcome == "fail"]
    late = [name for name in check.out_of_time if name != WORKER]
    if failed:
        judgement = f"breaks its contract: {', '.join(failed)}"
    else:
        judgement = "keeps its contract" + (
            ", as far as it was tested" if check.out_of_time or _reasons_not_to_test(check) else ""
        )
    left_out = f" Left out for time: {', '.join(late)}: give more --seconds." if late else ""
    return f"Solver {check.solver!r} {judgement} ({check.seconds:.0f} s).{left_out}"


def _reasons_not_to_test(check: SolverCheck) -> dict[str, list[str]]:
    """Group lines by the reason why they were not tested, other than that there was no time, or nothing to test."""
    reasons: dict[str, list[str]] = {}
    for entry in check.verdicts:
        if entry.outcome == "skipped" and not entry.words.startswith((OUT_OF_TIME, NOT_APPLICABLE)):
            reasons.setdefault(entry.words, []).append(entry.line)
    return reasons


def failures(check: SolverCheck) -> list[str]:
    """Say what fails and what to do, a sentence for each line."""
    return [_sentence(entry) for entry in check.verdicts if entry.outcome == "fail"]


def hints(check: SolverCheck) -> list[str]:
    """Say what is worth knowing though it breaks nothing."""
    words = [_sentence(entry) for entry in check.verdicts if entry.outcome == "info" and entry.line not in _ASIDE]
    if WORKER in check.out_of_time:
        words.append(f"{WORKER}: not tried for want of time: more --seconds, or the first command with workers, does it.")
    if check.made_up:
        words.append(
            "sample states: they are made up, smooth random fields of unit size: give data, or initial and params, for states "
            "that the solver will meet."
        )
    if check.step_sizes is not None:
        words.append(_where_the_step_size_goes(check.step_sizes))
    if check.printed:
        words.append(
            f"output: the solver printed {check.printed:,} bytes, which are not shown: run its step alone to see them."
        )
    return words


def _sentence(entry: Verdict) -> str:
    return f"{entry.line}: {entry.words}"


def _where_the_step_size_goes(sizes: StepSizes) -> str:
    """Say what to write where: the product stays the one that a training takes if nothing is said."""
    setting = flow_yaml({"name": PRODUCT, "args": {"step_size": sizes.recommended}})
    return (
        f"step size: the step is {sizes.smoothness}, {sizes.where}. Take {sizes.recommended:g} for SolverLayer; without one, "
        f"it is chosen by the dtype alone. As a line of train.yaml, with the default product:\n  vjp: {setting}"
    )


# ---- brief, for a terminal


def others(check: SolverCheck) -> Iterator[str]:
    """List the lines that pass and those that were not tested, and say what a step costs."""
    passed = [entry.line for entry in check.verdicts if entry.outcome == "pass"]
    if passed:
        yield f"pass: {', '.join(passed)}."
    if "sample states" in passed:
        yield check["sample states"].words
    yield from (f"not tested: {', '.join(lines)}: {reason}" for reason, lines in _reasons_not_to_test(check).items())
    if check.times:
        yield _cost_of_a_step(check)


def _cost_of_a_step(check: SolverCheck) -> str:
    """Say what a step costs, alone and in the batch that is recommended."""
    alone, best = check.times[0], next(entry for entry in check.times if entry.batch == check.recommended_batch)
    words = f"A step of one state takes {_duration(alone.seconds)}"
    if best.batch == alone.batch:
        return f"{words}; calls of more states gain nothing." if len(check.times) > 1 else f"{words}."
    return f"{words}, and {_duration(best.seconds / best.batch)} a state in calls of {best.batch}."


# ---- tables


def gradients(costs: GradientCosts) -> _Table:
    """Lay out the cost of a gradient by each method."""
    head = ("one gradient by", "solver steps", "their time", "once before all, at most")
    body = [(name, f"{cost.steps:,}", _duration(cost.seconds), _once(cost)) for name, cost in costs.methods.items()]
    return [head, *body], (0,)


def _once(cost: GradientCost) -> str:
    if not cost.once:
        return "-"
    return f"{cost.once:,}" + (f" ({_duration(cost.seconds_once)})" if cost.seconds_once is not None else "")


def training_of(costs: GradientCosts) -> str:
    """Say which training the costs of gradients are of."""
    return (
        f"Gradients of {costs.batch_size} rollouts of {costs.unroll} steps, for a network of {costs.parameters:,} parameters. "
        "The time is the solver's, in one process; the network's comes on top."
    )


def _tables(check: SolverCheck) -> Iterator[_Table]:
    """Lay out all verdicts and, where they were measured, the cost of a step by batch and of a gradient by method."""
    yield [("contract", "verdict", "what was seen"), *((v.line, v.outcome, v.words) for v in check.verdicts)], (0, 1, 2)
    if check.times:
        head = ("states a call", "ms a call", "ms a state", "states/s")
        yield [head, *(_time(entry, entry.batch == check.recommended_batch) for entry in check.times)], (0,)
    if check.gradients is not None:
        yield gradients(check.gradients)


def _time(entry: BatchTime, recommended: bool) -> tuple[str, ...]:
    return (
        f"{entry.batch}{' (recommended)' if recommended else ''}",
        f"{1e3 * entry.seconds:.3g}",
        f"{1e3 * entry.seconds / entry.batch:.3g}",
        f"{entry.states_per_second:,.3g}" if entry.states_per_second < 100 else f"{entry.states_per_second:,.0f}",
    )


def _duration(seconds: float | None) -> str:
    """Write a duration in a unit that leaves a number to be read."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{1e3 * seconds:.3g} ms" if seconds else "0"


# ---- page


def publish(folder: Path, check: SolverCheck, settings: Mapping[str, Any]) -> None:
    """Write `solver_check.json` and `solver_check.md`.

    Args:
        folder: Folder of the two files.
        check: Result of the check.
        settings: Settings to list.
    """
    write_page(folder / PAGE, "\n\n".join(_page(check, settings)))
    write_text(folder / NUMBERS, json.dumps({**check.as_dict(), "settings": dict(settings)}, indent=2) + "\n")


def _page(check: SolverCheck, settings: Mapping[str, Any]) -> Iterator[str]:
    yield f"# Solver {check.solver}"
    yield verdict(check)
    for title, sentences in (("What to do", failures(check)), ("Worth knowing", hints(check))):
        if sentences:
            yield f"## {title}"
            yield "\n".join(f"- {sentence}" for sentence in sentences)
    yield "## Details"
    yield from (markdown_table(table) for table, _ in _tables(check))
    yield from _notes(check)
    yield f"## Settings\n\n```yaml\n{write_yaml(dict(settings))}```"


def _notes(check: SolverCheck) -> Iterator[str]:
    """Say what the tables do not."""
    if check.gradients is not None:
        yield f"{training_of(check.gradients)} The first step from every frame of the data is taken once and not counted."
        yield from (f"Left out {name}: {why}" for name, why in check.gradients.left_out.items())
    if check.step_sizes is not None:
        yield check.step_sizes.words
    yield from (f"Left out {name}: {why}" for name, why in check.left_out.items())
