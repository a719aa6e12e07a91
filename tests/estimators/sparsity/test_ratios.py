"""What all layer ratios hold to: what is scored, the budget, the network as it was, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Scalar, assert_untouched, fallback_allowed, model_oracle, mse, snapshot
from quadratic import Quadratic, convolutional, oracle_of
from torch import nn

from deepzero_sim.errors import ConfigError, DivergedError
from deepzero_sim.estimators.sparsity import ErdosRenyi, GraSP, LayerRatios, RandomMask, Uniform, ZOGraSP
from deepzero_sim.estimators.sparsity.base import active_count, layer_weights
from deepzero_sim.oracle.model import ModelOracle

RATIOS: dict[str, Callable[[], LayerRatios]] = {
    "uniform": Uniform,
    "erdos-renyi": ErdosRenyi,
    "zo-grasp": lambda: ZOGraSP(num_directions=3),
    "zo-grasp, coordinates": lambda: ZOGraSP(gradient="cge"),
    "zo-grasp, magnitude": lambda: ZOGraSP(num_directions=3, rule="magnitude"),
    "grasp": GraSP,
    "grasp, magnitude": lambda: GraSP(rule="magnitude"),
}

layers = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5)
sparsities = st.floats(0, 0.999)


def chain(shapes: list[tuple[int, int]]) -> nn.Module:
    """Linear layers of any shapes, each fed from what the last one gave."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(i, o).double() for i, o in shapes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = torch.tanh(layer(x.mean(1, keepdim=True).expand(-1, layer.in_features)))
            return x

    return Chain()


@pytest.mark.parametrize("make", RATIOS.values(), ids=RATIOS)
@given(shapes=layers, sparsity=sparsities)
@settings(max_examples=30)
def test_the_shares_spend_the_budget(make: Callable[[], LayerRatios], shapes: list[tuple[int, int]], sparsity: float) -> None:
    torch.manual_seed(0)
    oracle, batch = model_oracle(chain(shapes), torch.randn(2, 3, dtype=torch.float64))
    shares = make().densities(oracle, batch, sparsity).by_layer
    sizes = {name: w.numel() for name, w in layer_weights(oracle.model).items()}
    assert shares.keys() == sizes.keys() and all(0 <= share <= 1 for share in shares.values())
    total = sum(sizes.values())
    spent = sum(shares[name] * size for name, size in sizes.items())
    counted = isinstance(make(), GraSP | ZOGraSP)
    assert spent == pytest.approx(max(1, round((1 - sparsity) * total)) if counted else (1 - sparsity) * total, rel=1e-9)
    mask = RandomMask(densities=shares)(oracle.model, 0)
    active = total if mask is None else sum(int(mask[name].sum()) for name in sizes)
    assert abs(active - (1 - sparsity) * total) <= len(sizes)


@given(density=st.floats(0, 1), size=st.integers(1, 10**6))
def test_a_count_is_as_near_as_whole_numbers_go(density: float, size: int) -> None:
    count = active_count(density, size)
    assert 1 <= count <= size
    assert abs(count - density * size) <= 0.5 + 1e-9 or count == 1


@given(size=st.integers(1, 10**6), data=st.data())
def test_a_share_of_whole_coordinates_is_that_many(size: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, size))
    assert active_count(count / size, size) == count


def test_convolutions_and_linear_layers_are_scored_and_nothing_else() -> None:
    network = nn.ModuleDict(
        {
            "conv": nn.Conv3d(1, 2, 2),
            "transposed": nn.ConvTranspose2d(2, 3, 2),
            "linear": nn.Linear(4, 5),
            "batch": nn.BatchNorm1d(5),
            "layer": nn.LayerNorm((3, 4)),  # its weight has two axes
            "embedding": nn.Embedding(6, 2),
            "frozen": nn.Linear(2, 2).requires_grad_(False),
            "scalar": Scalar(),
        }
    )
    assert list(layer_weights(network)) == ["conv.weight", "transposed.weight", "linear.weight", "scalar.linear.weight"]
    assert list(Uniform().densities(oracle_of(network), None, 0.5).by_layer) == list(layer_weights(network))


def test_uniform_is_the_same_share_of_every_layer_and_asks_nothing() -> None:
    found = Uniform().densities(oracle_of(convolutional()), None, 0.9)
    assert found.by_layer == dict.fromkeys(("0.weight", "2.weight", "3.weight"), 1 - 0.9)
    assert found.queries == found.solver_steps == 0


@pytest.mark.parametrize("make", RATIOS.values(), ids=RATIOS)
@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(make: Callable[[], LayerRatios], training: bool) -> None:
    network = nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Conv1d(3, 1, 3)).double().train(training)
    oracle, batch = model_oracle(network, torch.randn(4, 2, 8, dtype=torch.float64))
    before, grads, drawn = snapshot(network), [p.grad for p in network.parameters()], torch.get_rng_state()
    with fallback_allowed():
        first = make().densities(oracle, batch, 0.5)
        again = make().densities(oracle, batch, 0.5)
    assert first == again
    assert_untouched(network, before)
    assert [p.grad for p in network.parameters()] == grads and network.training == training
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("make", RATIOS.values(), ids=RATIOS)
@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 2.0, math.nan, math.inf])
def test_a_bad_sparsity_is_refused(make: Callable[[], LayerRatios], sparsity: float) -> None:
    quadratic = Quadratic()
    with pytest.raises(ConfigError, match=r"sparsity must be in \[0, 1\), the share of weights that is not active, not"):
        make().densities(quadratic.oracle, quadratic.batch, sparsity)


@pytest.mark.parametrize("make", RATIOS.values(), ids=RATIOS)
def test_a_network_with_nothing_to_train_is_refused(make: Callable[[], LayerRatios]) -> None:
    inputs = torch.randn(2, 3)
    for network in (nn.Tanh(), nn.Linear(3, 3).requires_grad_(False)):
        with pytest.raises(ConfigError, match=r"the network \w+ has no parameters to train: give it some with requires_grad"):
            make().densities(oracle_of(network), (inputs, inputs), 0.5)


@pytest.mark.parametrize("make", RATIOS.values(), ids=RATIOS)
def test_a_network_with_nothing_scored_is_refused(make: Callable[[], LayerRatios]) -> None:
    inputs = torch.randn(2, 3)
    with pytest.raises(ConfigError, match="the network LayerNorm trains no weights of convolutions or linear layers"):
        make().densities(oracle_of(nn.LayerNorm(3)), (inputs, inputs), 0.5)


@pytest.mark.parametrize("make", [ZOGraSP, GraSP])
def test_a_loss_that_is_not_finite_is_said(make: Callable[[], LayerRatios]) -> None:
    quadratic = Quadratic()
    with torch.no_grad():
        quadratic.model.a.weight[0, 1] = torch.nan
    with pytest.raises(DivergedError, match="the loss must be finite, got nan"):
        make().densities(quadratic.oracle, quadratic.batch, 0.5)


def test_scores_that_are_not_finite_are_said() -> None:
    def steep(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return mse(outputs, targets) + torch.sqrt((outputs - outputs.detach()).square().sum())  # 0, with no slope there

    quadratic = Quadratic()
    with pytest.raises(DivergedError, match=r"the score of 'a\.weight' is not finite, so layers cannot be ranked"):
        GraSP().densities(ModelOracle(quadratic.model, steep), quadratic.batch, 0.5)
