"""Sentences on a comparison: whether it paid, and what may mislead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from deepzero_sim.cli.reports.numbers import write_error, write_milliseconds, write_multiple, write_share, write_speed
from deepzero_sim.cli.reports.squares import mean_rmse
from deepzero_sim.cli.reports.tables import channel_names, count_better, pairings
from deepzero_sim.common.words import count_of
from deepzero_sim.datasets.units import with_amount
from deepzero_sim.training.runs.measure import RELATIVE, explain_measure
from deepzero_sim.training.runs.pairing import Pairing, pair
from deepzero_sim.training.runs.speed import REFERENCE
from deepzero_sim.training.validation_record import HARDLY

if TYPE_CHECKING:
    from deepzero_sim.coupling.evaluation import Evaluation
    from deepzero_sim.training.runs.comparison import Comparison
    from deepzero_sim.training.runs.measure import Measure

#: Simulations below which a sign test can say little: with eight of them, chance alone favours one side 1 time in 128.
FEW = 8

#: Share of the solver's error from which on a method is no better, as rounded.
NO_BETTER = 0.995

#: Difference of two shares of the solver's error, by means and by root mean squares, from which on both are told.
DIFFERENT = 0.1

#: End of a sentence on a difference that the simulations do not bear out.
WITHIN = "a difference within its spread over the simulations"


def answer(comparison: Comparison) -> str:
    """Say in a few sentences whether the best method pays: its error, the time of its steps, and how it stands to NON.

    Of a training that is not finished, that comes first.
    """
    unfinished = unfinished_sentences(comparison)
    return " ".join([*unfinished, f"So far: {_verdict(comparison)}"]) if unfinished else _verdict(comparison)


def unfinished_sentences(comparison: Comparison) -> list[str]:
    """Write a sentence for each training that is not finished."""
    return [left.sentence for left in comparison.unfinished.values()]


def _verdict(comparison: Comparison) -> str:
    best = best_method(comparison)
    if best is None:
        error = f"a {comparison.measure.words} of {_amount(comparison, 'SRC')}"
        return (
            f"The solver alone has {error} over {comparison.horizon} of {count_of(len(comparison.references), 'simulation')}."
        )
    parts = (
        _error_sentence(comparison, best),
        _choice_sentence(comparison, best),
        _squares_sentence(comparison, best),
        _speed_sentence(comparison, best),
        _non_sentence(comparison, best),
        _peers_sentence(comparison, best),
    )
    return " ".join(filter(None, parts))


def best_method(comparison: Comparison) -> str | None:
    """Return the trained method of the smallest error; None if none was trained."""
    return _best_by(comparison, comparison.measure)


def _best_by(comparison: Comparison, measure: Measure) -> str | None:
    errors = {name: measure.mean(one.evaluation) for name, one in comparison.methods.items() if name != "SRC"}
    return min(errors, key=lambda name: math.inf if math.isnan(errors[name]) else errors[name], default=None)


def _mean(comparison: Comparison, name: str) -> float:
    return comparison.measure.mean(comparison.methods[name].evaluation)


def _amount(comparison: Comparison, name: str) -> str:
    return _with_unit(comparison, _mean(comparison, name))


def _with_unit(comparison: Comparison, error: float) -> str:
    return with_amount(write_error(error), comparison.measure.unit)


def _against(comparison: Comparison, name: str, other: str, theirs: Evaluation) -> str:
    """Write two errors, their horizon, in how many simulations the first is smaller, and whether that says something."""
    measure, found = comparison.measure, pairings(comparison)[name][other]
    amounts = f"{measure.words} {_amount(comparison, name)} against {_with_unit(comparison, measure.mean(theirs))}"
    better = count_better(found, count_of(found.simulations, "simulation"))
    return f"{amounts} over {comparison.horizon}, {better}{_within(found)}"


def _within(found: Pairing) -> str:
    return f"; {WITHIN}" if found.is_within_spread else ""


def _count_diverged(comparison: Comparison, name: str) -> int:
    """Count the simulations that a method has no error of: it diverged, or failed and was given up."""
    return int(comparison.methods[name].evaluation.given_up.sum())


def _error_sentence(comparison: Comparison, best: str) -> str:
    simulations = len(comparison.references)
    lost, without = _count_diverged(comparison, best), _count_diverged(comparison, "SRC")
    ours, source = _mean(comparison, best), _mean(comparison, "SRC")
    if lost:
        return (
            f"It does not pay yet: {best} diverges or fails in {lost} of {count_of(simulations, 'simulation')}, the solver "
            f"alone in {without or 'none'}."
        )
    if without:
        return (
            f"{best} holds in all {simulations} simulations ({comparison.measure.words} {_amount(comparison, best)}), the "
            f"solver alone diverges or fails in {without} of them."
        )
    if not source > 0:
        return (
            f"There is nothing to correct: the solver alone has a {comparison.measure.words} of {_amount(comparison, 'SRC')}."
        )
    against = _against(comparison, best, "SRC", comparison.methods["SRC"].evaluation)
    share = ours / source
    if share > 1 / NO_BETTER:
        return f"It does not pay: {best} has {write_multiple(share)} the error of the solver alone ({against})."
    if share >= NO_BETTER:
        return f"It does not pay: {best} is no better than the solver alone ({against})."
    leaves = f"{best} leaves {write_share(share)} of the error of the solver alone ({against})."
    return f"It hardly pays: {leaves}" if share >= HARDLY else leaves


def _choice_sentence(comparison: Comparison, best: str) -> str:
    """Name the method of the smallest relative error, by which training chooses networks; empty if it is the best one."""
    chosen = _best_by(comparison, RELATIVE)
    if chosen in (None, best):
        return ""
    ours, theirs = (RELATIVE.mean(comparison.methods[name].evaluation) for name in (best, chosen))
    if not theirs < ours:
        return ""
    return (
        f"By the {RELATIVE.words}, in which each channel counts in its own size and by which training chooses networks, "
        f"{chosen} is best ({write_error(theirs)} against {write_error(ours)})."
    )


def _squares_sentence(comparison: Comparison, best: str) -> str:
    """Say how the root mean square error stands where it tells something else than the mean; empty if it does not."""
    ours, source = _mean(comparison, best), _mean(comparison, "SRC")
    if not (0 < source < math.inf and math.isfinite(ours)):
        return ""
    square, of_source = mean_rmse(comparison, best), mean_rmse(comparison, "SRC")
    if not 0 < of_source < math.inf:
        return ""
    share, by_squares = ours / source, square / of_source
    otherwise = (share < 1) != (by_squares < 1) and abs(share - by_squares) > 1 - NO_BETTER
    if not otherwise and abs(share - by_squares) <= DIFFERENT * max(1.0, share):
        return ""
    amount = f"{write_share(by_squares)} of" if by_squares < 1 else write_multiple(by_squares)
    return f"By the root mean square error, which training minimises, it is {amount} the solver's."


def _speed_sentence(comparison: Comparison, best: str) -> str:
    """Say what a step takes, corrected, coarse and fine; empty if that was not measured."""
    speed = comparison.speed
    corrected, coarse, fine = (None if speed is None else speed.seconds(name) for name in (best, "SRC", REFERENCE))
    if corrected is None or coarse is None:
        return ""
    assert speed is not None
    times = f"Corrected: {write_milliseconds(corrected)} ms a step, coarse {write_milliseconds(coarse)}"
    times += "" if fine is None else f", fine {write_milliseconds(fine)}"
    if speed.is_noise(best) and (fine is None or speed.is_apart(best)):
        ranges = _ranges(comparison, {"corrected": best, "coarse": "SRC"})
        times += f" (what the correction costs is within the noise of the timing: {ranges})"
    if fine is None:
        return f"{times}; the reference was not timed."
    if not speed.is_apart(best):
        ranges = _ranges(comparison, {"corrected": best, "coarse": "SRC", "fine": REFERENCE})
        return f"{times}; which of corrected and fine is faster is within the noise of the timing ({ranges})."
    if corrected >= fine:
        return f"{times}: it does not pay, for the reference itself is {write_speed(corrected / fine)} the corrected solver."
    share = _mean(comparison, best) / _mean(comparison, "SRC") if _mean(comparison, "SRC") > 0 else math.nan
    error = f" at {write_share(share)} of the coarse solver's error" if share < NO_BETTER else ""
    return f"{times}: {write_speed(fine / corrected)} the reference{error}."


def _ranges(comparison: Comparison, names: Mapping[str, str]) -> str:
    """Write between which times half of the calls lie; that there was one series of calls where no more are known.

    Args:
        comparison: Results.
        names: Methods by what their steps are called.
    """
    assert comparison.speed is not None
    found = {word: comparison.speed.times[name][0].quartiles for word, name in names.items()}
    listed = [f"{word} {write_milliseconds(pair[0])} to {write_milliseconds(pair[1])}" for word, pair in found.items() if pair]
    if len(listed) < min(2, len(names)):
        return "they were timed one after the other, in rollouts"
    return f"half of the calls take {', '.join(listed)} ms"


def _non_sentence(comparison: Comparison, best: str) -> str:
    """Compare with NON, the network trained without the solver in the loop, if it is there and another."""
    start = comparison.starts.get(best)
    if "NON" in comparison.methods:
        non = comparison.methods["NON"].evaluation
    elif start is not None and start.name == "NON":
        non = start.evaluation
    else:
        return ""
    ours, theirs = _mean(comparison, best), comparison.measure.mean(non)
    if best == "NON" or not 0 < theirs < math.inf or not math.isfinite(ours):
        return ""
    share, against = ours / theirs, _against(comparison, best, "NON", non)
    if ours == theirs:
        return f"It has the error of NON ({against})."
    if NO_BETTER <= share <= 1 / NO_BETTER:
        return f"It is no better than NON ({against})."
    amount = f"{write_share(share)} of" if share < 1 else write_multiple(share)
    return f"Against NON it has {amount} the error ({against})."


def _peers_sentence(comparison: Comparison, best: str) -> str:
    """Name the other methods that the best one is better than by less than the spread of the difference; none but NON."""
    errors = {name: comparison.measure.of_simulations(one.evaluation) for name, one in comparison.methods.items()}
    peers = [name for name in errors if name not in ("SRC", "NON", best) and pair(errors[name], errors[best]).is_within_spread]
    if not peers:
        return ""
    them = f"that of {peers[0]}" if len(peers) == 1 else f"those of {', '.join(peers[:-1])} and {peers[-1]}"
    return f"Its error differs from {them} by less than the spread over the simulations."


def few_simulations(count: int) -> str:
    """Say plainly what a sign test of few simulations can and cannot say; empty if there are many."""
    if count >= FEW:
        return ""
    if count == 1:
        return "One simulation says nothing of others: evaluate on more."
    chance = 2 ** (count - 1)
    return (
        f"These are few simulations: even {count} of {count} come about by chance alone 1 time in {chance} (a sign test that "
        f"cannot give less than p = {1 / chance:.2g})."
    )


def all_notes(comparison: Comparison) -> list[str]:
    """Return sentences on what errors are, and on what was left out or assumed when the data were read."""
    return [*filter(None, [explain_measure(comparison.spec)]), *comparison.data.get("notes", ())]


def all_warnings(comparison: Comparison) -> list[str]:
    """Return sentences on everything that may mislead: simulations given up, data, methods that do harm."""
    return [*failure_sentences(comparison), *comparison.warnings, *_harm(comparison), *_left_out(comparison)]


def failure_sentences(comparison: Comparison) -> list[str]:
    """Write a sentence for each method of which simulations were given up."""
    sentences = []
    for name, result in comparison.methods.items():
        errors, failures = comparison.measure.errors(result.evaluation), result.evaluation.failures
        broken = result.evaluation.errors.isinf()
        lost = broken.any(dim=1)
        if bool(lost.any()):
            first = int(broken.int().argmax(dim=1)[lost].min()) + 1
            left = errors[~lost].mean() if bool((~lost).any()) else None
            rest = "" if left is None else f"; the mean of the others is {write_error(float(left))}"
            kinds = ", ".join(failures) or "not finite"
            sentences.append(
                f"{name}: {int(lost.sum())} of {len(errors)} simulations given up, the first at step {first} ({kinds}){rest}."
            )
    return sentences


def _harm(comparison: Comparison) -> list[str]:
    """Write a sentence for each method that is worse than the solver alone, than NON, or than what it started from."""
    sentences, paired = [], pairings(comparison)
    for name in comparison.methods:
        bases = {
            base: _mean(comparison, base) for base in ("SRC", "NON") if base in comparison.methods and name not in ("SRC", base)
        }
        words = {"SRC": "the solver alone", "NON": "NON, which never saw the solver in the loop"}
        start = comparison.starts.get(name)
        if start is not None:
            bases[start.name] = comparison.measure.mean(start.evaluation)
            words[start.name] = f"{start.name}, the network that it started from"
        ours = _mean(comparison, name)
        sentences += [
            f"{name} is worse than {words[base]}: {comparison.measure.words} {write_error(ours)} against {write_error(theirs)}"
            f"{_within(paired[name][base])}."
            for base, theirs in bases.items()
            if ours > theirs
        ]
    return sentences


def _left_out(comparison: Comparison) -> list[str]:
    """Write which channels the relative error does not count: those that the reference data hold constant."""
    if not comparison.measure.is_relative:
        return []
    evaluation = comparison.methods["SRC"].evaluation
    there = ~evaluation.channel_mae.isnan()
    names = [name for name, left in zip(channel_names(comparison), evaluation.scales.isnan() & there, strict=True) if left]
    if not names:
        return []
    listed, one = ", ".join(names), len(names) == 1
    return [
        f"{'channel' if one else 'channels'} {listed} {'does' if one else 'do'} not change in the reference data, and "
        f"{'is' if one else 'are'} left out of the relative error."
    ]


def first_step_sentences(comparison: Comparison) -> list[str]:
    """Write a sentence for each method that found first steps which other runs had taken."""
    return [
        f"{name}: {result.cost.found:,} first solver steps were found in other runs, and are counted where they were taken."
        for name, result in comparison.methods.items()
        if result.cost.found
    ]


def speed_sentences(comparison: Comparison) -> list[str]:
    """Say how steps were timed, what that took, and why the reference was not timed if it was not."""
    speed = comparison.speed
    if speed is None:
        return []
    taken = sum(speed.solver_steps.values())
    calls = min((time.calls for times in speed.times.values() for time in times), default=0)
    sentences = [
        f"Medians of {calls} calls or more, in turns, on one thread, with the quartiles in brackets; these {taken:,} steps are "
        "not counted as training."
        if taken
        else "A step takes so long that its time is that of the rollouts, on one thread."
    ]
    sentences += [f"Steps of {' and '.join(names)} are one computation, and share their calls." for names in speed.shared]
    if speed.without_reference:
        sentences.append(f"The reference was not timed: {speed.without_reference.removesuffix('.')}.")
    return sentences
