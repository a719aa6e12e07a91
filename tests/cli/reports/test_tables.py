"""Tables of a comparison: no number mixes units, nothing is averaged away, no simulation is left out unsaid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from comparisons import compare_states

from deepzero_sim.cli.reports.numbers import (
    write_error,
    write_milliseconds,
    write_multiple,
    write_ratio,
    write_share,
    write_speed,
    write_times,
)
from deepzero_sim.cli.reports.tables import channel_rows, learning_rows, pair_rows, rows, simulation_rows, speed_rows
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.runs.compared_starts import Start
from deepzero_sim.training.runs.comparison import Comparison
from deepzero_sim.training.runs.learning import Learning
from deepzero_sim.training.runs.speed import Speed, StepTime

WATER = SolverSpec(
    name="water",
    state_shape=(2, 8),
    dt=0.1,
    channels=("h", "q"),
    channel_units=("m", "m^2/s"),
    parameters=("slope",),
    parameter_units=("m/km",),
)


def water(spec: SolverSpec = WATER, simulations: int = 3) -> Comparison:
    """Depth wrong by a tenth and discharge by a hundredth of their scales, as SRC has them; NON is twice as good in depth."""
    generator = torch.Generator().manual_seed(0)
    references = torch.randn(simulations, 5, 2, 8, generator=generator, dtype=torch.float64) * torch.tensor([[1.0], [100.0]])
    source = references + torch.tensor([[0.1], [1.0]])
    non = references + torch.tensor([[0.05], [1.0]])
    non[0] += 1.0
    return compare_states(
        spec,
        references,
        {"SRC": source, "NON": non},
        params=np.arange(simulations, dtype=float)[:, None] if spec.parameters else None,
    )


def test_channels_of_different_units_are_never_averaged() -> None:
    comparison = water()
    head, source, non = rows(comparison)
    assert head[1:4] == ("relative error", "std over simulations", "relative error / SRC")
    found = comparison.methods["SRC"].evaluation
    expected = 0.5 * (0.1 / found.scales[0] + 1.0 / found.scales[1])
    assert float(source[1]) == pytest.approx(float(expected), rel=1e-2) and source[3] == "1.00"
    assert float(non[3]) == pytest.approx(comparison.methods["NON"].evaluation.relative / found.relative, abs=5e-3)
    assert channel_rows(comparison) == [
        ("error of channel", "SRC", "NON"),
        ("MAE of h (m)", "0.1000", "0.3833"),
        ("RMSE of h (m)", "0.1000", "0.6076"),
        ("MAE of q (m^2/s)", "1.0000", "1.3333"),
        ("RMSE of q (m^2/s)", "1.0000", "1.4142"),
    ]


@pytest.mark.parametrize(
    ("units", "head"),
    [((), "relative error"), (("1", "1"), "MAE"), (("m/s", "m/s"), "MAE (m/s)"), (("K", "m/s"), "relative error")],
)
def test_the_unit_stands_in_the_head_where_all_channels_share_it(units: tuple[str, ...], head: str) -> None:
    spec = SolverSpec(name="two", state_shape=(2, 8), dt=0.1, channel_units=units)
    table = rows(water(spec))
    assert table[0][1] == head and table[0][3] == f"{head.partition(' (')[0]} / SRC"
    assert (table[1][1] == "0.5500") == (head != "relative error")
    assert channel_rows(water(spec))[1][0].startswith("MAE of channel 0")


def test_a_single_channel_has_a_table_of_both_errors() -> None:
    spec = SolverSpec(name="one", state_shape=(1, 8), dt=0.1)
    references = torch.randn(2, 3, 1, 8)
    mixed = references + torch.tensor([1.0, 7.0])[:, None, None, None]
    assert channel_rows(compare_states(spec, references, {"SRC": mixed}))[1:] == [
        ("MAE of channel 0", "4.0000"),
        ("RMSE of channel 0", "5.0000"),
    ]


def test_every_simulation_is_named_by_its_parameters() -> None:
    table = simulation_rows(water())
    assert table[0] == ("simulation", "slope (m/km)", "SRC", "NON")
    assert [row[:2] for row in table[1:]] == [("0", "0"), ("1", "1"), ("2", "2")]
    assert float(table[1][3]) > float(table[2][3]) == pytest.approx(float(table[3][3]))
    without = simulation_rows(water(SolverSpec(name="two", state_shape=(2, 8), dt=0.1)))
    assert without[0] == ("simulation", "SRC", "NON")
    assert len(simulation_rows(water(simulations=50))) == 21
    some = simulation_rows(replace(water(), numbers=(7, 2, 11)))
    assert [row[0] for row in some[1:]] == ["7", "2", "11"]  # as in the file, not in the selection


def test_methods_are_paired_with_the_solver_and_with_non() -> None:
    comparison = water()
    assert [row[:2] for row in pair_rows(comparison)] == [("method", "against"), ("NON", "SRC")]
    (row,) = pair_rows(comparison)[1:]
    assert row[4:] == ("2 of 3", "1") and float(row[2]) > 0 < float(row[3])  # better in most, and worse on average
    better = replace(comparison, methods={**comparison.methods, "ZO-SOL": comparison.methods["SRC"]})
    start = Start("DETACHED", comparison.methods["NON"].evaluation)
    table = pair_rows(replace(better, starts={"ZO-SOL": start}))
    assert [row[:2] for row in table[2:]] == [("ZO-SOL", "SRC"), ("ZO-SOL", "NON"), ("ZO-SOL", "DETACHED")]
    assert table[2][2:] == ("+0", "0", "0 of 3 (3 equal)", "1") and table[3][2:] == table[4][2:]


def test_a_rollout_that_diverged_has_no_difference() -> None:
    comparison = water()
    comparison.methods["NON"].evaluation.channel_errors[0] = torch.inf
    comparison.methods["NON"].evaluation.errors[0] = torch.inf
    assert pair_rows(comparison)[1][2:5] == ("+inf", "-", "2 of 3")
    comparison.methods["SRC"].evaluation.channel_errors[1] = torch.inf
    assert pair_rows(comparison)[1][2:5] == ("-", "-", "2 of 3")
    assert rows(comparison)[1][1] == "inf" and rows(comparison)[2][3] == "-"


def test_times_of_steps_stand_beside_each_other() -> None:
    comparison = water()
    assert len(speed_rows(comparison)) == 1
    known = {
        "SRC": [StepTime(1, 25, 0.0012, (0.0011, 0.0014)), StepTime(3, 25, 0.0006)],
        "NON": [StepTime(1, 25, 0.0038), StepTime(3, 25, 0.0019)],
        "reference": [StepTime(1, 3, 0.0456)],
    }
    assert speed_rows(replace(comparison, speed=Speed(known))) == [
        ("step of", "ms, 1 state a call", "ms a state, 3 a call", "times as fast as the reference"),
        ("SRC, the solver alone", "1.20 (1.10 to 1.40)", "0.600", "38"),
        ("NON", "3.80", "1.90", "12"),
        ("the reference solver", "45.6", "-", "1"),
    ]
    del known["reference"]
    assert speed_rows(replace(comparison, speed=Speed(known)))[2] == ("NON", "3.80", "1.90")


def test_learning_begins_and_ends_with_a_tenth_of_its_losses() -> None:
    losses = [(step, 1.0 if step <= 10 else 0.01) for step in range(1, 101)]
    table = learning_rows({"NON": Learning(losses, [(0, 0.5), (50, 0.1), (100, 0.2)]), "SRC": Learning([], [])})
    assert table[1:] == [("NON", "100", "1.00e+00", "1.00e-02", "0.1000", "50")]
    assert learning_rows({"NON": Learning(losses, [])})[1][-2:] == ("-", "-")
    table = learning_rows({"NON": Learning(losses, [(0, 0.5)], 0.4, 40), "SRC": Learning(losses, [])})
    assert table[0][-2:] == ("of the solver alone", "steps of these rollouts")
    assert table[1][-3:] == ("0", "0.4000", "40") and table[2][-2:] == ("-", "-")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (write_error(0.1234567), "0.1235"),
        (write_error(0.00012345), "0.000123"),
        (write_error(123456.0), "1.23e+05"),
        (write_error(0.0), "0.0000"),
        (write_error(float("inf")), "inf"),
        (write_error(float("nan")), "-"),
        (write_ratio(1.0, 3.0), "0.33"),
        (write_ratio(0.001, 1.0), "0.001"),
        (write_ratio(1.0, 0.0), "-"),
        (write_ratio(1.0, float("inf")), "-"),
        (write_ratio(float("inf"), 1.0), "inf"),
        (write_milliseconds(0.0000012), "0.00120"),
        (write_milliseconds(1.2), "1,200"),
        (write_milliseconds(0.1), "100"),
        (write_times(12.3), "12"),
        (write_times(0.234), "0.23"),
        (write_speed(12.3), "12 times as fast as"),
        (write_speed(1.04), "as fast as"),
        (write_multiple(1.034), "103 % of"),
        (write_multiple(2.5), "2.5 times"),
        (write_share(0.123), "12 %"),
        (write_share(0.00123), "0.12 %"),
    ],
)
def test_numbers_are_written_with_the_digits_that_say_something(written: str, expected: str) -> None:
    assert written == expected


def test_a_ratio_to_the_reference_is_not_told_where_their_times_overlap() -> None:
    known = {
        "SRC": [StepTime(1, 25, 0.116, (0.09, 0.16))],
        "NON": [StepTime(1, 25, 0.0938, (0.08, 0.09))],  # faster than the solver that it contains: noise
        "reference": [StepTime(1, 25, 0.152, (0.1, 0.4))],
    }
    table = speed_rows(replace(water(), speed=Speed(known)))
    assert [row[-1] for row in table[1:]] == ["within the noise", "within the noise", "1"]
