"""One error that mixes no units."""

from __future__ import annotations

import pytest
import torch

from deepzero_sim.coupling.evaluation import Evaluation
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.runs.measure import RELATIVE, explain_measure, measure_of

FOUND = Evaluation(
    torch.tensor([[1.0, 3.0], [5.0, 7.0]]),
    torch.zeros(2, 2, 2, 4),
    4,
    0.1,
    channel_errors=torch.tensor([[[1.0, 10.0], [3.0, 30.0]], [[5.0, 50.0], [7.0, 70.0]]]),
    scales=torch.tensor([2.0, 10.0]),
)


@pytest.mark.parametrize(
    ("units", "head", "label", "means"),
    [
        ((), "relative error", "mean relative error", [1.5, 4.5]),
        (("", ""), "relative error", "mean relative error", [1.5, 4.5]),
        (("1", "1"), "MAE", "mean absolute error", [2, 6]),
        (("m/s", "m/s"), "MAE (m/s)", "mean absolute error (m/s)", [2, 6]),
        (("m", "m^2/s"), "relative error", "mean relative error", [1.5, 4.5]),
        (("m", ""), "relative error", "mean relative error", [1.5, 4.5]),
    ],
)
def test_channels_of_different_units_are_compared_by_relative_errors(
    units: tuple[str, ...], head: str, label: str, means: list[float]
) -> None:
    measure = measure_of(SolverSpec(name="two", state_shape=(2, 4), dt=1.0, channel_units=units))
    assert (measure.head, measure.label) == (head, label)
    assert measure.is_relative == (measure is RELATIVE) == (head == "relative error")
    assert measure.of_simulations(FOUND) == means
    assert measure.mean(FOUND) == sum(means) / 2 and measure.spread(FOUND) == (means[1] - means[0]) / 2


def test_a_single_channel_without_a_unit_is_compared_by_its_absolute_error() -> None:
    spec = SolverSpec(name="one", state_shape=(1, 4), dt=1.0)
    assert measure_of(spec).head == "MAE" and not explain_measure(spec)


@pytest.mark.parametrize(
    ("units", "why"), [((), "have no units (channel_units"), (("K", "m/s"), "have different units,"), (("K", ""), "different")]
)
def test_relative_errors_are_explained(units: tuple[str, ...], why: str) -> None:
    said = explain_measure(SolverSpec(name="two", state_shape=(2, 4), dt=1.0, channel_units=units))
    assert why in said and "divided by its standard deviation" in said
    assert not explain_measure(SolverSpec(name="two", state_shape=(2, 4), dt=1.0, channel_units=("K", "K")))
