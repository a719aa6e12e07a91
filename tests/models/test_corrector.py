"""Correctors: their sizes, their scales, their padding, and that they start without effect."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deepzero_sim.errors import ConfigError
from deepzero_sim.models import CORRECTORS, Corrector, mars_moon, small
from deepzero_sim.models.corrector import Padding
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solvers.wake import WakeGrid

WAKE = WakeGrid(32).spec("wake", "float32")
ALL = pytest.mark.parametrize("name", CORRECTORS)


def spec(*shape: int, **fields: Any) -> SolverSpec:
    return SolverSpec(name="any", state_shape=shape, dt=1.0, **fields)


def randomised(corrector: Corrector) -> Corrector:
    for parameter in corrector.parameters():
        nn.init.normal_(parameter, std=0.1)
    return corrector


@pytest.mark.parametrize(("name", "count"), [("mars_moon", 260354), ("mercury", 56898), ("small", 482)])
def test_parameter_counts_on_the_wake(name: str, count: int) -> None:
    assert sum(p.numel() for p in CORRECTORS[name](WAKE).parameters()) == count


@ALL
def test_untrained_it_leaves_the_solver_as_it_is(name: str) -> None:
    states, params = torch.randn(2, *WAKE.state_shape), torch.rand(2, 1)
    correction = CORRECTORS[name](WAKE)(states, params)
    assert correction.shape == states.shape and not correction.any()


@ALL
@pytest.mark.parametrize("padding", ["zeros", "circular", "replicate"])
def test_padding_stays_zero(name: str, padding: Padding) -> None:
    grid = WakeGrid(8).spec("wake", "float32")
    corrector = randomised(CORRECTORS[name](grid, padding=padding))
    with torch.no_grad():
        correction = corrector(torch.randn(2, *grid.state_shape), torch.rand(2, 1)).numpy()
    active = np.broadcast_to(grid.active(), correction.shape)
    assert not correction[~active].any()
    assert (correction[active] != 0).mean() > 0.99


@ALL
@pytest.mark.parametrize("shape", [(1, 9), (2, 8, 7), (1, 5, 6, 7)])
@pytest.mark.parametrize("parameters", [(), ("nu", "speed")])
def test_one_to_three_axes_with_and_without_parameters(name: str, shape: tuple[int, ...], parameters: tuple[str, ...]) -> None:
    corrector = randomised(CORRECTORS[name](spec(*shape, parameters=parameters)))
    params = torch.rand(2, 2) if parameters else None
    with torch.no_grad():
        correction = corrector(torch.randn(2, *shape), params)
        assert correction.shape == (2, *shape) and correction.any()
        if params is not None:
            assert not torch.equal(corrector(torch.ones(2, *shape), params), corrector(torch.ones(2, *shape), 2 * params))


def test_four_axes_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 to 3 spatial axes, not 4 as in 'any'"):
        small(spec(1, 2, 2, 2, 2))


def test_a_circular_corrector_commutes_with_shifts() -> None:
    corrector = randomised(small(spec(1, 12), padding="circular"))
    states = torch.randn(2, 1, 12)
    with torch.no_grad():
        torch.testing.assert_close(corrector(states.roll(3, -1)), corrector(states).roll(3, -1))


def test_scales_make_the_network_see_unit_states() -> None:
    seen = []

    class Watching(nn.Conv1d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return super().forward(x)

    corrector = Corrector(spec(2, 6, parameters=("nu",)), Watching(3, 2, 1))
    corrector.set_scales(torch.tensor([2.0, 10.0]), torch.tensor([100.0]))
    states, params = torch.randn(4, 2, 6), torch.rand(4, 1)
    correction = corrector(states, params)
    torch.testing.assert_close(seen[0][:, :2], states / torch.tensor([2.0, 10.0])[:, None])
    torch.testing.assert_close(seen[0][:, 2:], (params / 100)[:, :, None].expand(-1, -1, 6))
    torch.testing.assert_close(correction, nn.Conv1d.forward(corrector.network, seen[0]) * torch.tensor([2.0, 10.0])[:, None])


def test_scales_are_kept_with_the_network_but_the_mask_is_not() -> None:
    corrector = mars_moon(WAKE)
    corrector.set_scales(torch.tensor([0.5, 2.0]), torch.tensor([1000.0]))
    state = corrector.state_dict()
    assert {"state_scale", "param_scale"} <= set(state) and "active" not in state
    other = mars_moon(WAKE)
    other.load_state_dict(state)
    assert torch.equal(other.state_scale, corrector.state_scale) and torch.equal(other.param_scale, corrector.param_scale)


@pytest.mark.parametrize("scales", [([0.0, 1.0], [1.0]), ([1.0, 1.0], [-1.0]), ([float("nan"), 1.0], [1.0])])
def test_scales_must_be_positive(scales: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        small(WAKE).set_scales(*map(torch.tensor, scales))


def test_scales_must_be_as_many_as_channels() -> None:
    with pytest.raises(ConfigError, match="the corrector needs 2 scales of the states, got 3"):
        small(WAKE).set_scales(torch.ones(3), torch.ones(1))


def test_parameters_must_be_as_many_as_the_spec_names() -> None:
    states = torch.randn(2, *WAKE.state_shape)
    for params, came in ((None, 0), (torch.ones(2, 3), 3)):
        with pytest.raises(ConfigError, match=f"was built for 1 parameters, got {came}"):
            small(WAKE)(states, params)
