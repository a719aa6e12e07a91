"""Objects of the user's have no truth value that we may ask for: a compiled network has no length, an empty one is false."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from problems import Burgers, burgers_oracle, conv_corrector, initial_states, mse
from torch import nn

import deepzero_sim as dz
from deepzero_sim.coupling.probes import SolverProbe


class Loud(nn.Module):
    """A network without a truth value, as one is that `torch.compile` made of a module without a length."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def __bool__(self) -> bool:
        raise TypeError("a network is neither true nor false")

    def forward(self, *inputs: Any) -> torch.Tensor:
        result: torch.Tensor = self.network(*inputs)
        return result


class Empty(Loud):
    """A network that is false, as an empty sequence is."""

    def __bool__(self) -> bool:
        return False


class LoudLoss(nn.Module):
    def __bool__(self) -> bool:
        raise TypeError("a loss is neither true nor false")

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return mse(outputs, targets)


class EmptyPool(ThreadPoolExecutor):
    """An executor that is false as long as it has nothing to do."""

    def __init__(self) -> None:
        super().__init__(1)
        self.taken = 0

    def __len__(self) -> int:
        return 0

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        self.taken += 1
        return super().submit(*args, **kwargs)


def compiled(network: nn.Module) -> Any:
    return torch.compile(network, backend="eager")


WRAPPERS = (Loud, Empty, pytest.param(compiled, marks=pytest.mark.slow))


@pytest.mark.parametrize("wrapped", WRAPPERS)
def test_correctors_are_queried_whatever_their_truth(wrapped: Callable[[nn.Module], nn.Module]) -> None:
    estimator = dz.CGE(step_size=1e-5, scheme="central")
    oracle, batch = burgers_oracle(corrector=(corrector := conv_corrector()))
    expected = estimator.estimate(oracle, batch).grads
    loop = dz.SolverLoop(Burgers(), wrapped(corrector), unroll=3)
    found = estimator.estimate(dz.LoopOracle(loop, LoudLoss()), batch).grads
    for grad, exact in zip(found.values(), expected.values(), strict=True):
        assert torch.allclose(grad, exact, rtol=1e-6, atol=1e-9)
    with torch.no_grad():
        rollouts = [
            dz.SolverLoop(Burgers(), one).rollout(initial_states(2), steps=2) for one in (wrapped(corrector), corrector)
        ]
    assert torch.allclose(*rollouts, rtol=1e-12)


@pytest.mark.parametrize("wrapped", WRAPPERS)
def test_networks_that_draw_are_told_so_whatever_their_truth(wrapped: Callable[[nn.Module], nn.Module]) -> None:
    network = wrapped(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1)))
    batch = torch.randn(5, 4), torch.randn(5, 1)
    with pytest.raises(dz.ConfigError, match="draws random numbers"):
        dz.CGE().estimate(dz.ModelOracle(network, mse), batch)


def test_an_empty_network_corrects_by_what_it_is_given() -> None:
    rollout = dz.SolverLoop(Burgers(), _Unary()).rollout(states := initial_states(2), steps=1)
    np.testing.assert_allclose(rollout[:, 0], 2 * Burgers().step(states), rtol=1e-12)


class _Unary(nn.Sequential):
    """An empty sequence, called as correctors are."""

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:  # type: ignore[override]
        return states


def test_an_executor_that_is_empty_is_used() -> None:
    with EmptyPool() as pool:
        SolverProbe(Burgers(), pool)(initial_states(2))
        assert pool.taken == 1
        oracle, batch = burgers_oracle(executor=pool)
        dz.CGE().estimate(oracle, batch)
        assert pool.taken > 1
