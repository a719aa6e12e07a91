"""The loss of a network's parameters, asked for by others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from problems import Burgers, conv_corrector, initial_states, mse

import deepzero_sim as dz
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.errors import ConfigError, NonFiniteError
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.serving import ServedLoop, ServedLoss, ServedParameters

STATES = torch.from_numpy(initial_states(2))


def batches(number: int) -> Any:
    references = torch.stack([STATES * (1 - 0.1 * (number + 1))] * 2, dim=1)
    return STATES, None, references


def models() -> tuple[ServedLoss, ServedParameters]:
    torch.manual_seed(0)
    loop = SolverLoop(Burgers(), conv_corrector(), unroll=2)
    return ServedLoss(LoopOracle(loop, mse), batches), ServedParameters(loop.corrector)


def test_the_loss_of_the_networks_own_parameters_is_its_loss() -> None:
    loss, parameters = models()
    (vector,) = parameters.evaluate([], {})
    assert [len(vector)] == list(loss.input_sizes({})) == list(parameters.output_sizes({}))
    for number in (0, 1):
        expected = float(loss.oracle.differentiable_loss(batches(number))[0].detach())
        assert loss.evaluate([vector], {"batch": number})[0].tolist() == [expected]
    assert loss.evaluate([vector], {})[0] == loss.evaluate([vector], {"batch": 0})[0]


def test_a_step_against_the_gradient_makes_it_smaller_and_the_network_stays_what_it_was() -> None:
    loss, parameters = models()
    (before,) = parameters.evaluate([], {})
    through = loss.oracle.differentiable_loss(batches(0))[0]
    gradient = torch.autograd.grad(through, list(loss.oracle.model.parameters()))
    flat = torch.cat([part.reshape(-1) for part in gradient]).numpy()
    assert loss.evaluate([before - 1e-3 * flat], {})[0] < loss.evaluate([before], {})[0]
    assert np.array_equal(parameters.evaluate([], {})[0], before)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_parameters_that_diverge_are_an_error_and_the_network_is_put_back() -> None:
    loss, parameters = models()
    (before,) = parameters.evaluate([], {})
    with pytest.raises(NonFiniteError):
        loss.evaluate([np.full_like(before, 1e300)], {})
    assert np.array_equal(parameters.evaluate([], {})[0], before)


@pytest.mark.parametrize("config", [{"batch": -1}, {"batch": "0"}, {"steps": 1}])
def test_a_config_that_says_something_else_is_refused(config: dict[str, Any]) -> None:
    loss, parameters = models()
    with pytest.raises(ConfigError, match=r"in the config of this model|the config of this model may hold"):
        loss.evaluate(parameters.evaluate([], {}), config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ServedLoss(Burgers(), batches), "expected a dz.LoopOracle"),  # type: ignore[arg-type]
        (lambda: ServedLoop(Burgers()), r"expected a dz\.SolverLoop to serve, not Burgers"),  # type: ignore[arg-type]
        (lambda: dz.ServedSolver(abs), "expected a solver to serve"),  # type: ignore[arg-type]
    ],
)
def test_something_else_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
