"""A network is the same after queries as before, however its modules are shared and whatever it does to itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

import deepzero_sim as dz
from deepzero_sim.module_state import called_with


class TwoNames(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = self.a
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.b(torch.tanh(self.a(x)))))


def twice() -> nn.Module:
    shared = nn.Linear(4, 4)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(4, 3))


def tied() -> nn.Module:
    """A module under two names, and its weight in a third."""
    model = TwoNames()
    model.more = nn.Linear(4, 4)
    model.more.weight = model.a.weight
    return nn.Sequential(model.more, model)


def shared_norm() -> nn.Module:
    norm = nn.BatchNorm1d(4)
    return nn.Sequential(nn.Linear(4, 4), norm, nn.Tanh(), nn.Linear(4, 4), norm, nn.Tanh(), nn.Linear(4, 3))


def shared_prelu() -> nn.Module:
    bend = nn.PReLU()
    return nn.Sequential(nn.Linear(4, 4), bend, nn.Linear(4, 4), bend, nn.Linear(4, 3))


@pytest.mark.filterwarnings("ignore:.*whole")
@pytest.mark.parametrize("make", [TwoNames, twice, tied, shared_norm, shared_prelu])
@pytest.mark.parametrize("memory", [2**30, 1], ids=["recorded", "whole passes"])
def test_modules_in_two_places(make: Callable[[], nn.Module], memory: int) -> None:
    torch.manual_seed(0)
    model = make().double()
    parameters, before = dict(model.named_parameters()), {k: v.clone() for k, v in model.state_dict().items()}
    batch = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    oracle = dz.ModelOracle(model, F.cross_entropy, memory=memory)
    first = dz.CGE(1e-6).estimate(oracle, batch)
    second = dz.CGE(1e-6).estimate(oracle, batch)
    expected = torch.autograd.grad(F.cross_entropy(model(batch[0]), batch[1]), list(parameters.values()))
    assert all(after is parameters[name] for name, after in model.named_parameters())
    model.load_state_dict({**model.state_dict(), **{k: v for k, v in before.items() if "running" in k or "num_" in k}})
    assert all(torch.equal(after, before[name]) for name, after in model.state_dict().items())
    assert first.grads.keys() == second.grads.keys() == parameters.keys()
    for name, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(first.grads[name], gradient, rtol=1e-5, atol=1e-7)
        assert torch.equal(first.grads[name], second.grads[name])


class Clamping(nn.Module):
    """Writes its own weights, where torch does not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.unused = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.layer.weight.data.clamp_(-0.2, 0.2)
        self.unused.data.mul_(0.9)
        return self.layer(x)


@pytest.mark.filterwarnings("ignore:.*whole")
def test_weights_that_a_network_writes_are_put_back() -> None:
    model = Clamping()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    dz.CGE(1e-3).estimate(dz.ModelOracle(model, F.cross_entropy), (torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])))
    assert all(torch.equal(after, before[name]) for name, after in model.state_dict().items())


def test_a_call_that_raises_puts_them_back() -> None:
    model = TwoNames()
    before = model.a.weight
    with pytest.raises(RuntimeError):
        called_with(model, {"a.weight": torch.zeros(4, 4)}, [torch.zeros(2, 5)])
    assert model.a.weight is before
