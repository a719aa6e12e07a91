"""Random masks: the share of every layer, and what a draw depends on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deepzero_sim.common.types import Mask
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators.base import require_mask
from deepzero_sim.estimators.sparsity import RandomMask
from deepzero_sim.oracle.parameters import trainable


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 10, 5), nn.BatchNorm2d(10), nn.Conv2d(10, 7, 1), nn.Linear(3, 1))


def drawn(mask: RandomMask, network: nn.Module, step: int) -> Mask:
    result = mask(network, step)
    assert result is not None
    return result


def same(one: Mask, other: Mask) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("sparsity", "active"), [(0.5, [250, 35, 2]), (0.7, [150, 21, 1]), (0.9, [50, 7, 1]), (0.99, [5, 1, 1])]
)
def test_every_layer_has_its_share_and_biases_are_always_active(sparsity: float, active: list[int]) -> None:
    network = model()
    masks = drawn(RandomMask(sparsity), network, 0)
    require_mask(trainable(network), masks)
    assert [int(masks[name].sum()) for name in ("0.weight", "2.weight", "3.weight")] == active
    assert all(masks[name].all() for name, p in network.named_parameters() if p.dim() < 2)
    assert set(masks) == set(trainable(network))


@given(sparsity=st.floats(0, 0.999), size=st.integers(1, 300))
def test_the_share_is_as_near_as_whole_numbers_go(sparsity: float, size: int) -> None:
    masks = RandomMask(sparsity)(nn.Linear(size, 1), 0)
    count = size if masks is None else int(masks["weight"].sum())
    assert count >= 1
    assert abs(count - (1 - sparsity) * size) <= max(0.5, 1 - (1 - sparsity) * size) + 1e-9


def test_no_sparsity_is_no_mask() -> None:
    assert RandomMask(0.0)(model(), 3) is None


def test_a_draw_depends_on_seed_and_step_only() -> None:
    network = model()
    reference = drawn(RandomMask(0.5, seed=4), network, 7)
    torch.manual_seed(99)
    assert same(reference, drawn(RandomMask(0.5, seed=4), network, 7))
    assert not same(reference, drawn(RandomMask(0.5, seed=5), network, 7))
    assert not same(reference, drawn(RandomMask(0.5, seed=4), network, 8))


def test_a_draw_leaves_torch_s_own_numbers_alone() -> None:
    network, state = model(), torch.get_rng_state()
    drawn(RandomMask(0.5), network, 0)
    assert torch.equal(state, torch.get_rng_state())


def test_refresh_is_how_long_a_mask_serves() -> None:
    network, schedule = model(), RandomMask(0.8, refresh=5)
    masks = [drawn(schedule, network, step) for step in range(11)]
    for step in range(1, 11):
        assert same(masks[step], masks[step - 1]) == (step % 5 != 0)


def test_every_coordinate_gets_its_turn() -> None:
    network, schedule = nn.Linear(20, 2), RandomMask(0.8)
    seen = torch.stack([drawn(schedule, network, step)["weight"] for step in range(60)]).float().mean(0)
    assert seen.min() > 0 and seen.max() < 0.5


def test_frozen_parameters_have_no_mask() -> None:
    network = model()
    network.get_parameter("2.weight").requires_grad_(False)
    assert "2.weight" not in drawn(RandomMask(0.5), network, 0)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_a_bad_sparsity_is_refused(sparsity: float) -> None:
    with pytest.raises(ConfigError, match=r"sparsity must be in \[0, 1\)"):
        RandomMask(sparsity)


@pytest.mark.parametrize("step", [-1, 0.5, "a", None])
def test_a_step_is_a_whole_number(step: Any) -> None:
    with pytest.raises(ConfigError, match="a mask is drawn for a training step, a whole number from 0, not"):
        RandomMask(0.5)(nn.Linear(3, 2), step)


@pytest.mark.parametrize("densities", ["a", 0.5, {"weight": "a"}, {"weight": None}, {"weight": float("nan")}])
def test_densities_are_numbers_by_name(densities: Any) -> None:
    with pytest.raises(ConfigError, match=r"densit(y|ies) .*, not"):
        RandomMask(densities=densities)


def test_a_bad_refresh_is_refused() -> None:
    for refresh in (0, 1.5, "a", None):
        with pytest.raises(ConfigError, match=f"must serve at least one step before it is drawn anew, not {refresh!r}"):
            RandomMask(0.5, refresh=refresh)  # type: ignore[arg-type]


def before_densities(network: nn.Module, sparsity: float, seed: int, step: int) -> dict[str, torch.Tensor]:
    """What version 0.1.0 drew, for runs that it began."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    masks = {}
    for name, parameter in trainable(network).items():
        size = parameter.numel()
        active = torch.full((size,), parameter.dim() < 2)
        if parameter.dim() > 1:
            active[torch.randperm(size, generator=generator)[: max(1, round((1 - sparsity) * size))]] = True
        masks[name] = active.view(parameter.shape)
    return masks


@given(sparsity=st.floats(0.001, 0.999), seed=st.integers(0, 2**32 - 1), step=st.integers(0, 10**6))
@settings(max_examples=30)
def test_a_sparsity_draws_what_it_always_has(sparsity: float, seed: int, step: int) -> None:
    network = model()
    expected = before_densities(network, sparsity, seed, step)
    assert same(drawn(RandomMask(sparsity, seed=seed), network, step), expected)
    uniform = dict.fromkeys(("0.weight", "2.weight", "3.weight"), 1 - sparsity)
    assert same(drawn(RandomMask(seed=seed, densities=uniform), network, step), expected)


@given(shares=st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_every_layer_has_its_density(shares: list[float]) -> None:
    network = model()
    densities = dict(zip(("0.weight", "2.weight", "3.weight"), shares, strict=True))
    masks = RandomMask(densities=densities)(network, 0)
    if masks is None:
        assert all(share == 1 for share in shares)
        return
    require_mask(trainable(network), masks)
    for name, share in densities.items():
        size = network.get_parameter(name).numel()
        assert int(masks[name].sum()) == max(1, round(share * size))


def test_what_has_no_density_is_always_active() -> None:
    network = model()
    masks = drawn(RandomMask(densities={"2.weight": 0.5}), network, 0)
    assert set(masks) == set(trainable(network)) and int(masks["2.weight"].sum()) == 35
    assert all(active.all() for name, active in masks.items() if name != "2.weight")


def test_densities_of_one_are_no_mask() -> None:
    assert RandomMask(densities={"0.weight": 1.0, "2.weight": 1})(model(), 3) is None
    assert RandomMask(densities={})(model(), 3) is None


def test_densities_are_refreshed_like_a_sparsity() -> None:
    network, schedule = model(), RandomMask(refresh=3, densities={"0.weight": 0.1})
    masks = [drawn(schedule, network, step) for step in range(7)]
    for step in range(1, 7):
        assert same(masks[step], masks[step - 1]) == (step % 3 != 0)


@pytest.mark.parametrize("density", [-0.1, 1.1, float("nan")])
def test_a_bad_density_is_refused(density: float) -> None:
    with pytest.raises(ConfigError, match=r"the density of '0.weight' must be in \[0, 1\], the share that is active"):
        RandomMask(densities={"0.weight": density})


def test_a_sparsity_and_densities_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match="takes a sparsity or densities, not both"):
        RandomMask(0.5, densities={"0.weight": 0.5})


def test_densities_of_another_network_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the mask's densities name '9\.weight', which the network does not train"):
        RandomMask(densities={"0.weight": 0.5, "9.weight": 0.5})(model(), 0)


def test_a_network_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no parameters to train"):
        RandomMask(0.5)(nn.Tanh(), 0)
