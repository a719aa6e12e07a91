"""A network is the same after queries as before, however its modules are shared and whatever it does to itself."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from problems import assert_untouched, snapshot
from torch import nn

import deepzero_sim as dz
from deepzero_sim.common.module_state import preserve_state
from deepzero_sim.common.randomness import new_generator
from deepzero_sim.oracle.parameters import trainable, unit_direction


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


class Forgetful(nn.Module):
    """A network that puts another buffer in place of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.seen + 1
        result: torch.Tensor = self.linear(x)
        return result


def test_everything_is_put_back_after_an_error_too() -> None:
    network = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), Forgetful()).float()
    before = snapshot(network)
    owned = [id(t) for t in (*network.parameters(), *network.buffers())]
    with pytest.raises(KeyboardInterrupt), preserve_state(network):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.1).add_(0.3)
        network(torch.randn(3, 1, 4))
        raise KeyboardInterrupt
    assert_untouched(network, before)
    assert [id(t) for t in (*network.parameters(), *network.buffers())] == owned


class Meddling(nn.Module):
    """Does something to its own buffers and parameters in every pass."""

    def __init__(self, meddle: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.meddle = nn.Linear(4, 3), meddle
        self.register_buffer("seen", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h: torch.Tensor = self.linear(x)
        self.meddle(self, h.detach())
        return h


MEDDLING: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "resize_": lambda m, h: m.seen.resize_(5),
    "unsqueeze_": lambda m, h: m.seen.unsqueeze_(0),
    "set_": lambda m, h: m.seen.set_(torch.zeros(3)),
    "data": lambda m, h: setattr(m.seen, "data", torch.zeros(7)),
    "data of a weight": lambda m, h: setattr(m.linear.weight, "data", m.linear.weight.data * 1.01),
    "double": lambda m, h: setattr(m, "seen", m.seen.double()),
    "another": lambda m, h: setattr(m, "seen", h.mean(0)),
    "none": lambda m, h: setattr(m, "seen", None),
    "gone": lambda m, h: delattr(m, "seen"),
    "new": lambda m, h: m.register_buffer("new", h),
    "new weight": lambda m, h: setattr(m.linear, "weight", nn.Parameter(m.linear.weight * 1.0)),
    "mode": lambda m, h: m.train(not m.training),
    "frozen": lambda m, h: m.linear.weight.requires_grad_(False),
    "count": lambda m, h: setattr(m, "count", getattr(m, "count", 0) + 1),
    "another module": lambda m, h: setattr(m, "linear", nn.Linear(4, 3)),
    "renorm_": lambda m, h: m.linear.weight.data.renorm_(2, 0, 0.3),
}


@pytest.mark.filterwarnings("ignore:.*whole")
@pytest.mark.filterwarnings("ignore:.*non-inference|.*resize")
@pytest.mark.parametrize("name", MEDDLING)
def test_whatever_a_network_does_to_itself_is_undone(name: str) -> None:
    network = Meddling(MEDDLING[name])
    before = snapshot(network)
    owned = [(key, id(x), x.requires_grad) for key, x in (*network.named_parameters(), *network.named_buffers())]
    attributes = dict(vars(network))
    with contextlib.suppress(dz.ConfigError):  # such as weights that are another object in every pass
        dz.CGE(1e-3).estimate(dz.ModelOracle(network, F.cross_entropy), (torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])))
    assert_untouched(network, before)
    assert [(key, id(x), x.requires_grad) for key, x in (*network.named_parameters(), *network.named_buffers())] == owned
    assert dict(vars(network)) == attributes


class StoredViews(nn.Module):
    """Uses parts of a parameter by views that were made once."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Parameter(torch.randn(8, 3))
        self.first, self.second = self.both.chunk(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.first + torch.tanh(x @ self.second)


class HeldElsewhere(nn.Module):
    """Uses a parameter by a list, which is no place that modules know of."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.held = [self.linear.weight]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(x)
        return result + torch.tanh(x @ self.held[0].T)


class Cached(nn.Module):
    """Computes something of a parameter the first time only."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.known = nn.Parameter(torch.randn(4, 3)), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.known is None:
            self.known = torch.tanh(self.weight)
        return x @ self.known


class Exchanging(nn.Module):
    """Exchanges its layers in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.a, self.b = self.b, self.a
        return self.last(torch.tanh(self.a(torch.relu(self.b(x)))))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """Keeps its parameters in a list, too, for a kernel that wants them in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.LSTM(4, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(x)[0])  # type: ignore[no-any-return]


class WritingThroughViews(nn.Module):
    """Writes into buffers and frozen weights by other names of them, and reads them then."""

    def __init__(self, write: Callable[[Any], Any]) -> None:
        super().__init__()
        self.linear, self.frozen, self.write = nn.Linear(4, 3), nn.Linear(4, 3).requires_grad_(False), write
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h: torch.Tensor = self.linear(x)
        self.write(self)
        return h * self.scale + self.frozen(x)  # type: ignore[no-any-return]


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is said to be old
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 3))


HARD: dict[str, Callable[[], nn.Module]] = {
    "stored views": StoredViews,
    "held elsewhere": HeldElsewhere,
    "cached": Cached,
    "exchanging": Exchanging,
    "recurrent": Recurrent,
    "old weight norm": old_weight_norm,
    "data": lambda: WritingThroughViews(lambda m: m.scale.data.fill_(3.0)),
    "part": lambda: WritingThroughViews(lambda m: m.scale[0:2].fill_(3.0)),
    "set data": lambda: WritingThroughViews(lambda m: setattr(m.scale, "data", torch.full((3,), 3.0, dtype=m.scale.dtype))),
    "frozen data": lambda: WritingThroughViews(lambda m: m.frozen.weight.data.clamp_(-0.1, 0.1)),
    "frozen part": lambda: WritingThroughViews(lambda m: m.frozen.weight[0].mul_(0)),
}


@pytest.mark.filterwarnings("ignore:.*whole")
@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("memory", [2**30, 1], ids=["recorded", "whole passes"])
@pytest.mark.parametrize("estimator", [dz.CGE(1e-5), dz.RGE(1e-5, 3)], ids=["CGE", "RGE"])
def test_hard_networks_are_followed(name: str, memory: int, estimator: dz.Estimator) -> None:
    torch.manual_seed(0)
    model = HARD[name]().double()
    if name == "stored views":  # double() moved the parameter away from them
        model.first, model.second = model.both.chunk(2)
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    oracle = dz.ModelOracle(model, F.mse_loss, memory=memory)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(2):
        found = estimator.estimate(oracle, (x, y)).grads
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        parameters = dict(model.named_parameters())
        with preserve_state(model):
            trained = [p for p in parameters.values() if p.requires_grad]
            exact = torch.autograd.grad(F.mse_loss(model(x), y), trained, retain_graph=True)
        expected = dict(zip(trainable(model), exact, strict=True))
        if isinstance(estimator, dz.RGE):
            expected = along_directions(expected, estimator)
        for key, gradient in expected.items():
            torch.testing.assert_close(found[key], gradient, rtol=1e-5, atol=1e-7)


def along_directions(gradient: dict[str, torch.Tensor], estimator: dz.RGE) -> dict[str, torch.Tensor]:
    """What random directions see of a gradient, those of seed 0."""
    seeds = torch.randint(2**62, (estimator.num_directions,), generator=new_generator(0)).tolist()
    size = sum(g.numel() for g in gradient.values())
    seen = {name: torch.zeros_like(g) for name, g in gradient.items()}
    for seed in seeds:
        direction = unit_direction(gradient, seed, None)
        slope = sum(float((gradient[name] * u).sum()) for name, u in direction.items())
        for name, u in direction.items():
            seen[name] += u * slope * size / len(seeds)
    return seen
