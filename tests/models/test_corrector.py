"""Correctors: their sizes, their scales, their padding, and that they start without effect."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deepzero_sim.datasets import Trajectories
from deepzero_sim.errors import ConfigError, ScaleWarning
from deepzero_sim.models import CORRECTORS, Corrector, mars_moon, small
from deepzero_sim.models.padding import Padding, convolution
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


def kelvin(mean: float = 300.0) -> Trajectories:
    """Trajectories of two channels, of which the first lies far from zero, with one parameter that does, too."""
    random = np.random.default_rng(0)
    frames = random.normal(size=(4, 5, 2, 8)) * [[5.0], [0.1]] + [[mean], [0.1]]
    return Trajectories(frames.astype(np.float32), np.array([[290.0], [291.0], [292.0], [293.0]], dtype=np.float32))


def test_trajectories_scale_a_corrector_in_every_way_of_writing_it() -> None:
    data, grid = kelvin(), spec(2, 8, parameters=("ambient",))
    scaled = small(grid, data=data)
    others = [small(grid) for _ in range(3)]
    others[0].set_scales(data)
    others[1].set_scales(
        *data.scales(), *(np.where(abs(m) > 4 * s, m, 0) for m, s in zip(data.means(), data.scales(), strict=True))
    )
    others[2].set_scales(*(torch.from_numpy(scale) for scale in data.scales()), [300.0, 0.0], [291.5])
    for other in others:
        torch.testing.assert_close(other.state_scale, scaled.state_scale)
        torch.testing.assert_close(other.state_mean, scaled.state_mean, atol=1.0, rtol=0)
    assert scaled.state_mean is not None and scaled.state_mean[1] == 0  # near zero, where zero may be a value of its own
    torch.testing.assert_close(scaled.param_mean, torch.tensor([[291.5]]))
    assert small(grid, data=kelvin(0.0)).state_mean is None


def test_a_field_far_from_zero_is_corrected_as_the_same_field_told_from_there() -> None:
    grid = spec(2, 8, parameters=("ambient",))
    torch.manual_seed(0)
    corrector = randomised(small(grid, data=kelvin()))
    mean = corrector.state_mean
    states, params = torch.randn(3, 2, 8), torch.full((3, 1), 291.5)
    assert mean is not None
    expected = (
        corrector.network(torch.cat([states / corrector.state_scale, torch.zeros(3, 1, 8)], dim=1)) * corrector.state_scale
    )
    torch.testing.assert_close(corrector(states + mean, params), expected, atol=1e-3, rtol=1e-3)


def test_weights_with_and_without_means_are_loaded_into_any_corrector() -> None:
    grid = spec(2, 8, parameters=("ambient",))
    centred, plain = randomised(small(grid, data=kelvin())), randomised(small(grid))
    assert "state_mean" not in plain.state_dict()  # as it always was
    states, params = torch.randn(1, 2, 8), torch.randn(1, 1)
    for given, other in ((centred, small(grid)), (plain, small(grid, data=kelvin()))):
        other.load_state_dict(given.state_dict())
        assert torch.equal(other(states, params), given(states, params))


def test_a_network_without_scales_says_once_that_its_inputs_are_far_from_unit_size() -> None:
    grid = spec(1, 8, channels=("T",), parameters=("Re",))
    corrector, states, params = small(grid), torch.linspace(20, 400, 8).view(1, 1, 8), torch.full((1, 1), 200.0)
    with torch.no_grad():
        corrector(states, params)  # an evaluation trains nothing
    with pytest.warns(
        ScaleWarning, match=r"T with mean 210 and standard deviation 124; Re with mean 200 .*data=trajectories"
    ) as said:
        corrector(states, params)
    assert said[0].filename == __file__
    corrector(states, params)


@pytest.mark.parametrize("states", [torch.linspace(-1, 1, 8), torch.zeros(8), torch.full((8,), 3.0)])
def test_inputs_of_unit_size_are_no_reason_to_warn(states: torch.Tensor) -> None:
    small(spec(1, 8))(states.view(1, 1, 8))


def test_a_scaled_or_a_loaded_network_does_not_warn() -> None:
    grid, states = spec(1, 8), 300 + 10 * torch.rand(1, 1, 8)
    data = Trajectories(states[None].numpy())
    scaled = small(grid, data=data)
    scaled(states)
    loaded = small(grid)
    loaded.load_state_dict(scaled.state_dict())
    loaded(states)


def test_transformed_calls_of_a_network_without_scales_work() -> None:
    corrector, states = small(spec(1, 8)), 300 * torch.rand(3, 1, 1, 8)
    assert torch.func.vmap(corrector)(states).shape == states.shape


def test_scales_that_are_none_are_refused() -> None:
    corrector = small(spec(1, 8, parameters=("nu",)))
    with pytest.raises(ConfigError, match="the scales of the states must be an array of numbers, or trajectories, not str"):
        corrector.set_scales("train.h5")
    with pytest.raises(ConfigError, match="needs 1 scales of the parameters, got 0"):
        corrector.set_scales([1.0])
    with pytest.raises(ConfigError, match="needs 1 means of the states, got 2"):
        corrector.set_scales([1.0], [1.0], [0.0, 0.0])
    with pytest.raises(ConfigError, match="takes trajectories alone"):
        corrector.set_scales(Trajectories(np.ones((1, 2, 1, 8)), np.ones((1, 1))), [1.0])


@ALL
def test_each_axis_has_a_padding_of_its_own(name: str) -> None:
    grid = spec(1, 14, 12)
    corrector = randomised(CORRECTORS[name](grid, padding=["replicate", "circular"]))
    states = torch.randn(2, 1, 14, 12)
    with torch.no_grad():
        given = corrector(states)
        torch.testing.assert_close(corrector(states.roll(3, -1)), given.roll(3, -1))  # periodic along the last axis
        assert not torch.allclose(corrector(states.roll(3, -2)), given.roll(3, -2))  # walls along the other
        level = torch.randn(2, 1, 1, 12).expand(-1, -1, 14, -1)
        torch.testing.assert_close(corrector(level), corrector(level)[:, :, :1].expand(-1, -1, 14, -1))  # which it goes on over


@pytest.mark.parametrize("padding", ["zeros", "circular", "replicate"])
@pytest.mark.parametrize("shape", [(1, 9), (2, 8, 7), (1, 5, 6, 7)])
def test_a_list_of_one_padding_is_that_padding(padding: Padding, shape: tuple[int, ...]) -> None:
    whole = randomised(small(spec(*shape), padding=padding))
    listed = small(spec(*shape), padding=[padding] * (len(shape) - 1))  # type: ignore[list-item]
    listed.load_state_dict(whole.state_dict())
    states = torch.randn(2, *shape)
    assert torch.equal(listed(states), whole(states))


@pytest.mark.parametrize("modes", list(itertools.permutations(["zeros", "circular", "replicate"])))
def test_axes_are_padded_one_after_the_other(modes: tuple[str, str, str]) -> None:
    states = torch.randn(2, 1, 5, 6, 7)
    layer = convolution(spec(1, 5, 6, 7), 1, 1, 3, modes)  # type: ignore[arg-type]
    padded = states.numpy()
    for axis, mode in enumerate(modes):
        width = [(0, 0)] * (2 + axis) + [(1, 1)] + [(0, 0)] * (2 - axis)
        padded = np.pad(padded, width, {"zeros": "constant", "circular": "wrap", "replicate": "edge"}[mode])  # type: ignore[call-overload]
    weight, bias = layer.state_dict().values()
    torch.testing.assert_close(layer(states), nn.functional.conv3d(torch.from_numpy(padded), weight, bias))


@pytest.mark.parametrize(
    "padding", ["round", 3, None, [], ["circular"], ["circular"] * 3, ["circular", 1], [["circular"], "zeros"]]
)
def test_a_padding_that_is_none_is_refused_in_one_sentence(padding: Any) -> None:
    grid = spec(1, 8, 8, axes=("y", "x"))
    with pytest.raises(
        ConfigError, match=r"padding must be zeros, .* or a list with one of these for each axis \(y, x\), "
    ) as found:
        small(grid, padding=padding)
    assert "\n" not in str(found.value)
