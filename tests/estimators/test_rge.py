"""RGE: exact along the directions it draws, unbiased over many, confined to its mask."""

from __future__ import annotations

import pytest
import torch
from problems import (
    NETWORKS,
    assert_untouched,
    autograd,
    burgers_oracle,
    model_oracle,
    network,
    relative_error,
    snapshot,
)

from deepzero_sim.common.types import Mask, NamedTensors, Scheme
from deepzero_sim.estimators import RGE
from deepzero_sim.oracle.parameters import trainable, unit_direction

SCHEMES: dict[Scheme, tuple[float, float]] = {"forward": (1e-6, 1e-4), "central": (1e-4, 1e-6)}


def projected(gradient: NamedTensors, parameters: NamedTensors, seed: int, count: int, mask: Mask | None) -> NamedTensors:
    """`d/q sum_i <g, u_i> u_i`: what RGE tends to for small steps, along the directions that it draws."""
    seeds = torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    dimension = sum(p.numel() if mask is None else int(mask[n].sum()) if n in mask else 0 for n, p in parameters.items())
    result = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for direction_seed in seeds:
        direction = unit_direction(parameters, direction_seed, mask)
        slope = sum(float((gradient[name] * u).sum()) for name, u in direction.items())
        for name, u in direction.items():
            result[name] += slope * dimension / count * u
    return result


@pytest.mark.parametrize("scheme", ["forward", "central"])
@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_autograd_along_its_directions(name: str, scheme: Scheme) -> None:
    model, inputs = network(name)
    oracle, batch = model_oracle(model, inputs)
    before = snapshot(model)
    step_size, tolerance = SCHEMES[scheme]
    estimate = RGE(step_size, 5, scheme).estimate(oracle, batch, seed=7)
    assert_untouched(model, before)
    assert relative_error(estimate.grads, projected(autograd(oracle, batch), trainable(model), 7, 5, None)) < tolerance
    assert estimate.queries == 1 + 5 * (2 if scheme == "central" else 1)


def test_is_unbiased() -> None:
    model, inputs = network("linear")
    oracle, batch = model_oracle(model, inputs)
    dimension = sum(p.numel() for p in model.parameters())
    error = relative_error(RGE(1e-4, 3000).estimate(oracle, batch).grads, autograd(oracle, batch))
    assert error < 1.5 * (dimension / 3000) ** 0.5


def test_a_mask_confines_the_directions() -> None:
    model, inputs = network("linear")
    oracle, batch = model_oracle(model, inputs)
    mask = {"0.weight": torch.rand(4, 5) < 0.3, "2.bias": torch.ones(2, dtype=torch.bool)}
    estimate = RGE(1e-4, 4).estimate(oracle, batch, mask=mask, seed=1)
    assert set(estimate.grads) == set(trainable(model))
    assert not estimate.grads["0.weight"][~mask["0.weight"]].any()
    assert not estimate.grads["0.bias"].any() and not estimate.grads["2.weight"].any()
    expected = projected(autograd(oracle, batch), trainable(model), 1, 4, mask)
    assert relative_error(estimate.grads, expected) < 1e-6


def test_a_seed_is_all_that_chance_depends_on() -> None:
    oracle, batch = burgers_oracle()
    first, again, other = (RGE(num_directions=4).estimate(oracle, batch, seed=seed) for seed in (5, 5, 6))
    assert all(torch.equal(first.grads[name], again.grads[name]) for name in first.grads)
    assert relative_error(first.grads, other.grads) > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_directions_have_unit_norm(dtype: torch.dtype) -> None:
    parameters = {"a": torch.zeros(3, 4, dtype=dtype), "b": torch.zeros((), dtype=dtype)}
    direction = unit_direction(parameters, 11, None)
    assert sum(float(u.double().square().sum()) for u in direction.values()) == pytest.approx(1, rel=1e-6)
    assert all(u.dtype == dtype for u in direction.values())
    masked = unit_direction(parameters, 11, {"b": torch.tensor(True)})
    assert set(masked) == {"b"} and abs(float(masked["b"])) == pytest.approx(1)
