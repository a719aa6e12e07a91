"""From scores to ratios: which weights survive, how many, and what the score means."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import mse
from quadratic import Branches, Quadratic
from torch import nn

from deepzero_sim.errors import ConfigError
from deepzero_sim.estimators.sparsity import GraSP, ZOGraSP
from deepzero_sim.estimators.sparsity.scores import lowest_shares
from deepzero_sim.oracle.model import ModelOracle

scores = st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=12), min_size=1, max_size=5)


@given(layers=scores, sparsity=st.floats(0, 0.999))
def test_the_lowest_scores_survive(layers: list[list[int]], sparsity: float) -> None:
    named = {str(i): torch.tensor(layer, dtype=torch.float64) for i, layer in enumerate(layers)}
    shares = lowest_shares(named, sparsity)
    everything = sorted(score for layer in layers for score in layer)
    kept = max(1, round((1 - sparsity) * len(everything)))
    threshold = everything[kept - 1]
    assert sum(shares[name] * len(s) for name, s in named.items()) == pytest.approx(kept)
    tied = [(shares[name] * len(s) - int((s < threshold).sum()), int((s == threshold).sum())) for name, s in named.items()]
    rates = [above / equal for above, equal in tied if equal]
    assert all(rate == pytest.approx(rates[0]) for rate in rates)  # equal scores are treated alike
    assert all(above == pytest.approx(0) for above, equal in tied if not equal)


def test_scores_that_are_all_equal_give_uniform_ratios() -> None:
    named = {"a": torch.zeros(30), "b": torch.zeros(10)}
    assert lowest_shares(named, 0.75) == pytest.approx({"a": 0.25, "b": 0.25})


def diagonal(curvatures: list[float], weights: list[float]) -> tuple[ModelOracle, tuple[torch.Tensor, ...]]:
    """`l = sum_j h_j theta_j^2 / n`, on two branches of three and five weights."""
    model = Branches().double()
    with torch.no_grad():
        model.a.weight.copy_(torch.tensor([weights[:3]]))
        model.b.weight.copy_(torch.tensor([weights[3:]]))
    inputs = torch.diag(torch.tensor(curvatures, dtype=torch.float64).sqrt())
    return ModelOracle(model, mse), (inputs, torch.zeros(8, 1, dtype=torch.float64))


@pytest.mark.parametrize("ratios", [GraSP(), ZOGraSP(1e-4, gradient="cge", scheme="central"), ZOGraSP(1e-3, 1000)])
@pytest.mark.parametrize("rule", ["signed", "magnitude"])
def test_the_weights_that_carry_the_gradient_survive(ratios: GraSP | ZOGraSP, rule: str) -> None:
    """Of a separable loss, weight j carries `(2 h_j theta_j / n)^2` of the squared gradient, which goes with it."""
    ratios.rule = rule  # type: ignore[assignment]
    oracle, batch = diagonal([1, 1, 1, 1, 1, 1, 1, 1], [0.1, -5, 0.2, 4, 0.1, 3, -0.2, 0.1])
    assert ratios.densities(oracle, batch, 5 / 8).by_layer == {"a.weight": 1 / 3, "b.weight": 2 / 5}
    oracle, batch = diagonal([9, 9, 9, 1, 1, 1, 1, 1], [1, -1, 1, 2, 2, -2, 2, 2])
    assert ratios.densities(oracle, batch, 5 / 8).by_layer == {"a.weight": 1.0, "b.weight": 0.0}


def test_the_rules_differ_where_a_weight_stands_against_the_gradient() -> None:
    """`S > 0` where the gradient would grow without the weight: GraSP removes it first, DeepZero's code keeps it."""
    quadratic = Quadratic()
    with torch.no_grad():  # half way to the minimum most weights have still to grow
        halfway = torch.linalg.lstsq(quadratic.inputs, quadratic.targets).solution[:, 0] / 2
        quadratic.model.a.weight.copy_(halfway[None, :3])
        quadratic.model.b.weight.copy_(halfway[None, 3:])
    s = -quadratic.theta * quadratic.product
    assert s.abs().argmax() == s.argmax() and s.max() > 0
    for grasp, place in ((GraSP(), s.argmin()), (GraSP("magnitude"), s.argmax())):
        shares = grasp.densities(quadratic.oracle, quadratic.batch, 7 / 8).by_layer
        assert shares == ({"a.weight": 1 / 3, "b.weight": 0.0} if place < 3 else {"a.weight": 0.0, "b.weight": 1 / 5})


def test_the_score_is_half_the_slope_of_the_squared_gradient() -> None:
    """What GraSP derives it from: scaling a weight by `1 - e` changes the squared norm of the gradient by `2 e S`."""
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Tanh(), nn.Linear(3, 1, bias=False)).double()
    inputs, targets = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)

    def squared_gradient() -> float:
        grads = torch.autograd.grad(mse(model(inputs), targets), list(model.parameters()))
        return float(sum(g.square().sum() for g in grads))

    product = GraSP().hessian_gradient(ModelOracle(model, mse), (inputs, targets)).values
    for name, weight in model.named_parameters():
        score = -weight.detach() * product[name]
        for index in range(weight.numel()):
            value, slope = float(weight.detach().view(-1)[index]), []
            for sign in (1, -1):
                with torch.no_grad():
                    weight.view(-1)[index] = value * (1 - sign * 1e-5)
                slope.append(squared_gradient())
                with torch.no_grad():
                    weight.view(-1)[index] = value
            assert (slope[0] - slope[1]) / 2e-5 == pytest.approx(2 * float(score.view(-1)[index]), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("make", [GraSP, ZOGraSP])
def test_an_unknown_rule_is_refused(make: type[GraSP] | type[ZOGraSP]) -> None:
    with pytest.raises(ConfigError, match="rule must be one of signed, magnitude, not 'absolute'"):
        make(rule="absolute")  # type: ignore[arg-type]
