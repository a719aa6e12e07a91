"""Tables of a comparison: each a head, then rows of text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING

from deepzero_sim.cli.reports.numbers import write_error, write_milliseconds, write_ratio, write_times
from deepzero_sim.cli.reports.squares import channel_rmse
from deepzero_sim.datasets.units import with_unit
from deepzero_sim.training.runs.learning import Learning
from deepzero_sim.training.runs.pairing import Pairing, pair
from deepzero_sim.training.runs.speed import REFERENCE, Speed, StepTime

if TYPE_CHECKING:
    from deepzero_sim.training.runs.comparison import Comparison

#: A head and rows.
Table = list[tuple[str, ...]]

#: Simulations that a page lists one by one.
MOST_SIMULATIONS = 20


def rows(comparison: Comparison) -> Table:
    """Return the table of methods: errors, and the cost of training; failures only where there were any."""
    measure, methods = comparison.measure, comparison.methods
    source = measure.mean(methods["SRC"].evaluation)
    body = [
        (
            name,
            write_error(measure.mean(result.evaluation)),
            write_error(measure.spread(result.evaluation)),
            write_ratio(measure.mean(result.evaluation), source),
            f"{result.cost.solver_steps:,}",
            f"{result.cost.seconds:.0f}",
        )
        for name, result in methods.items()
    ]
    measured = (measure.head, "std over simulations", f"{measure.name} / SRC")
    table: Table = [("method", *measured, "solver steps of training", "seconds of training"), *body]
    counts = [(sum(r.cost.failures.values()), sum(r.evaluation.failures.values())) for r in methods.values()]
    if not any(map(any, counts)):
        return table
    column = ("failures in training, here", *(f"{training}, {here}" for training, here in counts))
    return [(*row, cell) for row, cell in zip(table, column, strict=True)]


def channel_names(comparison: Comparison) -> list[str]:
    """Return the channels' names, numbers where the solver gives none."""
    return list(comparison.spec.channels or (f"channel {c}" for c in range(comparison.spec.state_shape[0])))


def channel_units(comparison: Comparison) -> list[str]:
    """Return the channels' units, empty where the solver gives none."""
    return list(comparison.spec.channel_units or [""] * comparison.spec.state_shape[0])


def channel_rows(comparison: Comparison) -> Table:
    """Return mean absolute and root mean square errors of each channel in its unit, by method."""
    methods = comparison.methods
    sizes = {name: result.evaluation.channel_mae.tolist() for name, result in methods.items()}
    squares = {name: channel_rmse(comparison, name) for name in methods}
    named = list(zip(channel_names(comparison), channel_units(comparison), strict=True))
    body = [
        (f"{word} of {with_unit(channel, unit)}", *(write_error(values[c]) for values in errors.values()))
        for c, (channel, unit) in enumerate(named)
        if not math.isnan(sizes["SRC"][c])
        for word, errors in (("MAE", sizes), ("RMSE", squares))
    ]
    return [("error of channel", *methods), *body]


def parameter_values(comparison: Comparison, simulation: int) -> dict[str, float]:
    """Return the parameters of a simulation by name."""
    if comparison.params is None:
        return {}
    names = comparison.spec.parameters or [f"parameter {k}" for k in range(comparison.params.shape[1])]
    return dict(zip(names, comparison.params[simulation].tolist(), strict=True))


def simulation_rows(comparison: Comparison) -> Table:
    """Return each simulation's parameters and error by method, of the first simulations if there are many."""
    measure, methods = comparison.measure, comparison.methods
    errors = {name: measure.of_simulations(result.evaluation) for name, result in methods.items()}
    units = comparison.spec.parameter_units or [""] * len(comparison.spec.parameters)
    names = [with_unit(name, unit) for name, unit in zip(parameter_values(comparison, 0), units, strict=False)]
    body = [
        (
            str(comparison.number(number)),
            *(f"{value:g}" for value in parameter_values(comparison, number).values()),
            *(write_error(values[number]) for values in errors.values()),
        )
        for number in range(min(len(comparison.references), MOST_SIMULATIONS))
    ]
    return [("simulation", *names, *methods), *body]


def pair_rows(comparison: Comparison) -> Table:
    """Return the differences to the solver alone, to NON and to what methods started from, simulation by simulation."""
    difference = f"mean difference of {comparison.measure.head}"
    table: Table = [("method", "against", difference, "its spread", "better in", "p of a sign test")]
    for name, found_by_other in pairings(comparison).items():
        for other, found in found_by_other.items():
            difference = "-" if math.isnan(found.difference) else f"{found.difference:+.3g}"
            spread = "-" if math.isnan(found.spread) else f"{found.spread:.3g}"
            table.append((name, other, difference, spread, _better(found), f"{found.p:.2g}"))
    return table


def _better(found: Pairing) -> str:
    return f"{found.better} of {found.simulations}{f' ({found.equal} equal)' if found.equal else ''}"


def count_better(found: Pairing, simulations: str) -> str:
    """Write in how many simulations a method is better than another, and in how many it is neither better nor worse.

    Args:
        found: Counts.
        simulations: Number of simulations, perhaps with the word.
    """
    if found.equal == found.simulations:
        return f"equal in {found.equal} of {simulations}"
    return f"better in {found.better} of {simulations}{f', equal in {found.equal}' if found.equal else ''}"


def pairings(comparison: Comparison) -> dict[str, dict[str, Pairing]]:
    """Pair each trained method with SRC, with NON, and with the network that it started from, whichever are others."""
    measure, starts = comparison.measure, comparison.starts
    errors = {name: measure.of_simulations(result.evaluation) for name, result in comparison.methods.items()}
    bases = {name: values for name, values in errors.items() if name in ("SRC", "NON")}
    found = {}
    for name in [name for name in errors if name != "SRC"]:
        others = dict(bases)
        if name in starts:
            others[starts[name].name] = measure.of_simulations(starts[name].evaluation)
        found[name] = {other: pair(errors[name], theirs) for other, theirs in others.items() if other != name}
    return found


def speed_rows(comparison: Comparison) -> Table:
    """Return the time of a step and state by method, with one state and with all at once; only a head if it was not timed."""
    speed = comparison.speed
    if speed is None:
        return [("step of",)]
    sizes = list(dict.fromkeys(time.states for times in speed.times.values() for time in times))
    reference, body = speed.seconds(REFERENCE), Table()
    for name in [*comparison.methods, REFERENCE]:
        found = {time.states: time for time in speed.times.get(name, ())}
        seconds = speed.seconds(name)
        if seconds is not None:
            cells = [_write_time(found[states]) if states in found else "-" for states in sizes]
            faster = [] if reference is None else [_write_faster(speed, name, reference / seconds)]
            body.append((_who(name), *cells, *faster))
    heads = ["ms, 1 state a call" if states == 1 else f"ms a state, {states} a call" for states in sizes]
    return [("step of", *heads, *(["times as fast as the reference"] if reference is not None else [])), *body]


def _write_time(time: StepTime) -> str:
    """Write the median of a step's times, and the quartiles in brackets if they are known."""
    if time.quartiles is None:
        return write_milliseconds(time.seconds)
    low, high = map(write_milliseconds, time.quartiles)
    return f"{write_milliseconds(time.seconds)} ({low} to {high})"


def _write_faster(speed: Speed, name: str, ratio: float) -> str:
    """Write how many times as fast as the reference a step is, as far as the timing tells."""
    return write_times(ratio) if name == REFERENCE or speed.is_apart(name) else "within the noise"


def _who(name: str) -> str:
    return {"SRC": "SRC, the solver alone", REFERENCE: "the reference solver"}.get(name, name)


def learning_rows(learning: Mapping[str, Learning]) -> Table:
    """Return what each training began and ended with: losses over its first and last tenth, and its best validation."""
    head = ("method", "updates", "loss at the beginning", "loss at the end", "least error in validation", "at update")
    more = ("of the solver alone", "steps of these rollouts")
    rows_of = {name: _learning_row(name, curves) for name, curves in learning.items() if curves.loss}
    known = any(learning[name].source is not None or learning[name].length for name in rows_of)
    return [(*head, *more) if known else head, *(row if known else row[: len(head)] for row in rows_of.values())]


def _learning_row(name: str, curves: Learning) -> tuple[str, ...]:
    losses, tenth = [loss for _, loss in curves.loss], max(1, len(curves.loss) // 10)
    update, error = min(curves.validation, key=lambda point: point[1], default=(None, math.nan))
    ends = (f"{statistics.median(part):.2e}" for part in (losses[:tenth], losses[-tenth:]))
    source = write_error(math.nan if curves.source is None else curves.source)
    length = f"{curves.length:,}" if curves.length else "-"
    at = "-" if update is None else f"{update:,}"
    return (name, f"{curves.loss[-1][0]:,}", *ends, write_error(error), at, source, length)
