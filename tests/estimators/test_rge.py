"""RGE: exact along the directions it draws, unbiased over many, confined to its mask."""

from __future__ import annotations

import re

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
from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators import RGE
from deepzero_sim.estimators.random_directions import RandomDirections, draw_directions
from deepzero_sim.oracle.model import ModelOracle
from deepzero_sim.oracle.parameters import trainable, unit_direction
from deepzero_sim.oracle.queries import Coordinates, RowDirections, _cut

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


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scheme", ["forward", "central"])
@pytest.mark.parametrize("name", NETWORKS)
def test_along_rows_it_agrees_with_autograd_too(name: str, scheme: Scheme, masked: bool) -> None:
    model, inputs = network(name)
    oracle, batch = model_oracle(model, inputs)
    parameters, before = trainable(model), snapshot(model)
    generator = torch.Generator().manual_seed(1)
    mask = {key: torch.rand(p.shape, generator=generator) < 0.7 for key, p in parameters.items()} if masked else None
    if mask is not None and not any(bool(active.any()) for active in mask.values()):
        pytest.skip("nothing is active")
    step_size, tolerance = SCHEMES[scheme]
    estimate = RGE(step_size, 9, scheme, directions="rows").estimate(oracle, batch, mask, seed=7)
    assert_untouched(model, before)
    drawn = draw_directions("rows", 9, parameters, mask, 7)
    gradient = autograd(oracle, batch)
    slopes = [sum(float((gradient[key] * u[key]).sum()) for key in u) for u in each_of(drawn, parameters)]
    weights = torch.tensor(slopes, dtype=torch.float64) * drawn.dimension / 9
    assert relative_error(estimate.grads, drawn.combine(weights, parameters)) < tolerance
    assert mask is None or all(not bool(estimate.grads[key][~active].any()) for key, active in mask.items())
    assert estimate.queries == 1 + 9 * (2 if scheme == "central" else 1)


def each_of(drawn: RandomDirections, parameters: NamedTensors) -> list[NamedTensors]:
    """The directions one by one."""
    count = sum(len(part) for part in drawn.parts)
    return [drawn.combine(one, parameters) for one in torch.eye(count, dtype=torch.float64)]


@pytest.mark.parametrize("name", ["conv2d", "grouped", "transposed", "flattened", "scalar"])
def test_directions_of_rows_are_isotropic_unit_vectors(name: str) -> None:
    model, _ = network(name)
    parameters = trainable(model)
    count = sum(p.numel() for p in parameters.values())
    drawn = draw_directions("rows", 6000, parameters, None, 3)
    assert drawn.dimension == count and sum(map(len, drawn.parts)) == 6000
    u = torch.stack([torch.cat([one[key].flatten() for key in parameters]) for one in each_of_parts(drawn, parameters)])
    torch.testing.assert_close(u.norm(dim=1), torch.ones(6000, dtype=u.dtype))
    assert float((count * u.T @ u / 6000 - torch.eye(count)).abs().max()) < 0.35


def each_of_parts(drawn: RandomDirections, parameters: NamedTensors) -> list[NamedTensors]:
    """The directions one by one, without the quadratic cost of combining all for each."""
    found = []
    for part in drawn.parts:
        for place in range(len(part)):
            one = _cut(part, place, place + 1)
            found.append(RandomDirections((one,), drawn.dimension).combine(torch.ones(1), parameters))  # type: ignore[arg-type]
    return found


def test_along_rows_it_is_unbiased() -> None:
    model, inputs = network("conv2d")
    oracle, batch = model_oracle(model, inputs)
    dimension = sum(p.numel() for p in model.parameters())
    exact = autograd(oracle, batch)
    error = relative_error(RGE(1e-4, 4000, directions="rows").estimate(oracle, batch).grads, exact)
    assert error < 1.5 * (dimension / 4000) ** 0.5


def test_rows_get_directions_in_proportion_to_their_active_coordinates() -> None:
    parameters = {"w": torch.zeros(3, 10), "b": torch.zeros(4)}
    mask = {"w": torch.zeros(3, 10, dtype=torch.bool), "b": torch.ones(4, dtype=torch.bool)}
    mask["w"][0], mask["w"][2, :6] = True, True
    for seed in range(5):
        weight, bias = draw_directions("rows", 10, parameters, mask, seed).parts
        assert isinstance(weight, RowDirections) and isinstance(bias, Coordinates)
        assert [weight.rows.count(row) for row in range(3)] == [5, 0, 3] and bias.indices in ((0, 2), (1, 3))


def test_normalised_gradients_have_about_unit_length_whatever_the_losses_units() -> None:
    model, inputs = network("linear")
    oracle, batch = model_oracle(model, inputs)
    found = []
    for units in (1.0, 1e3):
        scaled = ModelOracle(model, lambda z, t, units=units: units * oracle.loss_function(z, t))
        for kind in ("network", "rows"):
            found.append(RGE(1e-6, 2000, directions=kind, normalise=True).estimate(scaled, batch).grads)
            length = float(torch.cat([g.flatten() for g in found[-1].values()]).norm())
            assert 0.8 < length < 1.25
    assert relative_error(found[0], found[2]) < 1e-4 and relative_error(found[1], found[3]) < 1e-4


def test_what_cannot_be_used_is_said_in_a_sentence() -> None:
    for arguments, words in (
        ({"directions": "columns"}, "directions must be one of network, rows, not 'columns'"),
        ({"normalise": 1}, "normalise must be True or False"),
        ({"normalise": True, "num_directions": 1}, "normalise needs two directions or more to have a spread, not 1"),
        ({"num_directions": 0}, "num_directions must be a positive whole number, not 0"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            RGE(**arguments)  # type: ignore[arg-type]
