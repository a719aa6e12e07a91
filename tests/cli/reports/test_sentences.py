"""A report answers whether it paid, and says what may mislead."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import compare_states

from deepzero_sim.cli.reports.sentences import all_notes, all_warnings, answer, best_method, few_simulations, speed_sentences
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.runs.compared_starts import Start
from deepzero_sim.training.runs.comparison import Comparison
from deepzero_sim.training.runs.speed import Speed, StepTime

LINE = SolverSpec(name="line", state_shape=(1, 8), dt=0.1, channels=("u",), channel_units=("m/s",))
WATER = SolverSpec(name="water", state_shape=(2, 8), dt=0.1, channels=("h", "q"), channel_units=("m", "m^2/s"))


def errors_of(spec: SolverSpec = LINE, simulations: int = 5, **errors: float) -> Comparison:
    """A comparison in which every channel of a method is wrong by one amount everywhere, `error` times its own scale."""
    references = torch.zeros(simulations, 4, *spec.state_shape, dtype=torch.float64)
    references[..., ::2] = 2.0  # standard deviation of about 1
    return compare_states(spec, references, {name: references + error for name, error in errors.items()})


def times(**seconds: float) -> Speed:
    return Speed({name: [StepTime(1, 5, value)] for name, value in seconds.items()}, {"solver": 10})


def test_the_answer_says_what_error_is_left_and_how_fast_it_is() -> None:
    comparison = replace(
        errors_of(SRC=0.4, NON=0.1, SolverLayer=0.06), speed=times(SRC=1.2e-3, SolverLayer=3.8e-3, reference=45.6e-3)
    )
    assert best_method(comparison) == "SolverLayer"
    assert answer(comparison) == (
        "SolverLayer leaves 15 % of the error of the solver alone (mean absolute error 0.0600 m/s against 0.4000 m/s over 4 "
        "steps to t = 0.4, better in 5 of 5 simulations). Corrected: 3.80 ms a step, coarse 1.20, fine 45.6: 12 times as fast "
        "as the reference at 15 % of the coarse solver's error. Against NON it has 60 % of the error (mean absolute error "
        "0.0600 m/s against 0.1000 m/s over 4 steps to t = 0.4, better in 5 of 5 simulations)."
    )


@pytest.mark.parametrize(
    ("errors", "seconds", "words"),
    [
        ({"SRC": 0.2, "NON": 0.5}, {}, "It does not pay: NON has 2.5 times the error of the solver alone"),
        ({"SRC": 0.2, "NON": 0.2}, {}, "It does not pay: NON is no better than the solver alone (mean"),
        ({"SRC": 0.2, "NON": 0.2001}, {}, "It does not pay: NON is no better than the solver alone (mean"),
        ({"SRC": 0.2, "NON": 0.1999}, {}, "It does not pay: NON is no better than the solver alone (mean"),
        ({"SRC": 0.2, "NON": 0.206}, {}, "It does not pay: NON has 103 % of the error of the solver alone (mean"),
        ({"SRC": 0.2, "NON": 0.19}, {}, "It hardly pays: NON leaves 95 % of the error of the solver alone (mean"),
        (
            {"SRC": 0.2, "NON": 0.1},
            {"SRC": 0.1, "NON": 0.2, "reference": 0.2001},
            "fine 200: as fast as the reference at 50 % of the coarse solver's error.",
        ),
        (
            {"SRC": 0.2, "NON": 0.1},
            {"SRC": 0.1, "NON": 0.3, "reference": 0.2},
            "fine 200: it does not pay, for the reference itself is 1.5 times as fast as the corrected solver.",
        ),
        (
            {"SRC": 0.2, "NON": 0.5},
            {"SRC": 0.1, "NON": 0.2, "reference": 0.4},
            "fine 400: 2 times as fast as the reference.",
        ),
        (
            {"SRC": 0.2, "NON": 0.1},
            {"SRC": 0.1, "NON": 0.2},
            "Corrected: 200 ms a step, coarse 100; the reference was not timed.",
        ),
        (
            {"SRC": 0.2, "NON": math.nan},
            {},
            "It does not pay yet: NON diverges or fails in 5 of 5 simulations, the solver alone in none",
        ),
        (
            {"SRC": math.inf, "NON": 0.1},
            {},
            "NON holds in all 5 simulations (mean absolute error 0.1000 m/s), the solver alone diverges",
        ),
        (
            {"SRC": 0.0, "NON": 0.0},
            {},
            "There is nothing to correct: the solver alone has a mean absolute error of 0.0000 m/s.",
        ),
        (
            {"SRC": 0.25},
            {},
            "The solver alone has a mean absolute error of 0.2500 m/s over 4 steps to t = 0.4 of 5 simulations.",
        ),
    ],
)
def test_the_answer_is_plain_where_it_does_not_pay(errors: dict[str, float], seconds: dict[str, float], words: str) -> None:
    comparison = replace(errors_of(**errors), speed=times(**seconds) if seconds else None)
    assert words in answer(comparison)


def spread_of(amounts: list[float], **methods: list[float]) -> Comparison:
    """A comparison in which the methods' errors are those given, simulation by simulation."""
    references = torch.zeros(len(amounts), 4, *LINE.state_shape, dtype=torch.float64)
    rollouts = {"SRC": amounts, **methods}
    return compare_states(
        LINE, references, {name: references + torch.tensor(values)[:, None, None, None] for name, values in rollouts.items()}
    )


def test_a_difference_within_its_spread_over_the_simulations_is_said() -> None:
    within = "a difference within its spread over the simulations"
    uneven = spread_of([0.2, 0.2, 0.2], NON=[0.1, 0.1, 0.3])
    assert f"0.2000 m/s over 4 steps to t = 0.4, better in 2 of 3 simulations; {within})." in answer(uneven)
    assert within not in answer(spread_of([0.2, 0.4, 0.8], NON=[0.1, 0.3, 0.7]))  # the simulations differ, not the gain
    worse = spread_of([0.2, 0.2, 0.2], NON=[0.1, 0.1, 0.9])
    assert all_warnings(worse) == [f"NON is worse than the solver alone: mean absolute error 0.3667 against 0.2000; {within}."]


def test_methods_that_are_as_good_within_the_spread_are_named() -> None:
    found = spread_of([0.4] * 3, DETACHED=[0.1, 0.2, 0.3], FO=[0.1, 0.3, 0.2], SolverLayer=[0.3, 0.1, 0.21])
    said = answer(found)
    assert said.startswith("DETACHED leaves 50 %") and said.endswith(
        "Its error differs from that of SolverLayer by less than the spread over the simulations."
    )


def two_channels(units: tuple[str, ...]) -> Comparison:
    """Dye of size 1 and heat of size 1000: A is better for heat, B by far for dye."""
    spec = SolverSpec(name="two", state_shape=(2, 8), dt=0.1, channels=("dye", "heat"), channel_units=units)
    references = torch.zeros(3, 4, 2, 8, dtype=torch.float64)
    references[..., ::2] = torch.tensor([2.0, 2000.0])[:, None]
    errors = {"SRC": (0.4, 400.0), "A": (0.38, 100.0), "B": (0.1, 120.0)}
    return compare_states(spec, references, {name: references + torch.tensor(of)[:, None] for name, of in errors.items()})


def test_channels_without_units_are_not_mixed_by_the_answer() -> None:
    without = two_channels(())
    assert best_method(without) == "B"
    assert answer(without).startswith("B leaves 27 % of the error of the solver alone (mean relative error 0.1094 against")
    assert any("no units" in note for note in all_notes(without))
    assert any("different units" in note for note in all_notes(two_channels(("1", "mK"))))


def test_another_best_method_by_the_error_of_training_is_named() -> None:
    shared = two_channels(("mK", "mK"))
    assert best_method(shared) == "A" and not all_notes(shared)
    assert "by which training chooses networks, B is best (0.1094 against 0.2387)" in answer(shared)


def test_a_unit_of_one_is_no_unit() -> None:
    said = answer(errors_of(replace(LINE, channel_units=("1",)), SRC=0.4, NON=0.1))
    assert "(mean absolute error 0.1000 against 0.4000 over 4 steps" in said


def test_the_horizon_is_said_in_the_unit_of_the_data() -> None:
    comparison = replace(errors_of(SRC=0.4, NON=0.1), time_unit="h", times=np.linspace(10.0, 12.0, 5))
    assert "over 4 steps to t = 12 h, better in" in answer(comparison)


def test_a_corrected_step_that_was_timed_below_the_coarse_one_is_noise() -> None:
    known = {"SRC": [StepTime(1, 7, 0.076, (0.05, 0.09))], "NON": [StepTime(1, 7, 0.055, (0.05, 0.08))]}
    said = answer(replace(errors_of(SRC=0.4, NON=0.1), speed=Speed(known)))
    assert said.endswith(
        "Corrected: 55.0 ms a step, coarse 76.0 (what the correction costs is within the noise of the timing: half of the "
        "calls take corrected 50.0 to 80.0, coarse 50.0 to 90.0 ms); the reference was not timed."
    )
    known = {"SRC": [StepTime(1, 1, 0.076)], "NON": [StepTime(1, 1, 0.055)]}
    assert "timed one after the other, in rollouts" in answer(replace(errors_of(SRC=0.4, NON=0.1), speed=Speed(known)))


def test_one_simulation_that_diverges_is_no_success() -> None:
    comparison = errors_of(SRC=0.4, NON=0.1)
    comparison.methods["NON"].evaluation.errors[3, 2:] = torch.inf
    assert "It does not pay yet: NON diverges or fails in 1 of 5 simulations, the solver alone in none." in answer(comparison)
    (given_up,) = (sentence for sentence in all_warnings(comparison) if "given up" in sentence)
    assert given_up == "NON: 1 of 5 simulations given up, the first at step 3 (not finite); the mean of the others is 0.1000."


def test_channels_of_different_units_are_answered_by_relative_errors() -> None:
    assert "(mean relative error 0." in answer(errors_of(WATER, SRC=0.4, NON=0.1)) and "m/s" not in answer(
        errors_of(WATER, SRC=0.4, NON=0.1)
    )


def test_what_a_method_started_from_stands_for_non() -> None:
    comparison = errors_of(SRC=0.4, SolverLayer=0.1)
    start = Start("NON", errors_of(SRC=0.2).methods["SRC"].evaluation)
    said = answer(replace(comparison, starts={"SolverLayer": start}))
    assert "Against NON it has 50 % of the error (mean absolute error 0.1000 m/s against 0.2000 m/s" in said
    assert "Against" not in answer(comparison)


def test_methods_that_do_harm_are_warned_of() -> None:
    comparison = errors_of(SRC=0.2, NON=0.1, DETACHED=0.3, SolverLayer=0.15)
    start = Start("ZO-SOL, runs/before", errors_of(SRC=0.12).methods["SRC"].evaluation)
    assert all_warnings(replace(comparison, starts={"SolverLayer": start}, warnings=["frames seem odd."])) == [
        "frames seem odd.",
        "DETACHED is worse than the solver alone: mean absolute error 0.3000 against 0.2000.",
        "DETACHED is worse than NON, which never saw the solver in the loop: mean absolute error 0.3000 against 0.1000.",
        "SolverLayer is worse than NON, which never saw the solver in the loop: mean absolute error 0.1500 against 0.1000.",
        "SolverLayer is worse than ZO-SOL, runs/before, the network that it started from: mean absolute error 0.1500 against "
        "0.1200.",
    ]


def test_nothing_is_warned_of_where_nothing_is_wrong() -> None:
    assert not all_warnings(errors_of(SRC=0.2, NON=0.1)) and not all_warnings(errors_of(SRC=0.2, NON=0.2))


def test_channels_without_change_are_said_where_they_are_left_out() -> None:
    comparison = errors_of(WATER, SRC=0.2, NON=0.1)
    for result in comparison.methods.values():
        result.evaluation.scales[1] = torch.nan
    assert all_warnings(comparison) == [
        "channel q does not change in the reference data, and is left out of the relative error."
    ]


@pytest.mark.parametrize(
    ("count", "words"), [(1, "One simulation says nothing of others"), (5, "1 time in 16 .*p = 0.062"), (8, "^$")]
)
def test_few_simulations_are_said_plainly(count: int, words: str) -> None:
    assert re.search(words, few_simulations(count))


def test_how_steps_were_timed_is_said() -> None:
    comparison = errors_of(SRC=0.2)
    assert speed_sentences(comparison) == []
    timed = Speed({"SRC": [StepTime(1, 5, 0.1)]}, {"solver": 1234}, "the data do not say which solver they were made with.")
    assert speed_sentences(replace(comparison, speed=timed)) == [
        "Medians of 5 calls or more, in turns, on one thread, with the quartiles in brackets; these 1,234 steps are not "
        "counted as training.",
        "The reference was not timed: the data do not say which solver they were made with.",
    ]
    slow: dict[str, Any] = {"times": {"SRC": [StepTime(5, 40, 30.0)]}, "solver_steps": {}}
    assert "its time is that of the rollouts" in speed_sentences(replace(comparison, speed=Speed(**slow)))[0]


def test_no_ratio_of_times_is_told_within_their_noise() -> None:
    comparison = errors_of(SRC=0.2, NON=0.1)
    noisy = {
        "SRC": [StepTime(1, 9, 0.116, (0.09, 0.16))],
        "NON": [StepTime(1, 9, 0.0938, (0.08, 0.13))],
        "reference": [StepTime(1, 9, 0.152, (0.1, 0.4))],
    }
    said = answer(replace(comparison, speed=Speed(noisy)))
    assert "as fast as" not in said and (
        "fine 152; which of corrected and fine is faster is within the noise of the timing (half of the calls take corrected "
        "80.0 to 130, coarse 90.0 to 160, fine 100 to 400 ms)." in said
    )


def test_equal_errors_are_called_equal() -> None:
    said = answer(errors_of(SRC=0.2, NON=0.1, SolverLayer=0.1))
    assert "better in 5 of 5 simulations)" in said
    comparison = errors_of(SRC=0.2, NON=0.2)
    assert "equal in 5 of 5 simulations" in answer(comparison)


def test_root_mean_squares_are_told_where_they_say_something_else() -> None:
    true = torch.zeros(2, 4, 1, 8)
    even, uneven = true + 1.0, true.clone()
    uneven[..., 0] = 4.0  # half the mean error of the other, and 1.4 times its root mean square
    comparison = compare_states(LINE, true, {"SRC": even, "NON": uneven})
    assert "By the root mean square error, which training minimises, it is 141 % of the solver's." in answer(comparison)
    assert "root mean square" not in answer(errors_of(SRC=0.2, NON=0.1))
